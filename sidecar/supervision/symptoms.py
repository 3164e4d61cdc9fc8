"""From what is seen of an agent to a symptom. No process, no socket: what was seen, and when, comes in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.config.units import format_duration, format_size

if TYPE_CHECKING:
    import random
    from collections.abc import Hashable

    from sidecar.supervision.config import BackoffConfig, GiveUpConfig, MemoryWhenConfig, WedgedWhenConfig


@dataclass(frozen=True, slots=True)
class Standing:
    """The RPCs at the agent. `owed`: complete requests without a first answer; `mark` changes with whatever comes back."""

    owed: int = 0
    mark: Hashable = None


class Since:
    """For how long something has held without a break."""

    __slots__ = ("_began",)

    def __init__(self) -> None:
        self._began: float | None = None

    def seconds(self, holds: bool, now: float) -> float | None:
        """None = it does not hold."""
        if not holds:
            self._began = None
            return None
        if self._began is None:
            self._began = now
        return now - self._began


class Wedge:
    """Does it run and do nothing?"""

    def __init__(self, when: WedgedWhenConfig) -> None:
        self._when = when
        self._stuck = Since()
        self._silent = Since()
        self._mark: Hashable = None

    def progress(self, standing: Standing, now: float) -> str | None:
        """What is wrong with its RPCs, or None. A caller that is slow itself, or an idle stream, is owed nothing."""
        limit = self._when.in_flight_without_progress
        moved, self._mark = standing.mark != self._mark, standing.mark
        seconds = self._stuck.seconds(standing.owed > 0 and not moved, now)
        if limit is None or seconds is None or seconds < limit:
            return None
        return f"{standing.owed} RPCs wait for it without progress for {seconds:.1f} s; the limit is {format_duration(limit)}"

    def health(self, answers: bool, now: float) -> str | None:
        """What is wrong with its answers to health checks, or None. An answer of any content is a sign of life."""
        limit = self._when.health_silent
        seconds = self._silent.seconds(not answers, now)
        if limit is None or seconds is None or seconds < limit:
            return None
        return f"no answer to health checks for {seconds:.1f} s; the limit is {format_duration(limit)}"


class Growth:
    """Does it hold too much memory for too long?"""

    def __init__(self, when: MemoryWhenConfig) -> None:
        self._when = when
        self._above = Since()

    def look(self, resident: int, now: float) -> str | None:
        seconds = self._above.seconds(resident > self._when.rss_above, now)
        if seconds is None or seconds < self._when.length:
            return None
        return (
            f"{resident / 2**20:.0f} MiB resident for {seconds:.1f} s; "
            f"the limit is {format_size(self._when.rss_above)} for {format_duration(self._when.length)}"
        )


class Patience:
    """How long to wait before the next start, and when to leave it to people."""

    _PROVEN = 30.0
    """Seconds of good service after which the next failure begins with the shortest wait again."""
    _CHANCE = 0.2

    def __init__(self, backoff: BackoffConfig, limit: GiveUpConfig, chance: random.Random) -> None:
        self._backoff = backoff
        self._limit = limit
        self._chance = chance
        self._next = backoff.initial
        self._restarts: deque[float] = deque()

    def failed(self, now: float, served_for: float) -> float | None:
        """Seconds to wait before the restart that is now due; None = there were too many."""
        while self._restarts and self._restarts[0] <= now - self._limit.within:
            self._restarts.popleft()
        if len(self._restarts) >= self._limit.restarts:
            return None
        self._restarts.append(now)
        if served_for >= self._PROVEN:
            self._next = self._backoff.initial
        seconds = self._next * self._chance.uniform(1 - self._CHANCE, 1 + self._CHANCE)
        self._next = min(self._next * 2, self._backoff.longest)
        return seconds

    def begin_anew(self) -> None:
        """Somebody has intervened: what was before does not count."""
        self._restarts.clear()
        self._next = self._backoff.initial

    @property
    def said(self) -> str:
        return f"{self._limit.restarts} restarts within {format_duration(self._limit.within)}"
