"""Our numbers as Prometheus text, through prometheus_client; imported at the first scrape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.telemetry.metrics import Histogram, Metrics


class _Families(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for name in self._metrics.families():
            if name.kind == "histogram":
                family = HistogramMetricFamily(name.name, name.help, labels=name.labels)
                for values, histogram in self._metrics.histograms(name).items():
                    family.add_metric(values, _cumulative(histogram), histogram.sum)
                yield family
                continue
            kind = CounterMetricFamily if name.kind == "counter" else GaugeMetricFamily
            shown = kind(name.name, name.help, labels=name.labels)
            for values, value in self._metrics.samples(name).items():
                shown.add_metric(values, value)
            yield shown


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    total = 0
    buckets = []
    for bound, count in zip((*map(repr, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


class Exposition:
    """The scrape page of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Families(metrics))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def page(self, accept: str) -> tuple[str, bytes]:
        """(content type, body) in the format that `accept` prefers: Prometheus text or OpenMetrics."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)
