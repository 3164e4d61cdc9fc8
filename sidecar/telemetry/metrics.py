"""Counting on the data path, and showing it to Prometheus.

Why not prometheus_client's own counters on the path? A bound child's `inc()` takes a lock and costs 0.6 µs, an `observe` 1.5 µs;
ours are plain numbers of one event loop, at 0.05 µs. They are shown through prometheus_client, which is imported at the
first scrape and not before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.telemetry.names import MetricName

Sample = tuple[tuple[str, ...], float]


class Counter:
    """A number that goes up; bound to its labels once."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, by: float = 1) -> None:
        self.value += by


class Gauge:
    """A number that goes both ways."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        self.value = value


class Exemplar(NamedTuple):
    """One of the values of a bucket, and the trace that it belongs to; `at` in seconds since the epoch."""

    trace_id: str
    value: float
    at: float


class Histogram:
    """Counts per bucket and a sum; of a bucket in which a traced RPC fell, the last of these."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] | None = None

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def exemplify(self, value: float, trace_id: bytes, at: float) -> None:
        """`value`, which has been observed, was measured in this trace (hex)."""
        if self.exemplars is None:
            self.exemplars = {}
        self.exemplars[bisect_left(self.bounds, value)] = Exemplar(trace_id.decode(), value, at)

    def add(self, other: Histogram) -> None:
        """Count what `other`, of the same bounds, has counted."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum
        if other.exemplars is not None:
            self.exemplars = {**(self.exemplars or {}), **other.exemplars}


class Metrics:
    """Every family of the process. Children are bound once, by whoever counts; `read` families are asked at each scrape."""

    def __init__(self) -> None:
        self._families: dict[str, MetricName] = {}
        self._children: dict[str, dict[tuple[str, ...], Counter | Gauge | Histogram]] = {}
        self._readers: dict[str, dict[object, Callable[[], Iterable[Sample]]]] = {}
        self._histogram_readers: dict[str, Callable[[], dict[tuple[str, ...], Histogram]]] = {}
        self.defects: dict[str, int] = defaultdict(int)
        self.read(names.DEFECTS, lambda: [((where,), n) for where, n in self.defects.items()])

    def counter(self, name: MetricName, **labels: str) -> Counter:
        child = self._child(name, labels, Counter)
        assert isinstance(child, Counter)
        return child

    def gauge(self, name: MetricName, **labels: str) -> Gauge:
        child = self._child(name, labels, Gauge)
        assert isinstance(child, Gauge)
        return child

    def histogram(self, name: MetricName, bounds: tuple[float, ...], **labels: str) -> Histogram:
        child = self._child(name, labels, lambda: Histogram(bounds))
        assert isinstance(child, Histogram)
        return child

    def read(self, name: MetricName, reader: Callable[[], Iterable[Sample]], key: object = None) -> None:
        """Ask `reader` for (label values, value) pairs at each scrape; a second reader under the same `key` replaces the first."""
        self._families[name.name] = name
        self._readers.setdefault(name.name, {})[key] = reader

    def read_histograms(self, name: MetricName, reader: Callable[[], dict[tuple[str, ...], Histogram]]) -> None:
        """Ask `reader` for the histograms of a family, by label values, at each scrape."""
        self._families[name.name] = name
        self._histogram_readers[name.name] = reader

    def _child(
        self, name: MetricName, labels: dict[str, str], make: Callable[[], Counter | Gauge | Histogram]
    ) -> Counter | Gauge | Histogram:
        self._families[name.name] = name
        children = self._children.setdefault(name.name, {})
        values = tuple(labels[label] for label in name.labels)
        child = children.get(values)
        if child is None:
            child = children[values] = make()
        return child

    def samples(self, name: MetricName) -> dict[tuple[str, ...], float]:
        """The current values of a counter or gauge family, by label values."""
        found: dict[tuple[str, ...], float] = {}
        for values, child in self._children.get(name.name, {}).items():
            if not isinstance(child, Histogram):
                found[values] = child.value
        for reader in self._readers.get(name.name, {}).values():
            for values, value in reader():
                found[values] = found.get(values, 0.0) + value
        return found

    def histograms(self, name: MetricName) -> dict[tuple[str, ...], Histogram]:
        children = self._children.get(name.name, {})
        found = {values: child for values, child in children.items() if isinstance(child, Histogram)}
        reader = self._histogram_readers.get(name.name)
        return found if reader is None else {**found, **reader()}

    def families(self) -> list[MetricName]:
        return [self._families[name] for name in sorted(self._families)]
