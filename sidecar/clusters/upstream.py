"""One connection to an endpoint: dial, verify who answers, keep alive, say when it is ready and when it is gone."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.http2.connection import Connection, Limits
from sidecar.http2.errors import ErrorCode
from sidecar.transport.dial import describe, dial
from sidecar.transport.socket import Flusher, Socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clock import Expiring
    from sidecar.runtime import Runtime


class UntrustedPeer(Exception):
    """Whoever answered is not whom the configuration names."""


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """How a cluster connects. Times in seconds."""

    connect_timeout: float = 5.0
    keepalive_interval: float = 300.0
    keepalive_timeout: float = 20.0
    limits: Limits = Limits()
    context: Callable[[], ssl.SSLContext | None] = lambda: None
    server_name: str | None = None
    verify: Callable[[bytes], str | None] | None = None
    """Given the peer's certificate (DER): what is wrong with it, or None."""


class Upstream:
    """A connection and what watches over it. `on_ready`, `on_spent` (takes no new streams) and `on_gone` tell the endpoint."""

    __slots__ = (
        "_bucket",
        "_flusher",
        "_on_gone",
        "_on_ready",
        "_on_spent",
        "_options",
        "_pinged_at",
        "_runtime",
        "_socket",
        "connection",
        "ready",
        "ready_at",
    )

    def __init__(
        self,
        runtime: Runtime,
        flusher: Flusher,
        options: UpstreamOptions,
        *,
        on_ready: Callable[[Upstream], None],
        on_spent: Callable[[Upstream], None],
        on_gone: Callable[[Upstream], None],
    ) -> None:
        self._runtime = runtime
        self._flusher = flusher
        self._options = options
        self._on_ready = on_ready
        self._on_spent = on_spent
        self._on_gone = on_gone
        self._socket: Socket | None = None
        self._bucket: set[Expiring] | None = None
        self._pinged_at = 0.0
        self.connection: Connection | None = None
        self.ready = False
        # When the peer's SETTINGS came, in monotonic seconds.
        self.ready_at = 0.0

    async def connect(self, address: str) -> None:
        """Dial `address`; `on_ready` follows when the peer's SETTINGS are here. Raises OSError, ssl.SSLError, UntrustedPeer."""
        options = self._options
        context = options.context()
        made = await dial(
            address,
            lambda: Socket(self._flusher, self._runtime.clock.monotonic, self._made, self._lost),
            timeout=options.connect_timeout,
            context=context,
            server_name=options.server_name,
        )
        if self.connection is None:
            raise UntrustedPeer(self._refusal(made.transport) or "the connection was closed at once")
        now = self._runtime.clock.monotonic()
        # A peer that never sends SETTINGS is no HTTP/2 server.
        self._bucket = self._runtime.deadlines.add(now + options.connect_timeout, now, self)

    def _refusal(self, transport: Any) -> str | None:
        tls = transport.get_extra_info("ssl_object")
        if tls is None:
            return None
        if tls.selected_alpn_protocol() != "h2":
            return "it does not speak HTTP/2 (ALPN h2)"
        if self._options.verify is None:
            return None
        return self._options.verify(tls.getpeercert(binary_form=True) or b"")

    def _made(self, made: Socket) -> Connection | None:
        if self._refusal(made.transport) is not None:
            return None
        self._socket = made
        connection = Connection(accept=None, wake=made.wake, limits=self._options.limits)
        connection.on_settings = self._settled
        connection.on_going_away = self._going_away
        connection.on_idle = self._drained
        connection.on_closed = self._closed
        self.connection = connection
        return connection

    def _settled(self) -> None:
        self.ready = True
        self.ready_at = self._runtime.clock.monotonic()
        self._leave_bucket()
        self._watch()
        self._on_ready(self)

    def _going_away(self) -> None:
        self.ready = False
        self._on_spent(self)

    def _drained(self) -> None:
        self.close()

    def _closed(self) -> None:
        self.ready = False
        self._leave_bucket()
        self._on_gone(self)

    def _lost(self, error: Exception | None) -> None:
        """The transport is gone; the connection has already told everyone."""

    def close(self) -> None:
        """End now; streams that still run are told so."""
        if self.connection is not None:
            self.connection.close()
        if self._socket is not None:
            self._socket.close()

    def drain(self) -> None:
        """Take no new streams; close when the last one has ended."""
        self.ready = False
        connection = self.connection
        if connection is None:
            return
        connection.draining = True
        if not connection.streams:
            self.close()

    # ── keepalive ──

    def _watch(self) -> None:
        now = self._runtime.clock.monotonic()
        self._bucket = self._runtime.deadlines.add(now + self._options.keepalive_interval, now, self)

    def _leave_bucket(self) -> None:
        if self._bucket is not None:
            self._bucket.discard(self)
            self._bucket = None

    def on_deadline(self, now: float) -> None:
        self._bucket = None
        connection = self.connection
        if connection is None or connection.closed:
            return
        options = self._options
        if not self.ready and not connection.got_settings:
            self._fail("no SETTINGS in time")
        elif self._pinged_at:
            if now - self._pinged_at >= options.keepalive_timeout:
                self._fail("no answer to a keepalive PING")
            else:
                self._bucket = self._runtime.deadlines.add(self._pinged_at + options.keepalive_timeout, now, self)
        elif now - connection.now < options.keepalive_interval:
            self._bucket = self._runtime.deadlines.add(connection.now + options.keepalive_interval, now, self)
        else:
            self._pinged_at = now
            connection.ping(b"keepaliv", self._answered)
            self._bucket = self._runtime.deadlines.add(now + options.keepalive_timeout, now, self)

    def _answered(self) -> None:
        self._pinged_at = 0.0
        self._leave_bucket()
        self._watch()

    def _fail(self, why: str) -> None:
        if self.connection is not None:
            self.connection.close(ErrorCode.NO_ERROR, why)
        if self._socket is not None:
            self._socket.transport.abort()


def plain_reason(error: BaseException) -> str:
    """A failed connect in plain words."""
    return str(error) if isinstance(error, UntrustedPeer) else describe(error)
