"""Spans to a collector by OTLP/gRPC, through the OpenTelemetry SDK (extra `otel`). Imported only where tracing is configured.

The data path appends to a bounded queue and goes on. A thread of the SDK's translates, sends, and tries again; a collector
that does not answer costs spans, which are counted, and nothing else.
"""

from __future__ import annotations

import functools
import logging
import threading
from typing import TYPE_CHECKING, cast

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, TraceFlags

from sidecar import __version__
from sidecar.telemetry import spans as conventions
from sidecar.telemetry.masking import mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from sidecar.telemetry.spans import Span, Value

_SCOPE = InstrumentationScope(name="sidecar", version=__version__)
_KINDS = {"server": SpanMessage.SPAN_KIND_SERVER, "client": SpanMessage.SPAN_KIND_CLIENT}
_UNIQUE = frozenset({conventions.REQUEST_ID, conventions.CLIENT_PORT})
# opentelemetry-proto, SpanFlags: the lowest byte is W3C's; the others say whether the parent is known to be remote.
_SAMPLED, _KNOWS_PARENT, _REMOTE_PARENT = 0x01, 0x100, 0x200
_BATCH = 512
_DELAY_MS = 1000
_TIMEOUT = 5
"""Seconds for one batch, repetitions included."""
_CLOSING = 3.0
"""Seconds that the end of the process waits for the last spans."""


class _Otlp(OTLPSpanExporter):
    """The SDK's exporter, which is given our own spans: its encoder takes ten times as long, and a batch holds up calls."""

    def __init__(self, url: str, service: str) -> None:
        super().__init__(
            endpoint=url,
            insecure=url.startswith("http://"),
            timeout=_TIMEOUT,
            # The proxy that a shell is set to use knows nothing of what is beside us.
            channel_options=(("grpc.enable_http_proxy", 0),),  # type: ignore[arg-type]
        )
        self._node = ResourceMessage(attributes=[_attribute("service.name", service)])

    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        return request_of(cast("Sequence[Span]", data), self._node)


class _Waiting:
    """A span in the SDK's queue, as little of one as its processor looks at."""

    __slots__ = ("span",)
    context = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    def __init__(self, span: Span) -> None:
        self.span = span


class _Exporter(SpanExporter):
    """Counts, in the SDK's thread, what becomes of the spans."""

    def __init__(self, inner: SpanExporter, log: logging.Logger) -> None:
        self._inner = inner
        self._log = log
        self._is_failing = False
        self.taken = 0
        self.exported = 0
        self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        waiting = cast("Sequence[_Waiting]", spans)
        self.taken += len(waiting)
        try:
            result = self._inner.export(cast("Sequence[ReadableSpan]", [each.span for each in waiting]))
            cause = "the collector gives no answer, or refuses"
        except Exception as error:  # whatever it is, the thread goes on
            result = SpanExportResult.FAILURE
            cause = type(error).__name__
        if result is SpanExportResult.SUCCESS:
            self.exported += len(waiting)
            if self._is_failing:
                self._log.info("spans are exported again")
        else:
            self.failed += len(waiting)
            if not self._is_failing:
                self._log.warning("spans are not exported", extra={"cause": cause})
        self._is_failing = result is not SpanExportResult.SUCCESS
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()


class Exporter:
    """One collector, for the life of the process."""

    def __init__(
        self, url: str, *, service: str, queue: int, log: logging.Logger, inner: SpanExporter | None = None
    ) -> None:
        """`url`: http://host:port or https://…; `queue`: spans that may wait; `inner`: in place of OTLP."""
        # The SDK says the same with each batch; we say it once, in our own log.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._limit = queue
        self._accepted = 0
        self.dropped = 0
        self._exporter = _Exporter(inner or _Otlp(url, service), log)
        # One more than the limit: the SDK's own queue is never the one that is full.
        batch = min(_BATCH, queue)
        self._processor = BatchSpanProcessor(
            self._exporter, max_queue_size=queue + 1, max_export_batch_size=batch, schedule_delay_millis=_DELAY_MS
        )

    def add(self, span: Span) -> None:
        """Called on the data path: never waits."""
        if self._accepted - self._exporter.taken >= self._limit:
            self.dropped += 1
            return
        self._accepted += 1
        self._processor.on_end(cast("ReadableSpan", _Waiting(span)))

    def counts(self) -> dict[str, int]:
        """Spans by what became of them."""
        return {"exported": self._exporter.exported, "failed": self._exporter.failed, "dropped": self.dropped}

    def close(self) -> None:
        """Send what waits, for as long as that may take at the end of a process. Blocks."""
        ending = threading.Thread(target=self._processor.shutdown, name="spans end", daemon=True)
        ending.start()
        ending.join(_CLOSING)


def request_of(waiting: Sequence[Span], resource: ResourceMessage) -> ExportTraceServiceRequest:
    """`waiting` as they go over the wire. Texts that look like secrets are masked, as everywhere."""
    scope = ScopeSpans(scope=_SCOPE, spans=[_message_of(each) for each in waiting])
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=resource, scope_spans=[scope])])


def _message_of(span: Span) -> SpanMessage:
    message = SpanMessage(
        trace_id=bytes.fromhex(span.trace_id.decode()),
        span_id=bytes.fromhex(span.span_id.decode()),
        trace_state=span.tracestate.decode("ascii", "replace"),
        name=_masked(span.name),
        kind=_KINDS[span.kind],
        start_time_unix_nano=int(span.started * 1e9),
        end_time_unix_nano=int(span.ended * 1e9),
        attributes=[
            # Ids differ each time: not remembered.
            _attribute(name, value) if name not in _UNIQUE else _attribute.__wrapped__(name, value)
            for name, value in span.attributes.items()
        ],
        flags=_SAMPLED | _KNOWS_PARENT | (_REMOTE_PARENT if span.has_remote_parent and span.parent_id else 0),
    )
    if span.parent_id is not None:
        message.parent_span_id = bytes.fromhex(span.parent_id.decode())
    if span.is_error:
        message.status.code = Status.STATUS_CODE_ERROR
        message.status.message = _masked(span.message)
    return message


# Methods, callers, routes and endpoints repeat.
@functools.lru_cache(maxsize=2048)
def _masked(text: str) -> str:
    return mask(text)


@functools.lru_cache(maxsize=4096, typed=True)
def _attribute(name: str, value: Value) -> KeyValue:
    if isinstance(value, str):
        return KeyValue(key=name, value=AnyValue(string_value=mask(value)))
    if isinstance(value, bool):
        return KeyValue(key=name, value=AnyValue(bool_value=value))
    return KeyValue(key=name, value=AnyValue(int_value=value))
