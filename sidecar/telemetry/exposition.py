"""Our numbers as Prometheus text, through prometheus_client; imported at the first scrape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.telemetry.metrics import Histogram, Metrics


def _families(metrics: Metrics) -> Iterator[Metric]:
    for name in metrics.families():
        if name.kind == "histogram":
            family = HistogramMetricFamily(name.name, name.help, labels=name.labels)
            for values, histogram in metrics.histograms(name).items():
                family.add_metric(values, _cumulative(histogram), histogram.sum)
            yield family
            continue
        kind = CounterMetricFamily if name.kind == "counter" else GaugeMetricFamily
        shown = kind(name.name, name.help, labels=name.labels)
        for values, value in metrics.samples(name).items():
            shown.add_metric(values, value)
        yield shown


def _cumulative(histogram: Histogram) -> list[Any]:
    """(bound, count) pairs; with the exemplar as a third where there is one, which OpenMetrics shows."""
    total = 0
    buckets: list[Any] = []
    exemplars = histogram.exemplars or {}
    for i, (bound, count) in enumerate(zip((*map(repr, histogram.bounds), "+Inf"), histogram.counts, strict=True)):
        total += count
        exemplar = exemplars.get(i)
        if exemplar is None:
            buckets.append((bound, float(total)))
        else:
            shown = Exemplar({"trace_id": exemplar.trace_id}, exemplar.value, round(exemplar.at, 3))
            buckets.append((bound, float(total), shown))
    return buckets


class _Page(Collector):
    """What was read before, and the facts of the process."""

    def __init__(self, families: list[Metric], process: CollectorRegistry) -> None:
        self._families = families
        self._process = process

    def collect(self) -> Iterator[Metric]:
        yield from self._families
        yield from self._process.collect()


class Exposition:
    """The scrape page of one process: numbers are read on the data loop, encoded by whoever asked."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)

    def snapshot(self) -> list[Metric]:
        """The numbers of this moment. Call it on the data loop."""
        return list(_families(self._metrics))

    def page(self, families: list[Metric], accept: str) -> tuple[str, bytes]:
        """(content type, body) in the format that `accept` prefers: Prometheus text or OpenMetrics."""
        encode, content_type = choose_encoder(accept)
        registry = CollectorRegistry()
        registry.register(_Page(families, self._process))
        return content_type, encode(registry)
