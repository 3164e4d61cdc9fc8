"""What a worker is told by its parent: who it is, the sockets that are open for it, and the line between the two."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, MutableMapping

VARIABLE = "SIDECAR_WORKER"
"""The environment variable that makes a `sidecar run` a worker; taken out once read, so that no child inherits it."""


@dataclass(frozen=True, slots=True)
class Place:
    """One worker's place. `sockets`: file descriptors that listen, by listener; `line`: one that the parent reads."""

    number: int
    count: int
    sockets: dict[str, int]
    admin: str
    """Where this worker's admin endpoint is to listen (unix:/path); only the parent asks there."""
    public_admin: str
    """The address under which users reach it, by way of the parent."""
    line: int

    def to_environ(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Place | None:
        """The place that the parent has written, or None: this process is no worker."""
        text = environ.pop(VARIABLE, None)
        return cls(**json.loads(text)) if text else None

    def open_sockets(self) -> dict[str, socket.socket]:
        """The listening sockets, by listener; non-blocking."""
        opened = {name: socket.socket(fileno=number) for name, number in self.sockets.items()}
        for each in opened.values():
            each.setblocking(False)
        return opened


class Line:
    """The worker's end: tells the parent things, and learns when it is gone."""

    def __init__(self, place: Place, loop: asyncio.AbstractEventLoop, on_parent_gone: Callable[[], None]) -> None:
        self._socket = socket.socket(fileno=place.line)
        self._socket.setblocking(False)
        self._loop = loop
        self._on_parent_gone = on_parent_gone
        loop.add_reader(self._socket, self._read)

    def tell(self, **facts: Any) -> None:
        self._socket.sendall(json.dumps(facts).encode() + b"\n")

    def _read(self) -> None:
        try:
            received = self._socket.recv(1024)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self.close()
            self._on_parent_gone()

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()
