"""Logs: one JSON object per line on stderr, or readable lines on a terminal; written by a background thread.

Why not the standard library's queue listener? It wakes its thread for each line, and each waking takes the interpreter from the
data path. Ours gathers for a moment; and what an access log says of a call is put into words by the thread, not by the call.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
import threading
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeAlias

from sidecar.telemetry.masking import MASKED, hide_named, mask, mask_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_QUEUE_LENGTH = 10_000
_GATHER = 0.05
"""Seconds between the first line and its writing."""
_CLOSING = 5.0
"""Seconds that the end of the process waits for the last lines."""

LEVELS = ("debug", "info", "warning", "error")

Mask: TypeAlias = "Callable[[str], str]"


class Line(Protocol):
    """A line that is put into words when it is written."""

    created: float
    """Seconds since the epoch."""
    level: str
    event: str

    def fields(self, mask: Mask) -> Mapping[str, Any]:
        """What it says; texts that others chose have gone through `mask`."""


class JsonLines(logging.Formatter):
    """`time` (RFC 3339, UTC), `level`, `event`, and whatever the caller gave as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        exception = self.formatException(record.exc_info) if record.exc_info else None
        return self.line(record.created, record.levelname.lower(), record.getMessage(), extra_of(record), exception)

    def line(
        self, created: float, level: str, event: str, fields: Mapping[str, Any], exception: str | None = None
    ) -> str:
        second = int(created)
        time = f"{_rfc3339(second)}.{int((created - second) * 1000):03}Z"
        entry: dict[str, object] = {"time": time, "level": level, "event": event, **fields}
        if exception is not None:
            entry["exception"] = exception
        return _encode(entry)


# Made once: `json.dumps` with options makes an encoder for each line.
_encode = json.JSONEncoder(default=str, ensure_ascii=False, check_circular=False).encode


@functools.lru_cache(maxsize=4)
def _rfc3339(second: int) -> str:
    """A second since the epoch, without its fraction and its zone."""
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")


class Console(JsonLines):
    """The same for people: time, level, event, then key=value."""

    def line(
        self, created: float, level: str, event: str, fields: Mapping[str, Any], exception: str | None = None
    ) -> str:
        clock = datetime.fromtimestamp(created).astimezone().strftime("%H:%M:%S")
        rest = " ".join(f"{key}={_word(value)}" for key, value in fields.items())
        line = f"{clock} {level:7} {event} {rest}".rstrip()
        return f"{line}\n{exception}" if exception is not None else line


def _word(value: object) -> str:
    """A value such that it is seen where it ends; a line break makes no line."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if text.split() != [text] else text


def extra_of(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class LogWriter(logging.Handler):
    """Takes records and lines without waiting, and writes them in a thread. A full queue drops: logging holds up no RPC."""

    def __init__(self, stream: TextIO, limit: int = _QUEUE_LENGTH) -> None:
        super().__init__()
        self._stream = stream
        self._style = Console() if stream.isatty() else JsonLines()
        self._limit = limit
        self._queue: deque[logging.LogRecord | Line] = deque()
        self._asleep = True
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._hidden: frozenset[str] = frozenset()
        self._mask: Mask = mask
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    # ── for whoever has something to say ──

    def emit(self, record: logging.LogRecord) -> None:
        self.add(record)

    def add(self, line: logging.LogRecord | Line) -> None:
        queue = self._queue
        if len(queue) >= self._limit:
            self.dropped += 1
            return
        queue.append(line)
        if self._asleep:
            self._asleep = False
            self._wanted.set()

    def hide(self, names: Iterable[str]) -> None:
        """From now on, what bears one of these names is masked, beside all that is masked anyway."""
        self._hidden = frozenset(names)
        hidden = hide_named(self._hidden) if self._hidden else None
        if hidden is None:
            self._mask = mask
        else:
            self._mask = functools.lru_cache(maxsize=512)(lambda text: hidden(mask(text)))

    def stop(self) -> None:
        """Write what is left. Harmless when repeated."""
        self._closing.set()
        self._wanted.set()
        self._thread.join(_CLOSING)

    # ── the thread ──

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wanted.wait()
            self._closing.wait(_GATHER)
            self._wanted.clear()
            # From here on we are woken again; what was added before is seen below.
            self._asleep = True
            self._write()
        self._write()

    def _write(self) -> None:
        queue = self._queue
        lines = []
        while queue:
            try:
                lines.append(self._said(queue.popleft()))
            except Exception as error:  # a line that cannot be said must not silence all others
                lines.append(self._style.line(0.0, "error", "a log line failed", {"cause": type(error).__name__}))
        if lines:
            try:
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                # Nobody reads what we say, or the disk is full: there is nobody to tell.
                self.dropped += len(lines)

    def _said(self, line: logging.LogRecord | Line) -> str:
        if not isinstance(line, logging.LogRecord):
            return self._style.line(line.created, line.level, line.event, line.fields(self._mask))
        fields = {name: MASKED if name in self._hidden else self._clean(each) for name, each in extra_of(line).items()}
        exception = self._mask(self._style.formatException(line.exc_info)) if line.exc_info else None
        return self._style.line(
            line.created, line.levelname.lower(), self._mask(line.getMessage()), mask_value(fields), exception
        )

    def _clean(self, value: object) -> object:
        return self._mask(value) if isinstance(value, str) else value


def configure(level: str = "info", stream: TextIO | None = None) -> LogWriter:
    """Send the `sidecar` logger to `stream` (stderr). Stop the returned writer at the end, so that nothing is lost."""
    writer = LogWriter(stream or sys.stderr)
    logger = logging.getLogger("sidecar")
    logger.handlers[:] = [writer]
    logger.setLevel(level.upper())
    logger.propagate = False
    return writer


def writer_of(logger: logging.Logger) -> LogWriter | None:
    """The writer that `configure` has given to `logger`."""
    return next((each for each in logger.handlers if isinstance(each, LogWriter)), None)


def level_of(logger: logging.Logger) -> str:
    return logging.getLevelName(logger.getEffectiveLevel()).lower()


def set_level(logger: logging.Logger, level: str) -> None:
    """Raises ValueError saying what is allowed."""
    if level not in LEVELS:
        raise ValueError(f"{level!r} is no level; allowed: {', '.join(LEVELS)}")
    former = level_of(logger)
    logger.setLevel(level.upper())
    if former != level:
        logger.warning("log level changed", extra={"former": former, "now": level})
