"""Tracing: of a sampled RPC a SERVER span, and a CLIENT span for each attempt, which is what the agent's spans hang from.

An RPC that is not sampled pays a look at its `traceparent`, which goes on as it came, with `tracestate`; where tracing is not
configured, nobody looks.
"""

from __future__ import annotations

import importlib.util
import threading
from collections import deque
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from sidecar.config.model import Model
from sidecar.config.units import Percent
from sidecar.proxy.policy import Policy
from sidecar.telemetry import names, spans
from sidecar.telemetry.spans import Span
from sidecar.telemetry.trace_context import (
    TRACEPARENT,
    TRACESTATE,
    TraceContext,
    is_in_share,
    parse_traceparent,
    sampled_traceparent,
)

if TYPE_CHECKING:
    from sidecar.proxy.attempt import Attempt
    from sidecar.proxy.call import Call
    from sidecar.proxy.plan import Cluster
    from sidecar.proxy.policy import Outcome
    from sidecar.runtime import Runtime
    from sidecar.telemetry.otlp import Exporter

_OPENING = 5.0
"""Seconds that the end of the process waits for the SDK to be loaded."""
NOTE = "tracing"
"""Under which a sampled call has its `CallTrace` in `call.notes`."""


def _collector(text: str) -> str:
    try:
        parts = urlsplit(text)
        has_port = parts.port is not None
    except ValueError:
        has_port = False
    if not has_port or parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"}:
        raise ValueError("is no address of a collector; write http://host:4317, or https:// with TLS")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a password; a collector is not given one in its address")
    return text


class TracingConfig(Model):
    """Spans of sampled RPCs, sent to a collector by OTLP/gRPC."""

    otlp: Annotated[str, AfterValidator(_collector)] = Field(
        description="the collector's OTLP/gRPC address", examples=["http://127.0.0.1:4317"]
    )
    sample: Percent = Field(default=1, description="percent of the RPCs that begin a trace here")
    parent_based: bool = Field(
        default=True, description="an RPC that comes with a trace is sampled as its caller decided; false: as we do"
    )
    service: str | None = Field(
        default=None, min_length=1, max_length=255, description="service.name of our spans; default: node.name"
    )
    queue: int = Field(default=4096, ge=1, le=1_000_000, description="spans not yet sent; more are dropped and counted")


class CallTrace:
    """The spans of one sampled call."""

    __slots__ = ("attempts", "offset", "server", "trace_id")

    def __init__(self, server: Span, offset: float) -> None:
        """`offset`: seconds since the epoch at monotonic 0. One for the whole trace: the wall clock may jump meanwhile."""
        self.server = server
        self.offset = offset
        self.trace_id = server.trace_id
        self.attempts: dict[Attempt, Span] = {}


class Collector:
    """Where the spans of a process go; kept over reloads. Until `open`, they go nowhere: `sidecar validate` connects to nobody."""

    def __init__(self) -> None:
        self.exporter: Exporter | None = None
        # Spans that ended before there was an exporter.
        self._early: deque[Span] = deque()
        self._opening: threading.Thread | None = None
        self._limit = 0
        self._dropped = 0

    def open(self, config: TracingConfig, runtime: Runtime) -> None:
        """Load the SDK, once, in a thread: it takes some tenths of a second, for which no call should have to wait."""
        if self._opening is None:
            self._limit = config.queue
            self._opening = threading.Thread(target=self._open, args=(config, runtime), name="tracing", daemon=True)
            self._opening.start()
            runtime.closers.append(self.close)

    def _open(self, config: TracingConfig, runtime: Runtime) -> None:
        try:
            from sidecar.telemetry.otlp import Exporter

            service = config.service or runtime.node or "sidecar"
            self.exporter = Exporter(config.otlp, service=service, queue=config.queue, log=runtime.log)
        except Exception as error:  # an SDK that cannot be used must not end the thread in silence
            runtime.defect("tracing", error)

    def add(self, span: Span) -> None:
        """Called on the data path: never waits."""
        if self.exporter is not None:
            if self._early:
                self._hand_over(self.exporter)
            self.exporter.add(span)
        elif len(self._early) < self._limit:
            self._early.append(span)
        else:
            self._dropped += 1

    def _hand_over(self, exporter: Exporter) -> None:
        while self._early:
            exporter.add(self._early.popleft())

    def counts(self) -> list[tuple[tuple[str, ...], float]]:
        if self.exporter is None:
            return [(("dropped",), self._dropped)]
        counts = self.exporter.counts()
        counts["dropped"] += self._dropped
        return [((result,), number) for result, number in counts.items()]

    def close(self) -> None:
        """The last spans go out. Blocks, for some seconds at most."""
        if self._opening is not None:
            self._opening.join(_OPENING)
        if self.exporter is not None:
            self._hand_over(self.exporter)
            self.exporter.close()


class Tracing(Policy[TracingConfig]):
    """Decides at the first look at a call, and closes its spans at the end."""

    name = "tracing"
    config_model = TracingConfig
    observes = True

    def __init__(self, config: TracingConfig, runtime: Runtime) -> None:
        if importlib.util.find_spec("opentelemetry") is None or not _has_exporter():
            raise ValueError("tracing needs the OpenTelemetry SDK: pip install 'grpc-sidecar[otel]'")
        self._config = config
        self._runtime = runtime
        self._share = config.sample / 100
        self._below = self._share * 2**64
        self._parent_based = config.parent_based
        self._random = runtime.random
        self._draw = runtime.random.random
        self._clock = runtime.clock
        key = ("tracing", config.otlp, config.service, config.queue)
        self.collector = runtime.keep(key, Collector)
        runtime.metrics.read(names.SPANS, self.collector.counts, key)

    def begin(self, cluster: Cluster | None) -> None:
        self.collector.open(self._config, self._runtime)

    def on_request(self, call: Call) -> None:
        given = call.headers.get(TRACEPARENT)
        if given is None:
            # The deliberate fast path: nobody traces it, and neither do we.
            if self._draw() >= self._share:
                return
        elif self._parent_based:
            if given.endswith(b"-00"):
                return
        elif _is_out_of_share(given, self._below):
            return
        self._look(call, given)

    def _look(self, call: Call, given: bytes | None) -> CallTrace | None:
        """Begin the spans of `call` if it is to be sampled."""
        parent = parse_traceparent(given) if given is not None else None
        if parent is None:
            # Without a parent it has been drawn already; with one that nobody understands, not yet (W3C §4.3: begin anew).
            if given is not None and self._draw() >= self._share:
                return None
            parent = TraceContext(b"%032x" % (self._random.getrandbits(128) or 1), b"", is_sampled=True)
            tracestate = b""
        elif not (parent.is_sampled if self._parent_based else is_in_share(parent.trace_id, self._share)):
            return None
        else:
            tracestate = b",".join(call.metadata_values(TRACESTATE))
        offset = self._clock.wall() - self._clock.monotonic()
        server = Span(
            "server",
            call.path,
            trace_id=parent.trace_id,
            span_id=self._new_id(),
            parent_id=parent.span_id or None,
            tracestate=tracestate,
            started=offset + call.started,
        )
        trace = CallTrace(server, offset)
        call.note(NOTE, trace)
        return trace

    def on_attempt_start(self, call: Call, attempt: Attempt, now: float) -> None:
        notes = call.notes
        if notes is None or NOTE not in notes:
            return
        trace: CallTrace = notes[NOTE]
        server = trace.server
        span = Span(
            "client",
            call.path,
            trace_id=trace.trace_id,
            span_id=self._new_id(),
            parent_id=server.span_id,
            tracestate=server.tracestate,
            started=trace.offset + now,
        )
        cluster = call.plan.cluster
        span.address(spans.SERVER_ADDRESS, spans.SERVER_PORT, attempt.endpoint.address)
        span.tell({spans.ATTEMPT: attempt.number, spans.CLUSTER: cluster.name if cluster is not None else None})
        trace.attempts[attempt] = span
        call.set_metadata(TRACEPARENT, sampled_traceparent(trace.trace_id, span.span_id))
        if not server.tracestate:
            # It belongs to the trace that came before, if there was one.
            call.remove_metadata(TRACESTATE)

    def on_attempt_over(self, call: Call, attempt: Attempt, outcome: Outcome) -> None:
        notes = call.notes
        if notes is None or NOTE not in notes:
            return
        trace: CallTrace = notes[NOTE]
        span = trace.attempts.pop(attempt, None)
        if span is not None:
            self._send(span, trace, outcome)

    def on_end(self, call: Call, outcome: Outcome) -> None:
        notes = call.notes
        trace: CallTrace | None
        if notes is not None and NOTE in notes:
            trace = notes[NOTE]
        elif call.entered:
            # It was looked at, and not sampled.
            return
        else:
            # It was refused before any policy was asked.
            given = call.headers.get(TRACEPARENT)
            trace = self._look(call, given) if given is not None or self._draw() < self._share else None
        if trace is None:
            return
        permit = call.notes.get("authz") if call.notes is not None else None
        server = trace.server
        server.address(spans.CLIENT_ADDRESS, spans.CLIENT_PORT, call.peer.address)
        server.tell(
            {
                spans.LISTENER: self._runtime.listener,
                spans.ROUTE: self._runtime.route,
                spans.REQUEST_ID: call.request_id_text,
                spans.IDENTITY: call.identity,
                spans.ORIGIN: outcome.origin.value,
                spans.REASON: outcome.reason.name if outcome.reason is not None else None,
                spans.DECISION: str(permit.decision) if permit is not None else None,
                spans.RULE: str(permit.rule) if permit is not None else None,
                spans.ATTEMPTS: call.attempts,
            }
        )
        for span in trace.attempts.values():
            self._send(span, trace, outcome)
        trace.attempts.clear()
        self._send(server, trace, outcome)

    def _send(self, span: Span, trace: CallTrace, outcome: Outcome) -> None:
        span.end(trace.offset + self._clock.monotonic(), outcome.code, outcome.message)
        self.collector.add(span)

    def _new_id(self) -> bytes:
        return b"%016x" % (self._random.getrandbits(64) or 1)


def _is_out_of_share(given: bytes, below: float) -> bool:
    """A quick look at the trace id of a `traceparent` (W3C §3.2.2.3); False = look closer."""
    try:
        return int(given[19:35], 16) >= below
    except ValueError:
        return False


def _has_exporter() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.grpc.trace_exporter") is not None
    except ModuleNotFoundError:
        return False
