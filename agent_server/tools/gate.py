"""The way out of the browser: a proxy on loopback that lets it connect to allowed addresses only, and cuts off what is too large.

Why not the browser's own interception of requests? Redirects pass it by, and a name may mean another address when the browser
looks it up itself. Here the address is checked after the lookup and before the connection, for each connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import OrderedDict
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from agent_server.tools.addresses import AddressRule

_HEAD = 64 << 10
_PIECE = 64 << 10
_CONNECT_SECONDS = 15.0


class Gate:
    """The proxy. `refused` and `cut` name what was kept away lately, as host:port with a number that rises."""

    def __init__(self, rule: AddressRule, *, max_bytes: int) -> None:
        """`max_bytes`: what one connection may bring in; more is cut off."""
        self._rule = rule
        self._max_bytes = max_bytes
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused: OrderedDict[str, int] = OrderedDict()
        self._cut: OrderedDict[str, int] = OrderedDict()
        self._news = asyncio.Event()
        self.number = 0
        self.address = ""

    async def open(self) -> None:
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._taken, "127.0.0.1", 0, limit=_HEAD)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop, and end all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def was_refused(self, url: str, since: int) -> bool:
        """The place of `url` was refused after the gate's `number` was `since`."""
        return self._refused.get(_place(url), 0) > since

    def was_cut(self, url: str, since: int) -> bool:
        """An answer from the place of `url` was cut off after the gate's `number` was `since`."""
        return self._cut.get(_place(url), 0) > since

    async def until_cut(self, url: str, since: int) -> None:
        """Wait until `was_cut`."""
        while not self.was_cut(url, since):
            await self._news.wait()

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, asyncio.CancelledError):
            # The browser sees a connection that ends; why is in `refused` and `cut`.
            return
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, _, rest = head.partition(b"\r\n")
        method, target, _ = line.decode("latin-1").split(" ", 2)
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        host, port = parts.hostname or "", parts.port or 80
        there, status = await self._connected(host, port)
        if there is None:
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
            await writer.drain()
            return
        far_reader, far_writer = there
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                kept = [
                    each
                    for each in rest.split(b"\r\n")
                    if each and not each.lower().startswith((b"proxy-", b"connection:", b"keep-alive:"))
                ]
                first = f"{method} {path} HTTP/1.1".encode("latin-1")
                # One request per connection, so that none has to be looked for behind a body.
                far_writer.write(b"\r\n".join((first, *kept, b"connection: close", b"", b"")))
            out = asyncio.get_running_loop().create_task(_pump(reader, far_writer, None))
            try:
                if not await _pump(far_reader, writer, self._max_bytes):
                    self._note(self._cut, host, port)
            finally:
                out.cancel()
                await asyncio.wait({out})
        finally:
            far_writer.transport.abort()

    async def _connected(
        self, host: str, port: int
    ) -> tuple[tuple[asyncio.StreamReader, asyncio.StreamWriter] | None, str]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return None, "502 Name Not Found"
        allowed = [each for each in dict.fromkeys(str(entry[4][0]) for entry in found) if self._rule.allows(each)]
        if not allowed:
            self._note(self._refused, host, port)
            return None, "403 Address Refused"
        for address in allowed:
            with contextlib.suppress(OSError):
                async with asyncio.timeout(_CONNECT_SECONDS):
                    return await asyncio.open_connection(address, port, limit=_PIECE), ""
        return None, "502 Connect Failed"

    def _note(self, where: OrderedDict[str, int], host: str, port: int) -> None:
        self.number += 1
        where[f"{host}:{port}"] = self.number
        where.move_to_end(f"{host}:{port}")
        self._news.set()
        self._news = asyncio.Event()
        if len(where) > 1000:
            where.popitem(last=False)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, room: int | None) -> bool:
    """Bytes on until the end; False when there were more than `room`."""
    while piece := await reader.read(_PIECE):
        if room is not None:
            room -= len(piece)
            if room < 0:
                return False
        writer.write(piece)
        await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()
    return True


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
