"""What callers saw, in figures: read from a metrics page, taken apart by subtraction."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Mapping

INJECTED = "FAULT_INJECTED"


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts since the sidecar began, or, as a difference, of a while. `buckets`: RPCs by upper bound in seconds, cumulative."""

    rpcs: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By code, origin and reason."""
    buckets: Counter[float] = field(default_factory=Counter)
    faults: float = 0.0
    defects: float = 0.0
    agent_starts: float = 0.0

    def __sub__(self, before: Figures) -> Figures:
        """What came between. What a restart has set back counts as nothing."""
        return Figures(
            rpcs=self.rpcs - before.rpcs,
            buckets=self.buckets - before.buckets,
            faults=self.faults - before.faults,
            defects=self.defects - before.defects,
            agent_starts=self.agent_starts - before.agent_starts,
        )

    @property
    def total(self) -> int:
        return self.rpcs.total()

    def failed(self, *, without: frozenset[str] = frozenset()) -> int:
        """RPCs that ended with a failure other than those whose reason is in `without`."""
        return sum(count for (code, _, reason), count in self.rpcs.items() if code != "OK" and reason not in without)

    def by_agent(self) -> int:
        """Failures that are the agent's own word."""
        return sum(count for (code, origin, _), count in self.rpcs.items() if code != "OK" and origin == "agent")

    def of_reason(self, reason: str) -> int:
        return sum(count for (_, _, each), count in self.rpcs.items() if each == reason)

    def success(self, *, without: frozenset[str] = frozenset()) -> float | None:
        """Percent of the RPCs that succeeded, those ended for a reason in `without` left out; None = there are none."""
        ignored = sum(map(self.of_reason, without))
        asked = self.total - ignored
        return None if asked <= 0 else 100.0 * (asked - self.failed(without=without)) / asked

    def quantile(self, share: float) -> float | None:
        """The bound in seconds under which so large a share of the RPCs ended; None = there are none, inf = above all bounds."""
        total = self.buckets[float("inf")]
        if not total:
            return None
        return next(bound for bound in sorted(self.buckets) if self.buckets[bound] >= share * total)

    def failures(self) -> list[tuple[str, int]]:
        """In words, the most frequent first."""
        found: Counter[str] = Counter()
        for (code, origin, reason), count in self.rpcs.items():
            if code != "OK":
                found[f"{code} {reason or f'by the {origin}'}"] += count
        return found.most_common()


def read(page: str, only: Mapping[str, str] | None = None) -> Figures:
    """The figures of a page of Prometheus text; `only`: RPCs with these labels (listener, direction, route)."""
    from prometheus_client.parser import text_string_to_metric_families

    rpcs: Counter[tuple[str, str, str]] = Counter()
    buckets: Counter[float] = Counter()
    sums = dict.fromkeys((names.FAULTS.name, names.DEFECTS.name, names.AGENT_STARTS.name), 0.0)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = sample.labels
            if sample.name in sums:
                sums[sample.name] += sample.value
            elif any(labels.get(name, value) != value for name, value in (only or {}).items()):
                continue
            elif sample.name == names.RPCS.name:
                rpcs[labels["grpc_code"], labels["origin"], labels["reason"]] += int(sample.value)
            elif sample.name == f"{names.RPC_SECONDS.name}_bucket":
                buckets[float(labels["le"])] += int(sample.value)
    return Figures(rpcs, buckets, *sums.values())
