"""The metrics of several workers as those of one sidecar: what counts is added up, what measures is the worst of them."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ACCEPT = "text/plain; version=0.0.4"
"""The format in which workers are asked."""

_SHARES = ("_active", "_pending")
_SUMMED = frozenset(
    {names.AUDIT_QUEUE.name, "process_open_fds", "process_resident_memory_bytes", "process_virtual_memory_bytes"}
)
"""Gauges that are shares of a whole; of all others the largest counts, unless the smallest is the worst."""
_LEAST = frozenset(
    {
        *(each.name for each in (names.CERTIFICATE_EXPIRY, names.CONFIG_GENERATION, names.CONFIG_LAST_SUCCESS)),
        names.BUDGET_LEFT.name,
        names.ENDPOINT_HEALTHY.name,
        names.ENDPOINT_READY.name,
        names.BUDGET_LEFT.name,
        names.STORE_UP.name,
        "process_start_time_seconds",
    }
)


def merge(pages: Iterable[str]) -> list[Metric]:
    """The families of `pages` (Prometheus text), each series once."""
    merged: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for page in pages:
        for family in text_string_to_metric_families(page):
            merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            series = values.setdefault(family.name, {})
            rule = _rule(family)
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                series[key] = rule(series[key], sample.value) if key in series else sample.value
    for name, metric in merged.items():
        for (sample_name, labels), value in values[name].items():
            metric.add_sample(sample_name, dict(labels), value)
    return list(merged.values())


def _rule(family: Metric) -> Callable[[float, float], float]:
    if family.type in {"counter", "histogram", "summary"} or family.name in _SUMMED or family.name.endswith(_SHARES):
        return operator.add
    return min if family.name in _LEAST else max


class _Merged(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def page(families: list[Metric], accept: str) -> tuple[str, bytes]:
    """(content type, body) in the format that `accept` prefers."""
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry()
    registry.register(_Merged(families))
    return content_type, encode(registry)
