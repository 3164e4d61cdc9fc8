"""A memory cgroup of a test: whatever is in it and takes more than its limit is killed by the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from sidecar.clock import LoopClock, sleep

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


class MemoryGroup:
    """`async with MemoryGroup(MiB) as group:` — skips the test where cgroups cannot be made (root, and a writable cgroup tree)."""

    def __init__(self, mebibytes: int) -> None:
        self._limit = mebibytes << 20
        is_v2 = (V2 / "cgroup.controllers").exists()
        self.folder = (V2 if is_v2 else V1) / f"sidecar-test-{os.getpid()}"
        self._limits = "memory.max" if is_v2 else "memory.limit_in_bytes"

    def add(self, pid: int) -> None:
        (self.folder / "cgroup.procs").write_text(str(pid))

    async def __aenter__(self) -> Self:
        try:
            self.folder.mkdir()
            (self.folder / self._limits).write_text(str(self._limit))
        except OSError as error:
            with contextlib.suppress(OSError):
                self.folder.rmdir()
            pytest.skip(f"no memory cgroup can be made here: {error.strerror}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        clock = LoopClock(asyncio.get_running_loop())
        async with asyncio.timeout(10):
            while True:
                # What has just ended is in it for a moment more.
                try:
                    self.folder.rmdir()
                except OSError:
                    await sleep(clock, 0.05)
                else:
                    return
