"""Becomes the command it is given, after asking the kernel to end it with its parent: `keeper.py PARENT-PID COMMAND…`.

Why a program of its own, and no function between fork and exec? The sidecar has threads; Python code that runs in their forked copy
may wait for ever for a lock that a thread held.
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """From now on this process is killed when `parent` ends; at once, if it has ended already. Linux only; elsewhere nothing."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It ended before we asked; nobody would tell us.
        os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """Never returns. Exit codes of shells: 127 = no such command, 126 = it cannot be run."""
    parent, *command = arguments
    end_with(int(parent))
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        # Python ignores these; whatever runs next expects the usual.
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is the point
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    main(sys.argv[1:])
