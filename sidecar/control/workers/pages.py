"""The pages of workers that come and go, as one that never falls: what a worker has counted stays counted when it is gone.

Why? A counter that falls is a counter that began anew, for everybody who reads it; what the workers that live on have counted in all
their life would seem to have happened just now.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sidecar.control.workers import merge

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from prometheus_client.core import Metric

_COUNTED = frozenset({"counter", "histogram", "summary"})


class Pages:
    """One reader's view; thread-safe."""

    def __init__(self) -> None:
        self._last: dict[Hashable, str] = {}
        self._gone = ""
        self._reading = threading.Lock()

    def together(self, found: Mapping[Hashable, str | None]) -> list[Metric]:
        """The families of all pages, by worker. None = it does not answer just now: it is taken as it was."""
        with self._reading:
            for worker in [each for each in self._last if each not in found]:
                self._gone = _counts(merge.merge([self._gone, self._last.pop(worker)]))
            for worker, page in found.items():
                if page is not None:
                    self._last[worker] = page
            return merge.merge([self._gone, *self._last.values()])


def _counts(families: list[Metric]) -> str:
    """What counts of these, as a page: what measures is gone with its worker."""
    return merge.page([each for each in families if each.type in _COUNTED], merge.ACCEPT)[1].decode()
