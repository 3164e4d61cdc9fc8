"""The process's own pulse: a tick ten times a second. As late as it comes, so late is everything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clock import Timer
    from sidecar.runtime import Runtime

INTERVAL = 0.1
STOOD_STILL = 0.5
"""Seconds: a tick that is later is worth a line in the log, as callers have felt it."""


class Pulse:
    """From `start` to `stop`; `look` is called at each tick."""

    __slots__ = ("_due", "_late", "_look", "_runtime", "_timer")

    def __init__(self, runtime: Runtime, look: Callable[[], None]) -> None:
        self._runtime = runtime
        self._look = look
        self._due = 0.0
        self._timer: Timer | None = None
        self._late = runtime.metrics.counter(names.LOOP_LATE)
        runtime.metrics.read(names.LOOP_LAG, lambda: [((), runtime.lag.seconds)])

    def start(self) -> None:
        self._due = self._runtime.clock.monotonic()
        self.tick()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def tick(self) -> None:
        clock = self._runtime.clock
        now = clock.monotonic()
        late = self._runtime.lag.seconds = max(0.0, now - self._due)
        self._late.inc(late)
        if late > STOOD_STILL:
            self._runtime.log.warning("the event loop stood still", extra={"seconds": round(late, 3)})
        self._look()
        self._due = now + INTERVAL
        self._timer = clock.call_later(INTERVAL, self.tick)
