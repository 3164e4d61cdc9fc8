"""The names that dashboards for gRPC expect (`grpc_server_*`, `grpc_client_*`), read from what is counted anyway.

Why not count them on the path? They say the same as `sidecar_rpcs_total`, without our labels; so they are added up at a scrape.

The wire does not say of which type a method is. A method is `unary` until a call of it has more than one message in a
direction; then all its counts go on under its real type. Counters of a route that a reload removed stay.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sidecar.grpc_wire.status import code_label
from sidecar.policies.metrics import MethodCounts, RouteCounts, split_path
from sidecar.policies.metrics import Metrics as Counting
from sidecar.telemetry import names
from sidecar.telemetry.metrics import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sidecar.proxy.call import Call
    from sidecar.proxy.plan import Plan
    from sidecar.telemetry.metrics import Metrics, Sample

_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


class RpcSeries:
    """Registers the readers; `plans` are those in force, `calls` those that run."""

    def __init__(
        self, metrics: Metrics, plans: Callable[[], Iterable[Plan]], calls: Callable[[], Iterable[Call]]
    ) -> None:
        self._plans = plans
        self._calls = calls
        self._seen: dict[int, RouteCounts] = {}
        self._read(metrics, "inbound", names.GRPC_SERVER_STARTED, self._started)
        self._read(metrics, "outbound", names.GRPC_CLIENT_STARTED, self._started)
        self._read(metrics, "inbound", names.GRPC_SERVER_HANDLED, self._handled)
        self._read(metrics, "outbound", names.GRPC_CLIENT_HANDLED, self._handled)
        # What callers send is what a server receives, and what a client sends.
        self._read(metrics, "inbound", names.GRPC_SERVER_RECEIVED, self._requests)
        self._read(metrics, "outbound", names.GRPC_CLIENT_SENT, self._requests)
        self._read(metrics, "inbound", names.GRPC_SERVER_SENT, self._responses)
        self._read(metrics, "outbound", names.GRPC_CLIENT_RECEIVED, self._responses)
        metrics.read_histograms(names.GRPC_SERVER_SECONDS, lambda: self._seconds("inbound"))
        metrics.read_histograms(names.GRPC_CLIENT_SECONDS, lambda: self._seconds("outbound"))

    def _read(
        self, metrics: Metrics, direction: str, name: names.MetricName, reader: Callable[[str], list[Sample]]
    ) -> None:
        metrics.read(name, lambda: reader(direction))

    def _of(self, direction: str) -> Iterator[tuple[tuple[str, str, str], MethodCounts]]:
        """The counts of each method on each route, with the labels that they add up under."""
        for plan in self._plans():
            seen = _counts_of(plan)
            if seen is not None:
                self._seen[id(seen)] = seen
        all_methods = [
            (path, counts)
            for route in self._seen.values()
            if route.direction == direction
            for path, counts in route.methods.items()
        ]
        sends = {path for path, counts in all_methods if counts.client_streams}
        answers = {path for path, counts in all_methods if counts.server_streams}
        for path, counts in all_methods:
            yield (_TYPES[path in sends, path in answers], *split_path(path)), counts

    def _running(self, direction: str) -> Counter[int]:
        """How many calls run now that will be counted by a `MethodCounts`, by the id of that."""
        found: Counter[int] = Counter()
        for call in self._calls():
            route = _counts_of(call.plan)
            counts = route.methods.get(call.path) if route is not None and route.direction == direction else None
            if counts is not None:
                found[id(counts)] += 1
                counts.client_streams = counts.client_streams or call.request_messages > 1
                counts.server_streams = counts.server_streams or call.response_messages > 1
        return found

    def _started(self, direction: str) -> list[Sample]:
        running = self._running(direction)
        return [
            (labels, sum(counts.by_outcome().values()) + running[id(counts)]) for labels, counts in self._of(direction)
        ]

    def _handled(self, direction: str) -> list[Sample]:
        return [
            ((*labels, code_label(code)), count)
            for labels, counts in self._of(direction)
            for (code, _, _), count in counts.by_outcome().items()
        ]

    def _requests(self, direction: str) -> list[Sample]:
        return [(labels, counts.messages_in) for labels, counts in self._of(direction)]

    def _responses(self, direction: str) -> list[Sample]:
        return [(labels, counts.messages_out) for labels, counts in self._of(direction)]

    def _seconds(self, direction: str) -> dict[tuple[str, ...], Histogram]:
        found: dict[tuple[str, ...], Histogram] = {}
        for labels, counts in self._of(direction):
            if labels not in found:
                found[labels] = Histogram(counts.seconds.bounds)
            found[labels].add(counts.seconds)
        return found


def _counts_of(plan: Plan) -> RouteCounts | None:
    return next((policy.counts for policy in plan.policies if isinstance(policy, Counting)), None)
