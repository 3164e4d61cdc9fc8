"""Time for everything that does not own an event loop: now, timers, and coarse deadline buckets.

Why not `loop.call_later` per RPC? A loop timer costs about 1.6 µs to set and cancel; nearly every RPC finishes before its
deadline, so the timer is set only to be cancelled. A deadline that is appended to a 10 ms bucket costs 0.1 µs.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A scheduled callback."""

    def cancel(self) -> None:
        """Keep the callback from running; harmless after it ran."""


class Clock(Protocol):
    """What every part of the sidecar is given instead of `time` and `loop.call_later`."""

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps."""

    def wall(self) -> float:
        """Seconds since the epoch; may jump."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Run `callback` once, `seconds` from now."""


class Expiring(Protocol):
    """Something with a time limit, held in one bucket at a time."""

    def on_deadline(self, now: float) -> None:
        """The bucket is due. Far limits come up to a second early: look at `now`, and `add` again if it is not yet time."""


class Deadlines:
    """Coarse timers for the data path: limits of the same 10 ms, or further away of the same second, share a bucket."""

    __slots__ = ("_buckets", "_clock", "_due", "_timer", "_timer_tick")

    TICKS = 100
    """Buckets per second for what is near."""
    FAR = 4.0
    """Seconds ahead from which whole seconds are good enough at first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[int, set[Expiring]] = {}
        self._due: list[int] = []
        self._timer: Timer | None = None
        self._timer_tick = 0

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def add(self, when: float, now: float, entry: Expiring) -> set[Expiring]:
        """Put `entry` where it is due at `when` (monotonic seconds); returns the bucket, to `discard` it from."""
        tick = int(when) * self.TICKS if when - now > self.FAR else int(when * self.TICKS) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._open(tick)
        bucket.add(entry)
        return bucket

    def _open(self, tick: int) -> set[Expiring]:
        bucket: set[Expiring] = set()
        self._buckets[tick] = bucket
        heapq.heappush(self._due, tick)
        if self._timer is None or tick < self._timer_tick:
            self._arm(tick)
        return bucket

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_tick = tick
        self._timer = self._clock.call_later(max(0.0, tick / self.TICKS - self._clock.monotonic()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        due = self._due
        failed: list[Exception] = []
        while due and due[0] / self.TICKS <= now:
            bucket = self._buckets.pop(heapq.heappop(due))
            for entry in list(bucket):
                # An entry that fired before it in this bucket may have ended it.
                if entry in bucket:
                    bucket.discard(entry)
                    try:
                        entry.on_deadline(now)
                    except Exception as error:
                        failed.append(error)
        if due:
            self._arm(due[0])
        if failed:
            # A defect of one entry; all others have had their turn, and the timer goes on.
            raise failed[0]


async def sleep(clock: Clock, seconds: float) -> None:
    """Wait `seconds` of `clock`."""
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    timer = clock.call_later(seconds, wake)
    try:
        await woken
    finally:
        timer.cancel()


class Turn:
    """A wait that somebody else ends: `give` hands it over, unless its time is over."""

    __slots__ = ("_given",)

    def __init__(self) -> None:
        self._given: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    @property
    def is_given(self) -> bool:
        return self._given.done() and not self._given.cancelled() and self._given.result()

    def give(self) -> bool:
        """It is your turn; False = nobody waits any more."""
        if self._given.done():
            return False
        self._given.set_result(True)
        return True

    async def wait(self, clock: Clock, seconds: float) -> bool:
        """Wait at most `seconds` of `clock`: was the turn given?"""
        timer = clock.call_later(seconds, self._expire)
        try:
            return await asyncio.shield(self._given)
        finally:
            timer.cancel()

    def _expire(self) -> None:
        if not self._given.done():
            self._given.set_result(False)


class LoopClock:
    """Time of the running event loop and of the machine."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return self._loop.call_later(seconds, callback)
