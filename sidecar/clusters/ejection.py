"""Outlier ejection (gRFC A50 for the numbers): an endpoint that fails gets no RPCs for a while, longer each time.

Why not A50's standard deviations? Clusters of agents have two or five endpoints, where no statistics are to be had. Failures in
a row, and a success rate below a fixed bound over ten seconds (as Linkerd's failure accrual does it), work with any number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from sidecar.clusters.judgement import FAILURE_CODES
from sidecar.config.model import Model
from sidecar.config.units import Duration, FailureCode, Percent

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clock import Clock, Timer

WINDOW = 10.0
"""Seconds over which the success rate is taken; also A50's interval, after which a quiet endpoint is forgiven one ejection."""
LEAST = 5
"""Fewer RPCs than this say nothing about a rate."""


class OutlierEjectionConfig(Model):
    """When an endpoint that does worse than it should is left out for a while."""

    consecutive_failures: int = Field(default=5, ge=1, le=10_000, description="failures in a row")
    min_success_rate: Percent = Field(
        default=80.0,
        description="percent of the RPCs of ten seconds (five at least) that must succeed; 0 = any rate will do",
    )
    base_ejection: Duration = Field(default=30.0, gt=0, le=3600, description="how long, times the number of ejections")
    max_ejection: Duration = Field(default=300.0, gt=0, le=86_400, description="never longer than this")
    max_ejected_percent: Percent = Field(
        default=50.0, description="of the endpoints at a time; the last one always stays"
    )
    failure_codes: tuple[FailureCode, ...] = Field(
        default=FAILURE_CODES, min_length=1, description="what counts as a failure of the endpoint"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.base_ejection > self.max_ejection:
            yield "base_ejection", "is longer than max_ejection; lower it, or raise max_ejection"


class Ejection:
    """How one endpoint fares. `may_eject` is asked before, `changed` hears after. Times are monotonic seconds."""

    __slots__ = (
        "_changed",
        "_clock",
        "_config",
        "_failed",
        "_former",
        "_may_eject",
        "_next",
        "_ok",
        "_released_at",
        "_timer",
        "consecutive",
        "count",
        "until",
        "why",
    )

    def __init__(
        self,
        config: OutlierEjectionConfig,
        clock: Clock,
        *,
        may_eject: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        self._config = config
        self._clock = clock
        self._may_eject = may_eject
        self._changed = changed
        # Failures in a row.
        self.consecutive = 0
        # The second that fills, where it ends, and those before it: (end, ok, failed).
        self._ok = 0
        self._failed = 0
        self._next = 0.0
        self._former: deque[tuple[float, int, int]] = deque()
        # A50's multiplier: ejections that are not forgiven yet.
        self.count = 0
        self.until: float | None = None
        self.why = ""
        self._released_at = 0.0
        self._timer: Timer | None = None

    @property
    def is_ejected(self) -> bool:
        return self.until is not None

    def succeeded(self, now: float) -> None:
        if now >= self._next:
            self._turn(now)
        self.consecutive = 0
        self._ok += 1

    def failed(self, now: float) -> None:
        """Count it, and eject the endpoint if that was one too many and others can do without it."""
        if self.until is not None:
            return
        if now >= self._next:
            self._turn(now)
        self.consecutive += 1
        self._failed += 1
        why = self._reason(now)
        if why and self._may_eject():
            self._eject(now, why)

    def _turn(self, now: float) -> None:
        if self._ok or self._failed:
            self._former.append((self._next, self._ok, self._failed))
            self._ok = self._failed = 0
        self._next = now + 1.0
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._former and self._former[0][0] <= now - WINDOW:
            self._former.popleft()

    def _reason(self, now: float) -> str:
        if self.consecutive >= self._config.consecutive_failures:
            return f"{self.consecutive} failures in a row"
        self._forget(now)
        ok = self._ok + sum(each[1] for each in self._former)
        total = ok + self._failed + sum(each[2] for each in self._former)
        if total >= LEAST and ok * 100 < self._config.min_success_rate * total:
            return f"{ok} of {total} RPCs succeeded in {WINDOW:g} s"
        return ""

    def _eject(self, now: float, why: str) -> None:
        # A50: the multiplier falls by one for each interval in which the endpoint was not ejected.
        quiet = int((now - self._released_at) / WINDOW)
        self.count = max(0, self.count - quiet) + 1
        config = self._config
        # A50: base_ejection_time * multiplier, at most max_ejection_time.
        seconds = min(config.base_ejection * self.count, config.max_ejection)
        self.until = now + seconds
        self.why = why
        self._timer = self._clock.call_later(seconds, self.release)
        self._changed()

    def release(self) -> None:
        """It may serve again: its time is over, or a health check has passed. What it did before is forgotten."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ok = self._failed = self.consecutive = 0
        self._former.clear()
        if self.until is not None:
            self.until = None
            self._released_at = self._clock.monotonic()
            self._changed()

    def close(self) -> None:
        """It is no longer wanted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
