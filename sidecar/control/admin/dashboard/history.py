"""What the last fifteen minutes were like: a ring of samples, read from the counters every few seconds.

Why not from /metrics? Whoever is on call may have no Prometheus at hand; what is shown here needs nothing but the sidecar.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from sidecar.alerts.machine import cpu_seconds
from sidecar.alerts.measures import is_failure, quantile
from sidecar.control.memory import resident_bytes
from sidecar.control.process import State
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sidecar.control.process import Process

INTERVAL = 3.0
"""Seconds between samples."""
KEPT = 300
"""Samples: fifteen minutes."""
_WINDOW = 5
"""Samples over which "now" is averaged."""
_SPARKS = 64
"""Routes that get a curve of their own."""


class Point(NamedTuple):
    """One sample of the whole process. Rates per second; latencies in seconds, None where no RPC ended; cpu in cores."""

    at: float
    rate: float
    failed: float
    refused: float
    p50: float | None
    p99: float | None
    active: int
    cpu: float
    memory: int


@dataclass(slots=True)
class Figures:
    """How something fared over the last samples. Rates per second; `success` 0 to 1, None where nothing ended."""

    rate: float = 0.0
    failed: float = 0.0
    refused: float = 0.0
    success: float | None = None
    p50: float | None = None
    p99: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        return {
            "rpcs_per_second": round(self.rate, 3),
            "failed_per_second": round(self.failed, 3),
            "refused_per_second": round(self.refused, 3),
            "success": None if self.success is None else round(self.success, 6),
            "p50_seconds": None if self.p50 is None else round(self.p50, 6),
            "p99_seconds": None if self.p99 is None else round(self.p99, 6),
        }


@dataclass(slots=True)
class Totals:
    """Counts since the start. `refused`: by us, for what the caller did or may not do; `failed`: a server's fault, ours included."""

    ended: float = 0.0
    failed: float = 0.0
    refused: float = 0.0
    buckets: list[int] = field(default_factory=list)


class Reading(NamedTuple):
    """All counts of one moment (monotonic seconds)."""

    at: float
    cpu: float
    routes: dict[tuple[str, str], Totals]
    endpoints: dict[tuple[str, str], Totals]
    limits: dict[tuple[str, str], float]


class History:
    """Samples of one process, taken on its data loop from `start` until the process stops."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._readings: deque[Reading] = deque(maxlen=_WINDOW + 1)
        self.points: deque[Point] = deque(maxlen=KEPT)
        self.sparks: dict[tuple[str, str], deque[float]] = {}
        self.samples = 0
        """Grows by one with each sample: has anything changed?"""

    def start(self) -> None:
        """Call it on the data loop."""
        self._readings.append(self._read())
        self._process.runtime.clock.call_later(INTERVAL, self._sample)

    def _sample(self) -> None:
        if self._process.state is State.STOPPED:
            return
        before, now = self._readings[-1], self._read()
        self._readings.append(now)
        seconds = max(now.at - before.at, 1e-9)
        whole = difference(before.routes.values(), now.routes.values(), seconds)
        self.points.append(
            Point(
                at=self._process.runtime.clock.wall(),
                rate=whole.rate,
                failed=whole.failed,
                refused=whole.refused,
                p50=whole.p50,
                p99=whole.p99,
                active=self._process.active_calls,
                cpu=(now.cpu - before.cpu) / seconds,
                memory=resident_bytes(),
            )
        )
        for key, totals in now.routes.items():
            if key not in self.sparks and len(self.sparks) >= _SPARKS:
                continue
            former = before.routes.get(key)
            ended = totals.ended - (former.ended if former is not None else 0.0)
            self.sparks.setdefault(key, deque(maxlen=KEPT)).append(max(0.0, ended) / seconds)
        self.samples += 1
        self._process.runtime.clock.call_later(INTERVAL, self._sample)

    # ── how it fares now ──

    @property
    def seconds(self) -> float:
        """The length of "now"."""
        return self._readings[-1].at - self._readings[0].at if self._readings else 0.0

    def whole(self) -> Figures:
        return self._between(lambda reading: reading.routes.values())

    def listener(self, name: str) -> Figures:
        return self._between(lambda reading: [each for key, each in reading.routes.items() if key[0] == name])

    def route(self, listener: str, route: str) -> Figures:
        return self._between(lambda reading: _one(reading.routes, (listener, route)))

    def endpoint(self, cluster: str, address: str) -> Figures:
        return self._between(lambda reading: _one(reading.endpoints, (cluster, address)))

    def cluster(self, name: str) -> Figures:
        return self._between(lambda reading: [each for key, each in reading.endpoints.items() if key[0] == name])

    def limits(self, listener: str) -> list[tuple[str, float, float]]:
        """(limit, hits per second now, hits in all) of a listener, for limits that were ever hit."""
        if not self._readings:
            return []
        first, last = self._readings[0], self._readings[-1]
        seconds = max(last.at - first.at, 1e-9)
        return [
            (key[1], max(0.0, count - first.limits.get(key, 0.0)) / seconds, count)
            for key, count in last.limits.items()
            if key[0] == listener and count
        ]

    def _between(self, select: _Select) -> Figures:
        if len(self._readings) < 2:
            return Figures()
        first, last = self._readings[0], self._readings[-1]
        return difference(select(first), select(last), max(last.at - first.at, 1e-9))

    # ── reading ──

    def _read(self) -> Reading:
        process = self._process
        metrics = process.runtime.metrics
        routes: dict[tuple[str, str], Totals] = {}
        for labels, count in metrics.samples(names.RPCS).items():
            listener, _, route, _, _, code, origin, reason = labels
            totals = routes.setdefault((listener, route), Totals())
            totals.ended += count
            if origin != "caller":
                if is_failure(code, origin, reason):
                    totals.failed += count
                elif origin == "sidecar":
                    totals.refused += count
        for labels, histogram in metrics.histograms(names.RPC_SECONDS).items():
            totals = routes.setdefault((labels[0], labels[2]), Totals())
            totals.buckets = _sum(totals.buckets, histogram.counts)
        clusters = process.generation.clusters if process.generation is not None else {}
        endpoints = {
            (cluster.name, endpoint.address): Totals(endpoint.ended, endpoint.failed)
            for whole in clusters.values()
            for cluster in whole.parts
            for endpoint in cluster.endpoints
        }
        limits: dict[tuple[str, str], float] = {}
        for (listener, _, limit), count in metrics.samples(names.LIMIT_REFUSALS).items():
            limits[listener, limit] = limits.get((listener, limit), 0.0) + count
        for (listener, route, _), count in metrics.samples(names.OVERLOADED).items():
            key = (listener, f"concurrency of {route}")
            limits[key] = limits.get(key, 0.0) + count
        return Reading(process.runtime.clock.monotonic(), cpu_seconds(), routes, endpoints, limits)


if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    _Select: TypeAlias = Callable[[Reading], Iterable[Totals]]


def _one(totals: Mapping[tuple[str, str], Totals], key: tuple[str, str]) -> list[Totals]:
    return [totals[key]] if key in totals else []


def _sum(left: Sequence[int], right: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(left, right, strict=True)] if left else list(right)


def difference(before: Iterable[Totals], after: Iterable[Totals], seconds: float) -> Figures:
    """What happened between two readings that are `seconds` apart. Counts that fell (a route is new) count as none."""
    first, last = _total(before), _total(after)
    ended, failed = max(0.0, last.ended - first.ended), max(0.0, last.failed - first.failed)
    refused = max(0.0, last.refused - first.refused)
    buckets = last.buckets
    if first.buckets:
        buckets = [max(0, a - b) for a, b in zip(last.buckets, first.buckets, strict=True)] if buckets else []
    return Figures(
        rate=ended / seconds,
        failed=failed / seconds,
        refused=refused / seconds,
        success=1 - min(failed, ended) / ended if ended else None,
        p50=quantile(names.RPC_BUCKETS, buckets, 0.5),
        p99=quantile(names.RPC_BUCKETS, buckets, 0.99),
    )


def _total(all_totals: Iterable[Totals]) -> Totals:
    whole = Totals()
    for each in all_totals:
        whole.ended += each.ended
        whole.failed += each.failed
        whole.refused += each.refused
        if each.buckets:
            whole.buckets = _sum(whole.buckets, each.buckets)
    return whole
