"""A sample of the differences, in a file: one JSON object a line. A thread writes; the data path never waits for a disk."""

from __future__ import annotations

import json
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping
    from pathlib import Path

    from sidecar.clock import Clock

_QUEUE = 1000
_CLOSING = 5.0


class Samples:
    """At most `per_minute` of them, and no more than `max_bytes` in the file: then it is begun anew, the former one is `.1`."""

    def __init__(self, path: Path, per_minute: int, max_bytes: int, clock: Clock, log: logging.Logger) -> None:
        self._path = path
        self._per_minute = per_minute
        self._max_bytes = max_bytes
        self._clock = clock
        self._log = log
        self._minute = -1
        self._taken = 0
        self._queue: deque[Mapping[str, Any]] = deque(maxlen=_QUEUE)
        self._wanted = threading.Condition()
        self._closing = False
        self._failing = False
        self._thread: threading.Thread | None = None

    def take(self, difference: Mapping[str, Any]) -> bool:
        """Keep it, unless this minute has had its share."""
        minute = int(self._clock.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._taken = minute, 0
        if self._taken >= self._per_minute:
            return False
        self._taken += 1
        with self._wanted:
            self._queue.append(difference)
            self._wanted.notify()
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name=f"mirror {self._path.name}", daemon=True)
                self._thread.start()
        return True

    def close(self) -> None:
        """Write what is left."""
        with self._wanted:
            self._closing = True
            self._wanted.notify()
        if self._thread is not None:
            self._thread.join(_CLOSING)

    def _run(self) -> None:
        while True:
            with self._wanted:
                self._wanted.wait_for(lambda: self._queue or self._closing)
                lines = [json.dumps(each, separators=(",", ":")) for each in self._queue]
                self._queue.clear()
                is_last = self._closing
            if lines:
                self._write("".join(f"{line}\n" for line in lines))
            if is_last:
                return

    def _write(self, text: str) -> None:
        try:
            if self._path.exists() and self._path.stat().st_size > self._max_bytes:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
            with self._path.open("a", encoding="utf-8") as out:
                out.write(text)
            self._failing = False
        except OSError as error:
            if not self._failing:
                self._failing = True
                self._log.warning(
                    "samples of differences cannot be written",
                    extra={"file": str(self._path), "cause": error.strerror or "unknown reason"},
                )
