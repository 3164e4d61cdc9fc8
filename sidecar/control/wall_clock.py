"""Notices that the wall clock was set: by NTP, by an administrator, or because the machine slept."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clock import Clock

TOLERANCE = 1.0
"""Seconds: less is drift, which NTP corrects without a jump, or the moment between two readings."""


class WallClock:
    """`look`, now and then: `jumped` is told by how many seconds the wall clock has moved against the monotonic one."""

    __slots__ = ("_clock", "_jumped", "_offset")

    def __init__(self, clock: Clock, jumped: Callable[[float], None]) -> None:
        self._clock = clock
        self._jumped = jumped
        self._offset = clock.wall() - clock.monotonic()

    def look(self) -> None:
        """Slow drift adds up until it counts as a jump, too: what was computed from the offset is then as wrong."""
        offset = self._clock.wall() - self._clock.monotonic()
        moved = offset - self._offset
        if abs(moved) > TOLERANCE:
            self._offset = offset
            self._jumped(moved)
