"""One process's dashboard: its history, its sessions, and the panels as they were drawn last, for however many look."""

from __future__ import annotations

import threading
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from sidecar.control.admin.dashboard.history import History
from sidecar.control.admin.dashboard.marks import CSRF
from sidecar.control.admin.dashboard.page import page, panels
from sidecar.control.admin.dashboard.picture import picture
from sidecar.control.admin.dashboard.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.control.process import Process

TICK = 1.0
"""Seconds between looks at what has changed, while somebody watches."""
_FRESH = 0.8 * TICK
_STREAMS = 12
"""Pages that are kept up to date at a time; each holds a thread."""


class Dashboard:
    """Draws in the threads of the admin server; reads on the data loop through `on_loop`."""

    def __init__(
        self,
        process: Process,
        on_loop: Callable[[Callable[[], Any]], Any],
        *,
        token: str | None,
        address: str,
    ) -> None:
        self._process = process
        self._on_loop = on_loop
        self.history = History(process)
        self.sessions = Sessions(token, _port(address), process.runtime.clock.wall)
        self.closing = threading.Event()
        self.seats = threading.BoundedSemaphore(_STREAMS)
        self._drawing = threading.Lock()
        self._drawn: dict[str, str] = {}
        self._drawn_at = float("-inf")

    def picture(self) -> dict[str, Any]:
        """Raises LoopStuckError."""
        found: dict[str, Any] = self._on_loop(lambda: picture(self._process, self.history))
        return found

    def drawn(self) -> dict[str, str]:
        """The panels by id, at most a tick old. Raises LoopStuckError."""
        with self._drawing:
            now = self._process.runtime.clock.monotonic()
            if now - self._drawn_at >= _FRESH:
                found = self.picture()
                self._drawn = {name: str(html) for name, html in panels(found, self.history).items()}
                self._drawn_at = now
            return self._drawn

    def page(self, session: str | None) -> str:
        """The whole document, for one reader. Raises LoopStuckError."""
        generation = self._process.generation
        node = generation.root.node.name if generation is not None else ""
        csrf = self.sessions.csrf(session)
        return page(self.drawn(), f"{node or 'sidecar'} – sidecar", may_leave=session is not None).replace(CSRF, csrf)

    def close(self) -> None:
        """Streams end. From any thread."""
        self.closing.set()


@cache
def static(name: str) -> bytes:
    """One of our files: style.css, app.js, icon.svg."""
    return resources.files("sidecar.control.admin.dashboard").joinpath("static", name).read_bytes()


def _port(address: str) -> str:
    tail = address.rpartition(":")[2]
    return tail if tail.isdigit() else "local"
