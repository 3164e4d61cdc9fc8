"""Counts every RPC once, at its end: by code, with its duration, bytes and messages. Always on.

Method labels are bounded: a method has its name if a route names it, or once the agent has answered it with anything but
UNIMPLEMENTED; every other one is `_OTHER`, so that a hostile caller mints no series.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.config.model import Model
from sidecar.grpc_wire.status import StatusCode, code_label
from sidecar.proxy.attempt import OK_BY_AGENT
from sidecar.proxy.policy import Origin, Policy
from sidecar.telemetry import names
from sidecar.telemetry.metrics import Histogram

if TYPE_CHECKING:
    from sidecar.proxy.call import Call
    from sidecar.proxy.policy import Outcome
    from sidecar.proxy.rejection import Reason
    from sidecar.runtime import Runtime

_METHODS_LABELLED = 500
OTHER = "_OTHER"


class NoConfig(Model):
    """Nothing to configure."""


class MethodCounts:
    """The numbers of one method on one route."""

    __slots__ = (
        "attempts",
        "bytes_in",
        "bytes_out",
        "client_streams",
        "ended",
        "messages_in",
        "messages_out",
        "ok",
        "seconds",
        "server_streams",
    )

    def __init__(self, seconds: Histogram) -> None:
        self.ended: dict[tuple[StatusCode, Origin, Reason | None], int] = {}
        self.ok = 0
        self.seconds = seconds
        self.bytes_in = 0
        self.bytes_out = 0
        self.messages_in = 0
        self.messages_out = 0
        self.attempts = 0
        # Has a call of it had more than one message of the caller, or of the agent?
        self.client_streams = False
        self.server_streams = False

    def by_outcome(self) -> dict[tuple[StatusCode, Origin, Reason | None], int]:
        """How many RPCs ended in each way."""
        found = dict(self.ended)
        if self.ok:
            key = (StatusCode.OK, Origin.AGENT, None)
            found[key] = found.get(key, 0) + self.ok
        return found


class RouteCounts:
    """All methods of one route; kept over reloads, so that counters never fall."""

    def __init__(self, direction: str) -> None:
        self.direction = direction
        self.methods: dict[str, MethodCounts] = {}


class Metrics(Policy[NoConfig]):
    """An observer: it defines `on_end` alone."""

    name = "metrics"
    config_model = NoConfig
    always_on = True

    def __init__(self, config: NoConfig, runtime: Runtime) -> None:
        self._runtime = runtime
        self._labels = (runtime.listener, runtime.direction, runtime.route)
        self.counts = runtime.keep(("metrics", *self._labels), lambda: RouteCounts(runtime.direction))
        self._methods = self.counts.methods
        key = self._labels
        metrics = runtime.metrics
        metrics.read(names.RPCS, self._ended, key)
        metrics.read(names.BYTES_RECEIVED, lambda: self._each("bytes_in"), key)
        metrics.read(names.BYTES_SENT, lambda: self._each("bytes_out"), key)
        metrics.read(names.MESSAGES_RECEIVED, lambda: self._each("messages_in"), key)
        metrics.read(names.MESSAGES_SENT, lambda: self._each("messages_out"), key)
        metrics.read(names.ATTEMPTS, lambda: self._each("attempts"), key)

    def on_end(self, call: Call, outcome: Outcome) -> None:
        counts = self._methods.get(call.path)
        if counts is None:
            counts = self._find(call.path, outcome, is_known=call.is_known_method)
        # Nearly every RPC ends with the one shared outcome; enums hash slowly.
        if outcome is OK_BY_AGENT:
            counts.ok += 1
        else:
            key = (outcome.code, outcome.origin, outcome.reason)
            counts.ended[key] = counts.ended.get(key, 0) + 1
        seconds = call.connection.now - call.started
        counts.seconds.observe(seconds)
        if call.notes is not None and "tracing" in call.notes:
            counts.seconds.exemplify(seconds, call.notes["tracing"].trace_id, self._runtime.clock.wall())
        counts.attempts += call.attempts
        counts.bytes_in += call.bytes_in
        counts.bytes_out += call.bytes_out
        messages = call.request_messages
        counts.messages_in += messages
        if messages > 1:
            counts.client_streams = True
        messages = call.response_messages
        counts.messages_out += messages
        if messages > 1:
            counts.server_streams = True

    def _find(self, path: str, outcome: Outcome, *, is_known: bool) -> MethodCounts:
        answered = outcome.origin is Origin.AGENT and outcome.code is not StatusCode.UNIMPLEMENTED
        if not (is_known or answered) or len(self._methods) >= _METHODS_LABELLED:
            path = OTHER
        counts = self._methods.get(path)
        if counts is None:
            service, method = split_path(path)
            listener, direction, route = self._labels
            seconds = self._runtime.metrics.histogram(
                names.RPC_SECONDS,
                names.RPC_BUCKETS,
                listener=listener,
                direction=direction,
                route=route,
                grpc_service=service,
                grpc_method=method,
            )
            counts = self._methods[path] = MethodCounts(seconds)
        return counts

    def _ended(self) -> list[tuple[tuple[str, ...], float]]:
        return [
            (
                (*self._labels, *split_path(path), code_label(code), origin.value, reason.name if reason else ""),
                count,
            )
            for path, counts in self._methods.items()
            for (code, origin, reason), count in counts.by_outcome().items()
        ]

    def _each(self, attribute: str) -> list[tuple[tuple[str, ...], float]]:
        return [
            ((*self._labels, *split_path(path)), getattr(counts, attribute)) for path, counts in self._methods.items()
        ]


def split_path(path: str) -> tuple[str, str]:
    """(service, method), as labels have them."""
    if path == OTHER:
        return OTHER, OTHER
    service, _, method = path[1:].partition("/")
    return service, method
