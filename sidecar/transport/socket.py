"""Between an asyncio transport and an HTTP/2 connection: feed what was read, write what was made, once per loop turn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.http2.connection import Connection

_HIGH_WATER = 512 * 1024
_LOW_WATER = 128 * 1024
_STUCK = 4 * 1024 * 1024
"""Bytes that may be written after high water, before the connection is cut: only control frames are, as DATA stops there."""


class Flusher:
    """Writes every connection that has output, once per loop turn: many frames, many streams, one system call."""

    __slots__ = ("_call_soon", "_dirty", "_scheduled")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._call_soon = loop.call_soon
        self._dirty: list[Socket] = []
        self._scheduled = False

    def add(self, socket: Socket) -> None:
        self._dirty.append(socket)
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        dirty, self._dirty = self._dirty, []
        for socket in dirty:
            socket.flush()


class Socket(asyncio.Protocol):
    """One transport with its connection. `made` is called with the ready transport and returns the connection, or None to close."""

    __slots__ = ("_clock", "_flusher", "_made", "_on_lost", "_unread", "connection", "transport")

    def __init__(
        self,
        flusher: Flusher,
        clock: Callable[[], float],
        made: Callable[[Socket], Connection | None],
        on_lost: Callable[[Exception | None], None],
    ) -> None:
        self._flusher = flusher
        self._clock = clock
        self._made = made
        self._on_lost = on_lost
        # Bytes written since the peer stopped reading.
        self._unread = 0
        self.transport: Any = None
        self.connection: Connection | None = None

    def wake(self) -> None:
        """The connection has output."""
        self._flusher.add(self)

    def flush(self) -> None:
        connection = self.connection
        if connection is None:
            return
        connection.dirty = False
        out = connection.out
        transport = self.transport
        if transport.is_closing():
            out.clear()
            return
        if out:
            data = b"".join(out)
            out.clear()
            if connection.blocked:
                self._unread += len(data)
                if self._unread > _STUCK:
                    transport.abort()
                    return
            transport.write(data)
        if connection.closed:
            transport.close()

    def close(self) -> None:
        """Write what waits, then close."""
        self.flush()
        self.transport.close()

    # ── called by the loop ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.set_write_buffer_limits(high=_HIGH_WATER, low=_LOW_WATER)
        self.connection = self._made(self)
        if self.connection is None:
            self.transport.abort()
        else:
            self.connection.start()

    def data_received(self, data: bytes) -> None:
        connection = self.connection
        if connection is not None:
            connection.receive(data, self._clock())

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._unread = 0
        if self.connection is not None:
            self.connection.blocked = True

    def resume_writing(self) -> None:
        if self.connection is not None and not self.connection.closed:
            self.connection.unblock()

    def connection_lost(self, error: Exception | None) -> None:
        if self.connection is not None:
            self.connection.lost()
        self._on_lost(error)
