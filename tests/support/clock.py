"""A clock that stands still until a test moves it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class FakeTimer:
    """A scheduled callback of a `FakeClock`."""

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self._callback: Callable[[], object] | None = callback

    @property
    def is_active(self) -> bool:
        """Neither run nor cancelled."""
        return self._callback is not None

    def cancel(self) -> None:
        self._callback = None

    def run(self) -> None:
        """Run the callback, at most once."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class FakeClock:
    """`Clock` for tests: `advance` moves both times and runs what is due, in the order in which it is due."""

    def __init__(self, monotonic: float = 1000.0, wall: float = 1_800_000_000.0) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._timers: list[tuple[float, int, FakeTimer]] = []
        # Timers of the same moment run in the order in which they were set.
        self._order = count()

    def monotonic(self) -> float:
        return self._monotonic

    def wall(self) -> float:
        return self._wall

    def call_later(self, seconds: float, callback: Callable[[], object]) -> FakeTimer:
        timer = FakeTimer(self._monotonic + max(0.0, seconds), callback)
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    @property
    def timers(self) -> list[FakeTimer]:
        """Those that are still to run, soonest first."""
        return [timer for _, _, timer in sorted(self._timers, key=lambda each: each[:2]) if timer.is_active]

    def advance(self, seconds: float) -> None:
        """Move `seconds` ahead; timers run on the way, each at its own time, those that they set included."""
        if seconds < 0:
            raise ValueError("monotonic time does not go back; use jump for the wall clock")
        until = self._monotonic + seconds
        while self._timers and self._timers[0][0] <= until:
            when, _, timer = heapq.heappop(self._timers)
            self._move_to(when)
            timer.run()
        self._move_to(until)

    def _move_to(self, when: float) -> None:
        if when > self._monotonic:
            self._wall += when - self._monotonic
            self._monotonic = when

    def block(self, seconds: float) -> None:
        """Move `seconds` ahead while something holds the loop: timers that became due run late, at the next `advance`."""
        self._move_to(self._monotonic + seconds)

    def jump(self, seconds: float) -> None:
        """Set the wall clock, as an administrator or NTP does: monotonic time and timers do not notice."""
        self._wall += seconds
