"""Logs: one JSON object per line on stderr, or readable lines on a terminal; written by a background thread."""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import sys
from datetime import UTC, datetime
from typing import TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_QUEUE_LENGTH = 10_000


class JsonLines(logging.Formatter):
    """`time` (RFC 3339, UTC), `level`, `event`, and whatever the caller gave as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


class Console(logging.Formatter):
    """The same for people: time, level, event, then key=value."""

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        rest = " ".join(f"{key}={value}" for key, value in _extra(record).items())
        line = f"{clock} {record.levelname.lower():7} {record.getMessage()} {rest}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class _Bounded(logging.handlers.QueueHandler):
    """A full queue drops the line: logging must never hold up an RPC."""

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            return

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        # Same process: the record is handed over as it is, its exception included.
        return record


def configure(level: str = "info", stream: TextIO | None = None) -> logging.handlers.QueueListener:
    """Send the `sidecar` logger to `stream` (stderr). Stop the returned listener at the end, so that nothing is lost."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Console() if stream.isatty() else JsonLines())
    lines: queue.Queue[logging.LogRecord] = queue.Queue(_QUEUE_LENGTH)
    logger = logging.getLogger("sidecar")
    logger.handlers[:] = [_Bounded(lines)]
    logger.setLevel(level.upper())
    logger.propagate = False
    listener = logging.handlers.QueueListener(lines, handler)
    listener.start()
    return listener
