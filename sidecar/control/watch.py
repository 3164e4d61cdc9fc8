"""Notices changed files by their content: configuration, certificates, keys. Polling sees the symlink swaps of Kubernetes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from sidecar.clock import Clock, Timer

INTERVAL = 1.0


class FileWatch:
    """Calls `changed` when the content of any watched file differs from last time; looks every second."""

    def __init__(self, clock: Clock, changed: Callable[[set[Path]], None], interval: float = INTERVAL) -> None:
        self._clock = clock
        self._changed = changed
        self._interval = interval
        self._hashes: dict[Path, bytes | None] = {}
        self._timer: Timer | None = None

    def watch(self, files: Iterable[Path]) -> None:
        """Watch these files from now on, and no others."""
        self._hashes = {path: self._hashes.get(path) or _digest(path) for path in files}
        if self._timer is None:
            self._timer = self._clock.call_later(self._interval, self._look)

    def _look(self) -> None:
        self._timer = self._clock.call_later(self._interval, self._look)
        different = set()
        for path, before in self._hashes.items():
            now = _digest(path)
            # A file that is missing for a moment is being replaced; the former content counts until the new one is there.
            if now is not None and now != before:
                self._hashes[path] = now
                different.add(path)
        if different:
            self._changed(different)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _digest(path: Path) -> bytes | None:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return None
