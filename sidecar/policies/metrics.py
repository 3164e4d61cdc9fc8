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
_OTHER = "_OTHER"


class NoConfig(Model):
    """Nothing to configure."""


class MethodCounts:
    """The numbers of one method on one route."""

    __slots__ = ("bytes_in", "bytes_out", "ended", "messages_in", "messages_out", "ok", "seconds")

    def __init__(self, seconds: Histogram) -> None:
        self.ended: dict[tuple[StatusCode, Origin, Reason | None], int] = {}
        self.ok = 0
        self.seconds = seconds
        self.bytes_in = 0
        self.bytes_out = 0
        self.messages_in = 0
        self.messages_out = 0

    def by_outcome(self) -> dict[tuple[StatusCode, Origin, Reason | None], int]:
        """How many RPCs ended in each way."""
        found = dict(self.ended)
        if self.ok:
            key = (StatusCode.OK, Origin.AGENT, None)
            found[key] = found.get(key, 0) + self.ok
        return found


class RouteCounts:
    """All methods of one route; kept over reloads, so that counters never fall."""

    def __init__(self) -> None:
        self.methods: dict[str, MethodCounts] = {}


class Metrics(Policy[NoConfig]):
    """An observer: it defines `on_end` alone."""

    name = "metrics"
    config_model = NoConfig
    always_on = True

    def __init__(self, config: NoConfig, runtime: Runtime) -> None:
        self._runtime = runtime
        self._labels = (runtime.listener, runtime.direction, runtime.route)
        self._counts = runtime.keep(("metrics", *self._labels), RouteCounts)
        self._methods = self._counts.methods
        key = self._labels
        metrics = runtime.metrics
        metrics.read(names.RPCS, self._ended, key)
        metrics.read(names.BYTES_RECEIVED, lambda: self._each("bytes_in"), key)
        metrics.read(names.BYTES_SENT, lambda: self._each("bytes_out"), key)
        metrics.read(names.MESSAGES_RECEIVED, lambda: self._each("messages_in"), key)
        metrics.read(names.MESSAGES_SENT, lambda: self._each("messages_out"), key)

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
        counts.seconds.observe(call.connection.now - call.started)
        counts.bytes_in += call.bytes_in
        counts.bytes_out += call.bytes_out
        counts.messages_in += call.request_messages
        counts.messages_out += call.response_messages

    def _find(self, path: str, outcome: Outcome, *, is_known: bool) -> MethodCounts:
        answered = outcome.origin is Origin.AGENT and outcome.code is not StatusCode.UNIMPLEMENTED
        if not (is_known or answered) or len(self._methods) >= _METHODS_LABELLED:
            path = _OTHER
        counts = self._methods.get(path)
        if counts is None:
            service, method = _split(path)
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
                (*self._labels, *_split(path), code_label(code), origin.value, reason.name if reason else ""),
                count,
            )
            for path, counts in self._methods.items()
            for (code, origin, reason), count in counts.by_outcome().items()
        ]

    def _each(self, attribute: str) -> list[tuple[tuple[str, ...], float]]:
        return [((*self._labels, *_split(path)), getattr(counts, attribute)) for path, counts in self._methods.items()]


def _split(path: str) -> tuple[str, str]:
    if path == _OTHER:
        return _OTHER, _OTHER
    service, _, method = path[1:].partition("/")
    return service, method
