"""From counters to values: what a rule judges, for each subject (a listener, an endpoint, a file …) one value.

Shares, latencies and increases are those of a window, so the counters of the recent past are kept, reduced to what rules ask for.
Counters that fell (a worker was replaced) count from nothing.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from sidecar.grpc_wire.status import SERVER_FAULTS, code_label
from sidecar.proxy.rejection import Reason
from sidecar.telemetry import names
from sidecar.telemetry.names import MetricName

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.alerts.config import RuleConfig

Subject: TypeAlias = "tuple[tuple[str, str], ...]"
"""Labels, as (name, value) pairs."""
Values: TypeAlias = "dict[Subject, float]"

_FAULTS = frozenset(code_label(code) for code in SERVER_FAULTS)
_ASKED_WRONGLY = frozenset(each.name for each in (Reason.NO_ROUTE, Reason.METHOD_UNKNOWN, Reason.MALFORMED_REQUEST))
"""Reasons of ours with a code that is a server's fault elsewhere; here the caller asked for what there is not."""
_SPARSEST = 60
"""Readings that are kept at most: a longer window has fewer per minute."""


def is_failure(code: str, origin: str, reason: str) -> bool:
    """Does an RPC that ended so count as failed: a server's fault, ours included, and not the caller's doing?"""
    return origin != "caller" and code in _FAULTS and reason not in _ASKED_WRONGLY


@cache
def _is_failure(end: tuple[str, str, str]) -> bool:
    return is_failure(*end)


def _places(metric: MetricName, *labels: str) -> Callable[[tuple[str, ...]], Any]:
    return itemgetter(*map(metric.labels.index, labels))


_ROUTE_OF_RPCS = _places(names.RPCS, "listener", "route")
_END_OF_RPCS = _places(names.RPCS, "grpc_code", "origin", "reason")
_ROUTE_OF_SECONDS = _places(names.RPC_SECONDS, "listener", "route")


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that can be judged. `kind` says how `source` becomes a value."""

    kind: Literal["share", "latency", "gauge", "increase", "left", "absent"]
    """share and latency: of RPCs in a window; increase: of a counter in a window; left: seconds to a moment; absent: 1 − value."""
    source: MetricName
    said: str
    """What is wrong, in words; `{value}`, and labels of the subject by their names."""
    is_duration: bool = False
    is_share: bool = False
    quantile: float = 0.0


MEASURES: Mapping[str, Measure] = {
    "error_rate": Measure("share", names.RPCS, "{value} of the RPCs fail", is_share=True),
    "latency_p50": Measure(
        "latency", names.RPC_SECONDS, "half of the RPCs take longer than {value}", True, quantile=0.5
    ),
    "latency_p99": Measure(
        "latency", names.RPC_SECONDS, "1 % of the RPCs take longer than {value}", True, quantile=0.99
    ),
    "cpu_usage": Measure("gauge", names.CPU_USAGE, "the sidecar uses {value} of its processor time", is_share=True),
    "memory_usage": Measure("gauge", names.MEMORY_USAGE, "{value} of the memory is used", is_share=True),
    "breaker_open": Measure("gauge", names.BREAKER_STATE, "the circuit of {endpoint} in cluster {cluster} is open"),
    "rollout_rolled_back": Measure("gauge", names.ROLLOUT_ROLLED_BACK, "the rollout of {cluster} was rolled back"),
    "rollout_stable_down": Measure(
        "gauge", names.ROLLOUT_STABLE_DOWN, "stable of {cluster} does not serve, the candidate takes everything"
    ),
    "certificate_left": Measure("left", names.CERTIFICATE_EXPIRY, "the certificate {file} ends in {value}", True),
    "store_lost": Measure("absent", names.STORE_UP, "the store gives no answer"),
    "audit_dropped": Measure("increase", names.AUDIT_DROPPED, "{value} records of the audit log {sink} were dropped"),
    "agent_given_up": Measure("gauge", names.AGENT_GIVEN_UP, "the agent was given up: manual intervention is required"),
}
"""The words of `metric:`; every counter and gauge of /metrics can be named as well."""

OWN = re.compile(r"sidecar_[a-z0-9_]+", re.ASCII)
_OWN = {each.name: each for each in vars(names).values() if isinstance(each, MetricName)}


def measure_of(word: str) -> Measure:
    """What `metric: word` means. Raises ValueError saying what is allowed."""
    found = MEASURES.get(word)
    if found is not None:
        return found
    source = _OWN.get(word)
    if source is None:
        raise ValueError(f"is no metric; allowed: {', '.join(MEASURES)}, or a counter or gauge of /metrics (sidecar_…)")
    if source.kind == "histogram":
        raise ValueError("is a histogram; allowed: latency_p50, latency_p99, or a counter or gauge of /metrics")
    if source.kind == "counter":
        return Measure("increase", source, f"{word} has risen by {{value}}")
    return Measure("gauge", source, f"{word} is {{value}}", is_duration=word.endswith("_seconds"))


class Counts(Protocol):
    """What is needed of a histogram: counts per bucket of `names.RPC_BUCKETS`, the last one without a bound."""

    counts: list[int]


class Readings(Protocol):
    """Where numbers come from: the metrics of this process, or those of all workers put together."""

    def samples(self, name: MetricName) -> Mapping[tuple[str, ...], float]: ...

    def histograms(self, name: MetricName) -> Mapping[tuple[str, ...], Counts]: ...


@dataclass(slots=True)
class Totals:
    """Since the start: RPCs that ended, those that failed, and how many were how slow."""

    ended: float = 0.0
    failed: float = 0.0
    buckets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """All that windows need, of one moment (monotonic seconds)."""

    at: float
    routes: Mapping[tuple[str, str], Totals]
    """By listener and route."""
    counters: Mapping[str, Mapping[tuple[str, ...], float]]


class Measures:
    """The values of now. `adopt` says which rules ask; `look` reads; `values` answers for one of them."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings
        self._kept: deque[Reading] = deque()
        self._longest = 0.0
        self._counters: dict[str, MetricName] = {}
        self._asks_rpcs = False
        self._wall = 0.0

    def adopt(self, rules: Sequence[RuleConfig]) -> None:
        windows = [max(each.over, each.length) for each in rules if each.measure.kind in {"share", "latency"}]
        windows += [each.over for each in rules if each.measure.kind == "increase"]
        self._longest = max(windows, default=0.0)
        measures = [each.measure for each in rules]
        self._counters = {each.source.name: each.source for each in measures if each.kind == "increase"}
        self._asks_rpcs = any(each.kind in {"share", "latency"} for each in measures)

    def look(self, now: float, wall: float) -> None:
        """`now`: monotonic seconds, `wall`: seconds since the epoch."""
        self._wall = wall
        kept = self._kept
        reading = Reading(
            now,
            self._routes() if self._asks_rpcs else {},
            {name: dict(self._readings.samples(metric)) for name, metric in self._counters.items()},
        )
        # The one before is replaced where it is so young that windows of the longest length need no such detail.
        if len(kept) >= 2 and now - kept[-2].at < self._longest / _SPARSEST:
            kept.pop()
        kept.append(reading)
        while len(kept) > 2 and kept[1].at <= now - self._longest:
            kept.popleft()

    def _routes(self) -> dict[tuple[str, str], Totals]:
        """There may be thousands of series, and this is done on the loop: labels are found by their place."""
        routes: dict[tuple[str, str], Totals] = {}
        for labels, count in self._readings.samples(names.RPCS).items():
            key = _ROUTE_OF_RPCS(labels)
            totals = routes.get(key)
            if totals is None:
                totals = routes[key] = Totals()
            totals.ended += count
            if _is_failure(_END_OF_RPCS(labels)):
                totals.failed += count
        buckets: dict[tuple[str, str], list[Sequence[int]]] = {}
        for labels, histogram in self._readings.histograms(names.RPC_SECONDS).items():
            buckets.setdefault(_ROUTE_OF_SECONDS(labels), []).append(histogram.counts)
        for key, counts in buckets.items():
            routes.setdefault(key, Totals()).buckets = tuple(map(sum, zip(*counts, strict=True)))
        return routes

    # ── values ──

    def values(self, rule: RuleConfig) -> Values:
        """One value for each subject; a subject of which nothing can be said has none."""
        measure = rule.measure
        if measure.kind in {"share", "latency"}:
            return self._rpcs(rule, measure)
        if measure.kind == "increase":
            return self._increases(rule, measure)
        found: Values = {}
        for labels, value in self._readings.samples(measure.source).items():
            subject = tuple(zip(measure.source.labels, labels, strict=True))
            if _fits(subject, rule.labels):
                found[subject] = {"left": value - self._wall, "absent": 1.0 - value}.get(measure.kind, value)
        return found

    def _increases(self, rule: RuleConfig, measure: Measure) -> Values:
        if len(self._kept) < 2:
            return {}
        last, first = self._kept[-1], self._before(rule.over)
        name = measure.source.name
        found: Values = {}
        for labels, value in last.counters.get(name, {}).items():
            subject = tuple(zip(measure.source.labels, labels, strict=True))
            if _fits(subject, rule.labels):
                before = first.counters.get(name, {}).get(labels, 0.0)
                found[subject] = value - before if value >= before else value
        return found

    def _rpcs(self, rule: RuleConfig, measure: Measure) -> Values:
        if len(self._kept) < 2:
            return {}
        found: Values = {}
        subjects: dict[Subject, list[tuple[str, str]]] = {}
        for listener, route in self._kept[-1].routes:
            if rule.listener in {None, listener} and rule.route in {None, route}:
                subject: Subject = (("listener", listener),)
                if rule.route is not None:
                    subject += (("route", route),)
                subjects.setdefault(subject, []).append((listener, route))
        for subject, keys in subjects.items():
            value = _value(measure, self._since(rule, keys))
            if value is not None:
                found[subject] = value
        return found

    def _since(self, rule: RuleConfig, keys: Sequence[tuple[str, str]]) -> Totals:
        """What has ended within `over`; within up to `for`, where too little did to judge by; nothing, if that is too little."""
        last = self._kept[-1]
        first = self._before(rule.over)
        furthest = self._before(max(rule.over, rule.length))
        if _ended(first, last, keys) < rule.min_rpcs:
            if furthest is first or _ended(furthest, last, keys) < rule.min_rpcs:
                return Totals()
            enough = (each for each in reversed(self._kept) if _ended(each, last, keys) >= rule.min_rpcs)
            first = next(enough, furthest)
        return _difference(first, last, keys)

    def _before(self, seconds: float) -> Reading:
        """The youngest reading that is so old, else the oldest."""
        limit = self._kept[-1].at - seconds
        return next((each for each in reversed(self._kept) if each.at <= limit), self._kept[0])


def _fits(subject: Subject, labels: Mapping[str, str]) -> bool:
    named = dict(subject)
    return all(named.get(name) == value for name, value in labels.items())


def _ended(first: Reading, last: Reading, keys: Sequence[tuple[str, str]]) -> float:
    ended = 0.0
    for key in keys:
        before = first.routes.get(key)
        after = last.routes[key].ended
        ended += after - before.ended if before is not None and before.ended <= after else after
    return ended


def _difference(first: Reading, last: Reading, keys: Sequence[tuple[str, str]]) -> Totals:
    whole = Totals()
    for key in keys:
        after, before = last.routes[key], first.routes.get(key, Totals())
        if after.ended < before.ended:
            before = Totals()
        whole.ended += after.ended - before.ended
        whole.failed += max(0.0, after.failed - before.failed)
        fresh = after.buckets
        if before.buckets:
            fresh = tuple(max(0, a - b) for a, b in zip(after.buckets, before.buckets, strict=True))
        whole.buckets = added(whole.buckets, fresh)
    return whole


def _value(measure: Measure, totals: Totals) -> float | None:
    if not totals.ended:
        return None
    if measure.kind == "share":
        return min(1.0, totals.failed / totals.ended)
    return quantile(names.RPC_BUCKETS, totals.buckets, measure.quantile)


def added(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...]:
    """Counts of two histograms together; an empty one is nothing."""
    if not left or not right:
        return tuple(left or right)
    return tuple(a + b for a, b in zip(left, right, strict=True))


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """The value below which `share` of what was counted lies, by linear interpolation within its bucket; None = nothing was.

    As Prometheus' histogram_quantile: what lies beyond the last bound is reported as that bound.
    """
    total = sum(counts)
    if not total:
        return None
    rank = share * total
    below = 0
    for position, count in enumerate(counts):
        if below + count >= rank:
            if position >= len(bounds):
                break
            lower = bounds[position - 1] if position else 0.0
            return lower + (bounds[position] - lower) * (rank - below) / count
        below += count
    return bounds[-1]
