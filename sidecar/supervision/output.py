"""What a process writes, line by line, bounded: no line, and no flood of lines, may fill our memory or our log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_LINE = 8192
"""Bytes; what is longer is cut, and says so."""
LINES_PER_SECOND = 1000
"""More than that is counted instead of written."""
_CUT = " … (cut)"


class Lines:
    """Bytes in, lines out. `write` gets each line without its end; `skipped` gets how many were left out in a second."""

    def __init__(self, write: Callable[[str], None], skipped: Callable[[int], None]) -> None:
        self._write = write
        self._skipped = skipped
        self._rest = b""
        # Inside a line whose beginning was written already, cut.
        self._skips = False
        self._second = 0.0
        self._in_second = 0
        self._left_out = 0

    def feed(self, data: bytes, now: float) -> None:
        """Take what came at `now` (monotonic seconds)."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self._skips:
                self._skips = False
            else:
                self._line(line, now)
        if self._skips:
            rest = b""
        elif len(rest) > LONGEST_LINE:
            self._line(rest, now)
            self._skips, rest = True, b""
        self._rest = rest

    def close(self, now: float) -> None:
        """Nothing more comes: what is left is a line, too."""
        if self._rest and not self._skips:
            self._line(self._rest, now)
        self._rest = b""
        self._tell_left_out()

    def _line(self, line: bytes, now: float) -> None:
        if now - self._second >= 1.0:
            self._tell_left_out()
            self._second, self._in_second = now, 0
        self._in_second += 1
        if self._in_second > LINES_PER_SECOND:
            self._left_out += 1
            return
        text = line[:LONGEST_LINE].decode("utf-8", "replace").rstrip("\r")
        self._write(text + _CUT if len(line) > LONGEST_LINE else text)

    def _tell_left_out(self) -> None:
        if self._left_out:
            self._skipped(self._left_out)
            self._left_out = 0
