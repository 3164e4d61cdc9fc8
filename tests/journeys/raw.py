"""Callers and agents on the bare engine: they send exactly what they are told, and keep exactly what came."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from sidecar.http2.connection import Connection, Limits
from sidecar.transport.dial import dial
from sidecar.transport.socket import Flusher, Socket
from tests.support.pki import Leaf
from tests.support.wire import ScriptedStream, message, request_block

LIMIT = 20.0
"""Seconds after which a condition that does not come true fails its test."""
OnEvent = Callable[[ScriptedStream, str], None]


class Exchange(ScriptedStream):
    """A stream of a test; `until` waits for what it should see."""

    __slots__ = ("_changed", "progress")

    def __init__(self, on_event: OnEvent | None = None, *, consumes: bool = True) -> None:
        super().__init__(self._tell, consumes=consumes)
        self.progress = on_event
        self._changed = asyncio.Event()

    def _tell(self, _stream: ScriptedStream, event: str) -> None:
        self._changed.set()
        if self.progress is not None:
            self.progress(self, event)

    def on_drained(self, size: int) -> None:
        super().on_drained(size)
        self._tell(self, "drained")

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def is_quiet_for(self, seconds: float) -> None:
        """Wait until nothing has happened on it for `seconds`."""
        async with asyncio.timeout(LIMIT):
            while True:
                self._changed.clear()
                try:
                    async with asyncio.timeout(seconds):
                        await self._changed.wait()
                except TimeoutError:
                    return

    async def over(self) -> Self:
        """Wait until it has ended, by its end or by a reset."""
        await self.until(lambda: self.seen.ended or self.seen.reset is not None)
        return self


class RawAgent:
    """An h2c server in this process. `on_event` is its script; `streams` are all it has seen."""

    def __init__(
        self,
        on_event: OnEvent | None = None,
        *,
        consumes: bool = True,
        keeps: bool = True,
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits or Limits(resets_per_second=100_000)
        self.on_event = on_event
        self.consumes = consumes
        self.streams: list[Exchange] = []
        self.address = ""
        self.connections: list[Connection] = []
        self._keeps = keeps
        self._arrived = asyncio.Event()
        self._sockets: list[Socket] = []
        self._server: asyncio.Server | None = None
        self._flusher = Flusher(asyncio.get_running_loop())

    async def start(self, at: str = "127.0.0.1:0") -> Self:
        loop = asyncio.get_running_loop()
        if at.startswith("unix:"):
            self._server = await loop.create_unix_server(self._protocol, at.removeprefix("unix:"))
            self.address = at
        else:
            host, _, port = at.rpartition(":")
            self._server = await loop.create_server(self._protocol, host, int(port))
            self.address = f"{host}:{self._server.sockets[0].getsockname()[1]}"
        return self

    def _protocol(self) -> Socket:
        return Socket(self._flusher, time.monotonic, self._made, lambda _: None)

    def _made(self, made: Socket) -> Connection:
        self._sockets.append(made)
        connection = Connection(accept=self._accept, wake=made.wake, limits=self._limits)
        self.connections.append(connection)
        return connection

    def _accept(self, connection: Connection) -> Exchange:
        stream = Exchange(self._event, consumes=self.consumes)
        if self._keeps:
            self.streams.append(stream)
        return stream

    def _event(self, stream: ScriptedStream, event: str) -> None:
        self._arrived.set()
        if self.on_event is not None:
            self.on_event(stream, event)

    async def stream(self, number: int = -1, *, count: int = 1) -> Exchange:
        """Wait until `count` streams have come; one of them."""
        async with asyncio.timeout(LIMIT):
            while len(self.streams) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.streams[number]

    def stop(self) -> None:
        """Accept no more, and hang up."""
        if self._server is not None:
            self._server.close()
        for each in self._sockets:
            if each.transport is not None:
                each.transport.abort()

    async def __aenter__(self) -> Self:
        return await self.start() if not self.address else self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class RawCaller:
    """A connection to a listener."""

    def __init__(self, connection: Connection, socket: Socket, lost: asyncio.Event) -> None:
        self.connection = connection
        self.socket = socket
        self.lost = lost

    @classmethod
    async def connect(
        cls, address: str, *, leaf: Leaf | None = None, ca: Path | None = None, limits: Limits | None = None
    ) -> RawCaller:
        """Raises OSError, ssl.SSLError, ConnectionError when the listener does not want us."""
        flusher = Flusher(asyncio.get_running_loop())
        settled = asyncio.Event()
        lost = asyncio.Event()
        made: list[Connection] = []

        def start(socket: Socket) -> Connection:
            connection = Connection(accept=None, wake=socket.wake, limits=limits)
            connection.on_settings = settled.set
            made.append(connection)
            return connection

        def over(_: Exception | None) -> None:
            lost.set()
            settled.set()

        context = None
        trusted = ca or (leaf.ca if leaf is not None else None)
        if trusted is not None:
            context = ssl.create_default_context(cafile=str(trusted))
            context.set_alpn_protocols(["h2"])
            if leaf is not None:
                context.load_cert_chain(leaf.certificate, leaf.private_key)
        socket = await dial(
            address,
            lambda: Socket(flusher, time.monotonic, start, over),
            timeout=LIMIT,
            context=context,
            server_name="localhost" if context else None,
        )
        async with asyncio.timeout(LIMIT):
            await settled.wait()
        if lost.is_set():
            raise ConnectionResetError("the listener hung up")
        return cls(made[0], socket, lost)

    def open(
        self,
        *extra: tuple[str | bytes, str | bytes],
        path: str = "/test.Service/Method",
        block: bytes | None = None,
        body: bytes | None = None,
        end: bool = False,
        consumes: bool = True,
        on_event: OnEvent | None = None,
    ) -> Exchange:
        """Begin an RPC; send `body` as one message."""
        stream = Exchange(on_event, consumes=consumes)
        self.connection.open(stream)
        stream.send_headers(block or request_block(path, *extra), body is None and end)
        if body is not None:
            stream.send_data(message(body), end)
        return stream

    async def call(
        self, *extra: tuple[str | bytes, str | bytes], body: bytes = b"hello", path: str = "/test.Service/Method"
    ) -> Exchange:
        """A unary RPC, to its end."""
        return await self.open(*extra, path=path, body=body, end=True).over()

    def close(self) -> None:
        self.socket.transport.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
