"""How much of its processor time and memory the sidecar uses, by what the kernel tells: /proc and the control group.

Processor: a data loop is one thread, so one core is all that a process can use; less, where its control group gets less, or several
workers share fewer cores than they are. Memory: of the
control group's limit, since reaching it ends the process; without one, of the machine.
"""

from __future__ import annotations

import math
import os
import resource
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.telemetry.metrics import Metrics

_OVER = 60.0
"""Seconds over which processor time is averaged."""


class Machine:
    """`sample` every few seconds; the two gauges show what came of it."""

    def __init__(self, metrics: Metrics, *, root: Path = Path("/"), used: Callable[[], float] | None = None) -> None:
        """`root`: where /proc and /sys are; `used`: processor seconds of this process so far."""
        self._root = root
        self._used = used or cpu_seconds
        self._samples: deque[tuple[float, float]] = deque()
        self._group = _group(root)
        self._all_cores = min(float(_cores()), _quota(self._group) or math.inf)
        self._cores = min(1.0, self._all_cores)
        self.cpu: float | None = None
        self.memory: float | None = None
        metrics.read(names.CPU_USAGE, lambda: [] if self.cpu is None else [((), self.cpu)])
        metrics.read(names.MEMORY_USAGE, lambda: [] if self.memory is None else [((), self.memory)])

    def shared_by(self, workers: int) -> None:
        """So many processes like this one share the processor."""
        self._cores = min(1.0, self._all_cores / workers)

    def sample(self, now: float) -> None:
        """`now`: monotonic seconds."""
        samples = self._samples
        samples.append((now, self._used()))
        while len(samples) > 2 and samples[1][0] <= now - _OVER:
            samples.popleft()
        (first, before), (last, after) = samples[0], samples[-1]
        if last > first:
            self.cpu = max(0.0, after - before) / (last - first) / self._cores
        self.memory = self._memory()

    def _memory(self) -> float | None:
        limit = _number(self._group / "memory.max") if self._group is not None else None
        total, available = _meminfo(self._root / "proc/meminfo")
        if self._group is not None and limit is not None and (total is None or limit < total):
            current = _number(self._group / "memory.current")
            if current is not None:
                # Pages of files that nobody uses just now are given back before anything is ended.
                return max(0.0, current - (_field(self._group / "memory.stat", "inactive_file") or 0)) / limit
        if total is None or available is None:
            return None
        return 1.0 - available / total


def cpu_seconds() -> float:
    """Processor time that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _cores() -> int:
    """Those that this process may run on, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _group(root: Path) -> Path | None:
    """The folder of our control group (version 2), or None."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("0::"):
            # In a container its own group looks like the root.
            for place in (line[3:].lstrip("/"), ""):
                folder = root / "sys/fs/cgroup" / place
                if (folder / "memory.max").exists() or (folder / "cpu.max").exists():
                    return folder
    return None


def _quota(group: Path | None) -> float | None:
    """Cores that the group gets; None = all."""
    if group is None:
        return None
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()[:2]
    except (OSError, ValueError):
        return None
    return int(quota) / int(period) if quota != "max" else None


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) > 0 else None


def _field(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), None)


def _meminfo(path: Path) -> tuple[int | None, int | None]:
    """(total, available) bytes of the machine."""
    total, available = _field_of(path, "MemTotal:"), _field_of(path, "MemAvailable:")
    return total, available


def _field_of(path: Path, name: str) -> int | None:
    found = _field(path, name)
    return None if found is None else found * 1024
