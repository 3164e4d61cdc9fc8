"""What a command does while it takes its time: on a terminal one line that is rewritten, elsewhere a line now and then. On stderr.

Nothing is shown in the first second, so that what is quick stays silent.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_SILENT = 1.0
_REDRAW = 0.2
_LINE_EVERY = 10.0
_TURN = "|/-\\"


class Progress:
    """`with Progress("verifying", total=3) as progress: progress.step("audit.jsonl")`. Anything may block meanwhile."""

    def __init__(
        self,
        what: str,
        *,
        total: int | None = None,
        stream: TextIO | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._total = total
        self._stream = stream if stream is not None else sys.stderr
        self._monotonic = monotonic
        self._is_terminal = self._stream.isatty()
        self._began = monotonic()
        self._next = self._began + _SILENT
        self._done = 0
        self._now = ""
        self._width = 0
        self._turns = 0
        self._over = threading.Event()
        self._drawing = threading.Lock()
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        with self._drawing:
            self._wipe()

    def step(self, now: str) -> None:
        """The next of `total` things begins: `now`."""
        self._done += 1
        self._now = now

    def say(self, line: str) -> None:
        """A line of its own, above what is being rewritten."""
        with self._drawing:
            self._wipe()
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def look(self) -> None:
        """Show it if it is time to."""
        with self._drawing:
            now = self._monotonic()
            if now < self._next:
                return
            self._next = now + (_REDRAW if self._is_terminal else _LINE_EVERY)
            line = self._line(now)
            if not self._is_terminal:
                self._stream.write(f"{line}\n")
            else:
                self._wipe()
                self._turns += 1
                line = f"{_TURN[self._turns % len(_TURN)]} {line}"[:100]
                self._stream.write(line)
                self._width = len(line)
            self._stream.flush()

    def _line(self, now: float) -> str:
        count = "" if self._total is None else f" {min(self._done, self._total)} of {self._total}"
        thing = f": {self._now}" if self._now else ""
        return f"{self._what}{count}{thing} ({now - self._began:.0f} s)"

    def _wipe(self) -> None:
        if self._width:
            self._stream.write(f"\r{' ' * self._width}\r")
            self._stream.flush()
            self._width = 0

    def _tick(self) -> None:
        while not self._over.wait(_REDRAW):
            self.look()
