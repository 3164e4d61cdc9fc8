"""Between an asyncio transport and an HTTP/2 connection: feed what was read, write what was made, once per loop turn."""

from __future__ import annotations

import asyncio
import select
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.http2.connection import Connection

_HIGH_WATER = 512 * 1024
_LOW_WATER = 128 * 1024
_STEP = 4096
"""Work, in bytes of DATA, between two looks at the clock; little enough that what begins in them takes no longer than a slice."""
_SLICE = 0.001
"""Seconds that what was read from one connection may take before others get their turn."""
_SHARE = 0.001
"""Seconds per loop turn for all those together whose input took longer than a slice."""
_STUCK = 4 * 1024 * 1024
"""Bytes that may be written after high water, before the connection is cut: only control frames are, as DATA stops there."""


class Flusher:
    """Writes every connection that has output, once per loop turn: many frames, many streams, one system call.

    Connections with more input than fits into a slice go on here, all of them together for one share of a loop turn, so that
    one that sends as fast as it can takes little from those that do not.
    """

    __slots__ = ("_behind", "_call_soon", "_dirty", "_scheduled")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._call_soon = loop.call_soon
        self._dirty: list[Socket] = []
        self._scheduled = False
        self._behind: deque[Socket] = deque()

    @property
    def behind(self) -> int:
        """Connections that wait with input that has been read from their sockets."""
        return len(self._behind)

    def later(self, socket: Socket) -> None:
        """Go on with the input of `socket` from the next loop turn on."""
        self._behind.append(socket)
        if len(self._behind) == 1:
            self._call_soon(self._catch_up)

    def _catch_up(self) -> None:
        behind = self._behind
        ends = behind[0].clock() + _SHARE
        while behind:
            socket = behind.popleft()
            if socket.catch_up():
                behind.append(socket)
            if socket.clock() >= ends:
                break
        if behind:
            self._call_soon(self._catch_up)

    def add(self, socket: Socket) -> None:
        self._dirty.append(socket)
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        dirty, self._dirty = self._dirty, []
        for socket in dirty:
            try:
                socket.flush()
            except Exception as error:
                # A transport can be gone before we are told so. That is the end of this one; the others must be written.
                socket.broken(error)


class Socket(asyncio.Protocol):
    """One transport with its connection. `made` is called with the ready transport and returns the connection, or None to close."""

    __slots__ = ("_behind", "_flusher", "_made", "_on_lost", "_paused", "_unread", "clock", "connection", "transport")

    def __init__(
        self,
        flusher: Flusher,
        clock: Callable[[], float],
        made: Callable[[Socket], Connection | None],
        on_lost: Callable[[Exception | None], None],
    ) -> None:
        self._flusher = flusher
        self.clock = clock
        self._made = made
        self._on_lost = on_lost
        # Bytes written since the peer stopped reading.
        self._unread = 0
        # Input waits for its turn; and so much of it that no more is read.
        self._behind = False
        self._paused = False
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

    def broken(self, error: Exception) -> None:
        """Writing failed: end at once."""
        connection = self.connection
        if connection is not None:
            connection.out.clear()
            connection.lost()
        self.transport.abort()

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
        if connection is None:
            return
        if self._behind:
            connection.hold(data)
            if not self._paused:
                self._paused = True
                self.transport.pause_reading()
            return
        if self._flusher.behind and len(data) > _STEP:
            # Somebody floods, perhaps this one. Whoever sends little at a time is not made to wait for that.
            if connection.is_server and self._peer_is_gone():
                self.transport.abort()
                connection.lost()
                return
            connection.hold(data)
        else:
            began = self.clock()
            more = connection.receive(data, began, _STEP)
            while more:
                now = self.clock()
                if now - began > _SLICE:
                    break
                more = connection.proceed(now, _STEP)
            if not more:
                return
        self._behind = True
        self._flusher.later(self)

    def catch_up(self) -> bool:
        """Go on with what waits, for one step; True = more is waiting."""
        connection = self.connection
        if not self._behind or connection is None:
            return False
        if connection.is_server and self._peer_is_gone():
            # Whoever sends all that they can and hangs up leaves work that nobody waits for.
            self._behind = False
            self.transport.abort()
            connection.lost()
            return False
        if connection.proceed(self.clock(), _STEP):
            return True
        self._behind = False
        if self._paused:
            self._paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()
        return False

    def _peer_is_gone(self) -> bool:
        """Has the peer hung up altogether? The loop would tell us only after what the peer sent before that."""
        if self.transport.is_closing():
            return True
        poll = select.poll()
        # No event asked for: errors and hang-ups are always told.
        poll.register(self.transport.get_extra_info("socket").fileno(), 0)
        return bool(poll.poll(0))

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
        connection = self.connection
        if connection is not None:
            if self._behind and not connection.is_server:
                # Answers that have arrived are answers. Requests of a caller who is gone are not worth the work.
                connection.proceed(self.clock())
            self._behind = False
            connection.lost()
        self._on_lost(error)
        # What an ended connection holds is large, and cycles are looked for rarely: so there are none.
        self.connection = None
        del self._made, self._on_lost
        if connection is not None:
            connection.release()
