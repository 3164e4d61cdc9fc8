"""The writer: a bounded queue on the data path, and one thread per sink that formats, seals, writes and syncs.

Why a thread and not a task? Hashing is cheap, `fsync` is not, and neither may hold up an RPC. The thread gathers for a
moment before it writes, so that a busy sidecar wakes it five times a second and not once per call: what it costs the
data path is less its work than each taking of the interpreter's lock, which an RPC then waits for.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from sidecar.policies.audit.trail import Trail, TrailSettings, rfc3339

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    from sidecar.clock import Clock

_GATHER = 0.2
"""Seconds between the first record and its writing."""
_RETRY = 1.0
"""Seconds until a failed write is tried again."""
_BATCH = 2000
_CLOSING = 10.0
"""Seconds that the end of the process waits for the last records."""


class Entry(Protocol):
    """What the queue holds: facts of one call, to be put into words by the thread."""

    @property
    def settings(self) -> TrailSettings: ...

    def describe(self, wall_offset: float) -> dict[str, Any]:
        """The record; `wall_offset` = wall clock minus monotonic clock, in seconds."""


class Writer:
    """One sink of one process; kept over reloads. `queue` and `lose` are for the data path, all else for the thread."""

    def __init__(self, path: Path, clock: Clock, log: logging.Logger, settings: TrailSettings) -> None:
        self.path = path
        self._clock = clock
        self._log = log
        # The data path's side. One thread appends, one takes; `deque` needs no lock for that.
        self.queue: deque[Entry] = deque()
        self.asleep = True
        self.dropped = 0
        # The thread's side.
        self.written = 0
        self.failures = 0
        self._trail = Trail(path, clock.wall, settings)
        self._pending: deque[dict[str, Any]] = deque()
        self._told_dropped = 0
        self._failing = False
        self._signed_at = clock.monotonic()
        # Between the two.
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    @property
    def waiting(self) -> int:
        """Records that are not in the file yet."""
        return len(self.queue) + len(self._pending)

    def wake(self) -> None:
        """There is something in the queue, and the thread is asleep."""
        self.asleep = False
        self._wanted.set()
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._closing.clear()
                self._thread = threading.Thread(target=self._run, name=f"audit {self.path.name}", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Write what is left, sign it, let go of the file. What cannot be written is counted as dropped, and logged."""
        thread = self._thread
        if thread is None and not self.queue:
            return
        self._start()
        thread = self._thread
        assert thread is not None
        self._closing.set()
        self._wanted.set()
        thread.join(_CLOSING)
        if thread.is_alive():
            self._log.error("audit log not finished", extra={"sink": str(self.path), "records": self.waiting})

    # ── the thread ──

    def _run(self) -> None:
        closing = self._closing
        try:
            while not closing.is_set():
                self._wanted.wait(self._rest())
                closing.wait(_RETRY if self._failing else _GATHER)
                self._wanted.clear()
                # From here on the data path wakes us again; what it appended before is seen below.
                self.asleep = True
                self.write()
                if self._is_due():
                    self.sign()
        except Exception as error:  # a defect must not end the audit in silence
            self.failures += 1
            self._log.exception("defect", exc_info=error, extra={"where": "audit writer"})
        finally:
            try:
                self.finish()
            finally:
                self.asleep = True
                self._thread = None

    def _rest(self) -> float | None:
        """Seconds to sleep if nothing comes; None = until something does."""
        if self._pending or self.queue or self.dropped != self._told_dropped:
            return 0.0
        if not self._trail.is_open:
            return None
        return max(0.0, self._signed_at + self._trail.settings.interval - self._clock.monotonic())

    def _is_due(self) -> bool:
        return self._clock.monotonic() - self._signed_at >= self._trail.settings.interval

    def write(self) -> bool:
        """Write everything that is queued; False = it failed, and stays queued. Callable without the thread (tests)."""
        lost = self.dropped
        offset = self._clock.wall() - self._clock.monotonic()
        while True:
            while self.queue and len(self._pending) < _BATCH:
                entry = self.queue.popleft()
                self._trail.settings = entry.settings
                self._pending.append(self._described(entry, offset))
            if not self.queue and lost > self._told_dropped:
                now = rfc3339(self._clock.wall())
                self._pending.append({"kind": "gap", "time": now, "dropped": lost - self._told_dropped})
                self._told_dropped = lost
            if not self._pending:
                return True
            if not self._append():
                return False

    def _described(self, entry: Entry, offset: float) -> dict[str, Any]:
        try:
            return entry.describe(offset)
        except Exception as error:
            # A record that cannot be told is still a record.
            self._log.error("defect", exc_info=error, extra={"where": "audit record"})
            return {"kind": "call", "time": rfc3339(self._clock.wall()), "defect": type(error).__name__}

    def _append(self) -> bool:
        before = len(self._pending)
        try:
            self._trail.append(self._pending)
        except (OSError, ValueError) as error:
            self._failed(error)
            return False
        finally:
            self.written += before - len(self._pending)
        if self._failing:
            self._failing = False
            self._log.info("audit log is written again", extra={"sink": str(self.path)})
        return True

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        if not self._failing:
            # Once, not per attempt; the metric tells how many.
            self._failing = True
            extra = {"sink": str(self.path), "cause": str(error), "waiting": self.waiting}
            self._log.error("audit log cannot be written", extra=extra)

    def sign(self) -> None:
        """A checkpoint; where nothing has come since the last one, let go of the file, too."""
        self._signed_at = self._clock.monotonic()
        try:
            if self._trail.unsigned and self._trail.settings.key is not None:
                self._trail.checkpoint()
            elif not self.waiting:
                self._trail.close()
        except (OSError, ValueError) as error:
            self._failed(error)

    def finish(self) -> None:
        """The end: everything out, signed and synced."""
        if not self.write():
            lost = self.waiting
            self.dropped += lost
            self._pending.clear()
            self.queue.clear()
            # Told in the next record, should there be one.
            self._log.error("audit records lost", extra={"sink": str(self.path), "records": lost})
        try:
            self._trail.close()
        except (OSError, ValueError) as error:
            self._failed(error)
