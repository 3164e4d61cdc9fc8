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
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from sidecar import __version__
from sidecar.telemetry.masking import mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.telemetry.spans import Span

_SCOPE = InstrumentationScope("sidecar", __version__)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT}
_BATCH = 512
_DELAY_MS = 1000
_TIMEOUT = 5
"""Seconds for one batch, repetitions included."""
_CLOSING = 3.0
"""Seconds that the end of the process waits for the last spans."""


class _Waiting:
    """A span in the SDK's queue, as little of one as its processor looks at."""

    __slots__ = ("span",)
    context = SpanContext(1, 1, is_remote=False, trace_flags=_SAMPLED)

    def __init__(self, span: Span) -> None:
        self.span = span


class _Exporter(SpanExporter):
    """Translates in the SDK's thread, and counts what becomes of it."""

    def __init__(self, inner: SpanExporter, service: str, log: logging.Logger) -> None:
        self._inner = inner
        self._resource = Resource({"service.name": service, "telemetry.sdk.language": "python"})
        self._log = log
        self._is_failing = False
        self.taken = 0
        self.exported = 0
        self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        waiting = cast("Sequence[_Waiting]", spans)
        self.taken += len(waiting)
        try:
            result = self._inner.export([translated(each.span, self._resource) for each in waiting])
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
        if inner is None:
            # The proxy that a shell is set to use knows nothing of what is beside us.
            inner = OTLPSpanExporter(
                endpoint=url,
                insecure=url.startswith("http://"),
                timeout=_TIMEOUT,
                channel_options=(("grpc.enable_http_proxy", 0),),  # type: ignore[arg-type]
            )
        self._exporter = _Exporter(inner, service, log)
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


def translated(span: Span, resource: Resource) -> ReadableSpan:
    """`span` as the SDK has them. Texts that look like secrets are masked, as everywhere."""
    state = _tracestate(span.tracestate)
    trace_id = int(span.trace_id, 16)
    parent = None
    if span.parent_id is not None:
        parent = SpanContext(
            trace_id,
            int(span.parent_id, 16),
            is_remote=span.has_remote_parent,
            trace_flags=_SAMPLED,
            trace_state=state,
        )
    status = Status(StatusCode.ERROR, mask(span.message)) if span.is_error else Status(StatusCode.UNSET)
    return ReadableSpan(
        name=span.name,
        context=SpanContext(trace_id, int(span.span_id, 16), is_remote=False, trace_flags=_SAMPLED, trace_state=state),
        parent=parent,
        resource=resource,
        attributes={name: mask(each) if isinstance(each, str) else each for name, each in span.attributes.items()},
        kind=_KINDS[span.kind],
        status=status,
        start_time=int(span.started * 1e9),
        end_time=int(span.ended * 1e9),
        instrumentation_scope=_SCOPE,
    )


@functools.lru_cache(maxsize=256)
def _tracestate(value: bytes) -> TraceState | None:
    return TraceState.from_header([value.decode("ascii", "replace")]) if value else None
