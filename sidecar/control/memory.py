"""Memory that a burst has left behind goes back to the system.

Ten thousand streams, or handshakes that are never finished, end at some time; what they had lies free between what is in use, and
glibc keeps it. In a container with a limit that counts as used: the next burst, or the agent beside us, would be killed for it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clock import Timer
    from sidecar.runtime import Runtime

LOOK_EVERY = 10.0
WORTH = 32 * 1024 * 1024
"""Bytes above what there was; less is not worth the milliseconds that looking through the heap takes."""
AGAIN_AFTER = 60.0
"""Seconds after which what was in use is looked at again, though no more has come."""


def resident_bytes() -> int:
    """Memory that this process holds; its peak where the system does not tell the present."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def give_back() -> None:
    """malloc_trim(3), where there is one: glibc. Takes milliseconds; other threads go on, as ctypes gives up the interpreter."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Tidying:
    """From `start` to `stop`: when there is much more than there was, what of it is free is given back."""

    __slots__ = ("_give_back", "_least", "_left", "_looked_at", "_resident", "_runtime", "_timer")

    def __init__(
        self,
        runtime: Runtime,
        resident: Callable[[], int] = resident_bytes,
        give_back: Callable[[], None] = give_back,
    ) -> None:
        self._runtime = runtime
        self._resident = resident
        self._give_back = give_back
        # Bytes: the least that ever was, and what the last look left.
        self._least = self._left = 0
        self._looked_at = 0.0
        self._timer: Timer | None = None

    def start(self) -> None:
        self._least = self._left = self._resident()
        self._wait()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        self._timer = self._runtime.clock.call_later(LOOK_EVERY, self._look)

    def _look(self) -> None:
        now = self._resident()
        self._least, self._left = min(self._least, now), min(self._left, now)
        is_long_ago = self._runtime.clock.monotonic() - self._looked_at >= AGAIN_AFTER
        if now - (self._least if is_long_ago else self._left) >= WORTH:
            self._runtime.spawn(self._tidy(now), "give memory back")
        else:
            self._wait()

    async def _tidy(self, before: int) -> None:
        self._looked_at = self._runtime.clock.monotonic()
        await asyncio.to_thread(self._give_back)
        self._left = self._resident()
        self._runtime.log.debug("memory given back", extra={"bytes": before - self._left, "resident": self._left})
        self._wait()
