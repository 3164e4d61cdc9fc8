"""Once a minute, one look at all calls: those that have lasted for long get their line in the access log.

Why not a timer per call? A hundred thousand streams would have as many; one look over them takes a moment, once a minute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.policies.access_log import AccessLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.clock import Clock, Timer
    from sidecar.proxy.call import Call

INTERVAL = 60.0
"""Seconds between two looks, and how long a call lasts before it is mentioned."""


class LongCalls:
    """Looks until `stop`."""

    def __init__(self, clock: Clock, calls: Callable[[], Iterable[Call]]) -> None:
        self._clock = clock
        self._calls = calls
        self._timer: Timer | None = None

    def start(self) -> None:
        self._timer = self._clock.call_later(INTERVAL, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = self._clock.monotonic()
        for call in self._calls():
            if now - call.started >= INTERVAL:
                for policy in call.plan.policies:
                    if isinstance(policy, AccessLog):
                        policy.still_runs(call)
        self.start()
