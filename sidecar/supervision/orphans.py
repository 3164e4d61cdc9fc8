"""The duties of a first process: what the agent started and forgot comes to us when its parent ends, and somebody must bury it.

Why by looking, and not at SIGCHLD? The loop waits for its own children by their ids; to take any child would take those away from it.
A zombie that is still there at the next look has no one who waits for it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.clock import sleep

if TYPE_CHECKING:
    from sidecar.runtime import Runtime

LOOK_EVERY = 5.0
_PR_SET_CHILD_SUBREAPER = 36


def adopt() -> None:
    """From now on orphans among our descendants come to us, also where we are not process 1. Linux only."""
    if sys.platform == "linux" and os.getpid() != 1:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def zombies(parent: int) -> frozenset[int]:
    """Children of `parent` that have ended and were not waited for."""
    found = set()
    for each in Path("/proc").iterdir():
        if not each.name.isdigit():
            continue
        try:
            # After the name in brackets: state, parent (proc_pid_stat(5)).
            state, ppid = (each / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state == "Z" and int(ppid) == parent:
            found.add(int(each.name))
    return frozenset(found)


class Orphans:
    """Buries them from `start` to `close`."""

    def __init__(self, runtime: Runtime) -> None:
        self.buried = 0
        self._runtime = runtime
        self._seen: frozenset[int] = frozenset()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        adopt()
        self._task = self._runtime.spawn(self._run(), "orphans")

    async def _run(self) -> None:
        while True:
            await sleep(self._runtime.clock, LOOK_EVERY)
            # Not on the loop: /proc of a large machine takes some milliseconds.
            self.look(await asyncio.to_thread(zombies, os.getpid()))

    def look(self, found: frozenset[int]) -> None:
        """These are there now; bury those that were there before."""
        for pid in found & self._seen:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue
            self.buried += 1
        self._seen = found - self._seen

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
