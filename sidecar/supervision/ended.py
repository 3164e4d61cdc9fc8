"""How a process has ended, in words for people."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process has ended."""

    code: int
    """As the kernel counts: exit code, or minus the signal."""
    lacked_memory: bool = False
    """SIGKILL, and the kernel's count of processes killed for want of memory has risen since this one began."""

    @classmethod
    def of(cls, code: int, killed_before: int) -> Self:
        """`killed_before`: what `killed_for_memory` said when the process began."""
        return cls(code, code == -signal.SIGKILL and killed_for_memory() > killed_before)

    @property
    def signal(self) -> signal.Signals | None:
        return signal.Signals(-self.code) if self.code < 0 else None

    @property
    def exit_code(self) -> int:
        """As shells count: the exit code, or 128 + the signal."""
        return 128 - self.code if self.code < 0 else self.code

    def __str__(self) -> str:
        said = f"signal {self.signal.name}" if self.signal is not None else f"code {self.code}"
        return f"{said}, out of memory as it seems" if self.lacked_memory else said


def killed_for_memory() -> int:
    """How many processes of this machine the kernel has killed for want of memory, of a cgroup's too (Linux); 0 elsewhere."""
    try:
        fields = Path("/proc/vmstat").read_text().split()
        return int(fields[fields.index("oom_kill") + 1])
    except (OSError, ValueError, IndexError):
        return 0
