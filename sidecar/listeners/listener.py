"""A listener: binds, accepts with the certificates of the moment, bounds what one peer and all peers may use, drains."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket as sockets
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.http2.connection import Connection, Limits
from sidecar.http2.errors import ErrorCode
from sidecar.listeners.peer import Peer, unusable
from sidecar.proxy.call import Call
from sidecar.transport.socket import Flusher, Socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clock import Expiring
    from sidecar.identity.certificate import CertificateFacts
    from sidecar.proxy.edge import Edge
    from sidecar.proxy.rejection import Rejection
    from sidecar.runtime import Runtime

_AGE_JITTER = 0.1
"""gRFC A9: connections that began together must not end together."""

_ACCEPTED_AT_ONCE = 4
"""Connections per loop turn: each costs as much as several RPCs, and those of others are not to wait for a crowd at the door."""
_CROWD = 64
"""Connections whose input waits to be worked on, at which no others are accepted: each may hold what one read brings, 256 KiB."""

_HANDSHAKES = 512
"""Unfinished TLS handshakes: each holds up to 256 KiB, which nobody has shown a certificate for."""
_FAIR_TIME = 1.0
"""Seconds that a handshake may take however many others want a place; after that the oldest makes room."""


@dataclass(frozen=True, slots=True)
class ListenerOptions:
    """Bounds of a listener; times in seconds, 0 = never."""

    limits: Limits = Limits()
    max_connections: int = 10_000
    idle_timeout: float = 3600.0
    max_connection_age: float = 0.0
    header_timeout: float = 10.0
    trust_domains: frozenset[str] = frozenset()
    """Of callers; empty = any that a trusted CA signs."""
    is_revoked: Callable[[CertificateFacts], bool] = lambda _: False


@dataclass(slots=True)
class Direction:
    """The functions that make a listener inbound or outbound."""

    identify: Callable[[CertificateFacts | None], tuple[str | None, str | None]]
    told_agent: Callable[[str | None], bytes]


class Listener:
    """One bound address. It outlives generations: a reload replaces `edge`, connections and their calls go on."""

    def __init__(
        self,
        name: str,
        listening: sockets.socket,
        *,
        edge: Edge,
        direction: Direction,
        options: ListenerOptions,
        context: Callable[[], ssl.SSLContext | None],
        runtime: Runtime,
        flusher: Flusher,
    ) -> None:
        self.name = name
        self.edge = edge
        self.direction = direction
        self.options = options
        self.connections: set[Inlet] = set()
        self.accepted = 0
        self.refused = 0
        self.handshakes_failed = 0
        # Those that are not finished, by when they began (monotonic seconds), oldest first.
        self._handshakes: dict[asyncio.Task[None], float] = {}
        # A drill judges certificates as of a later time; 0 = none does.
        self.ahead = 0.0
        self.runtime = runtime
        self.flusher = flusher
        self._context = context
        self._listening = listening
        self._loop = asyncio.get_running_loop()
        # One descriptor in reserve: with it closed, a connection can be accepted and told off when the table is full.
        self._reserve: int | None = os.open(os.devnull, os.O_RDONLY)
        self._paused = False
        self._on_empty: Callable[[], None] | None = None

    # ── accepting ──

    def start(self) -> None:
        self._loop.add_reader(self._listening.fileno(), self._accept)

    def _accept(self) -> None:
        if self.flusher.behind >= _CROWD or not self._has_room():
            self._rest(0.02)
            return
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    self._out_of_descriptors(error)
                return
            accepted.setblocking(False)
            if len(self.connections) >= self.options.max_connections:
                self.refused += 1
                accepted.close()
                continue
            self.accepted += 1
            context = self._context()
            task = self.runtime.spawn(self._serve(accepted, context), f"accept {self.name}")
            if context is not None:
                self._handshakes[task] = self.runtime.clock.monotonic()

    def _has_room(self) -> bool:
        """For the handshakes of one turn; the oldest of too many goes, if it has had time enough."""
        handshakes = self._handshakes
        while len(handshakes) > _HANDSHAKES - _ACCEPTED_AT_ONCE:
            oldest, began = next(iter(handshakes.items()))
            if self.runtime.clock.monotonic() - began < _FAIR_TIME:
                return False
            del handshakes[oldest]
            oldest.cancel()
        return True

    def _out_of_descriptors(self, error: OSError) -> None:
        """Accept with the reserve and hang up, so that the queue moves; then rest for a moment."""
        self.refused += 1
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
            with contextlib.suppress(OSError):
                self._listening.accept()[0].close()
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY)
        self.runtime.log.error("out of file descriptors", extra={"listener": self.name, "cause": error.strerror})
        self._rest(0.1)

    def _rest(self, seconds: float) -> None:
        self._loop.remove_reader(self._listening.fileno())
        self.runtime.clock.call_later(seconds, self._resume)

    def _resume(self) -> None:
        if self._listening.fileno() >= 0 and not self._paused:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    async def _serve(self, accepted: sockets.socket, context: ssl.SSLContext | None) -> None:
        inlet = Inlet(self)
        self.connections.add(inlet)
        try:
            await self._loop.connect_accepted_socket(
                inlet.protocol,
                accepted,
                ssl=context,
                ssl_handshake_timeout=self.options.header_timeout if context else None,
            )
        except (OSError, ssl.SSLError, asyncio.CancelledError) as error:
            self.handshakes_failed += 1
            self.runtime.log.info("handshake failed", extra={"listener": self.name, "cause": _handshake_cause(error)})
            accepted.close()
            inlet.leave()
        finally:
            task = asyncio.current_task()
            if task is not None:
                self._handshakes.pop(task, None)

    # ── reload and drain ──

    def adopt(
        self,
        edge: Edge,
        options: ListenerOptions,
        direction: Direction,
        context: Callable[[], ssl.SSLContext | None],
    ) -> None:
        """A new generation: calls that start from now on follow it, on connections old and new."""
        self.options = options
        self.direction = direction
        self._context = context
        self.follow(edge)

    def follow(self, edge: Edge) -> None:
        """Calls that start from now on go by `edge`."""
        edge.draining = self.edge.draining
        self.edge = edge
        for inlet in self.connections:
            if inlet.peer is not None:
                inlet.peer.edge = edge

    def certificate_ends(self) -> list[float]:
        """When the certificates of connected callers expire, in seconds since the epoch."""
        peers = (each.peer for each in self.connections)
        return [peer.certificate.not_after for peer in peers if peer is not None and peer.certificate is not None]

    def look_ahead(self, seconds: float) -> None:
        """Judge callers' certificates as of so many seconds from now, those that are connected too; 0 = as of now."""
        self.ahead = seconds
        clock = self.runtime.clock
        offset = clock.monotonic() - clock.wall() - seconds
        for inlet in self.connections:
            peer = inlet.peer
            if peer is not None and peer.certificate is not None:
                peer.ends = offset + peer.certificate.not_after

    def recheck(self) -> None:
        """Revocations, or what policies allow, may have changed: judge open connections and their calls again."""
        for inlet in self.connections:
            peer = inlet.peer
            if peer is not None and peer.certificate is not None:
                problem = peer.certificate.problem or self.revocation_problem(peer.certificate)
                peer.refuse(unusable(problem) if problem else None)
            if inlet.connection is not None:
                for call in list(inlet.connection.streams.values()):
                    if isinstance(call, Call) and not call.ended:
                        self._recheck_call(call)

    def _recheck_call(self, call: Call) -> None:
        rejection = call.peer.refusal(self.runtime.clock.monotonic())
        method = self.edge.routes.method(call.path.encode())
        if rejection is None and method is not None:
            plan = method.plan or method.match(call.headers.index, self.edge.routes.unrouted)
            found = (policy.recheck(call) for policy in plan.policies)
            rejection = next((each for each in found if each is not None), None)
        if rejection is not None:
            call.reject(rejection)

    def revocation_problem(self, certificate: CertificateFacts) -> str | None:
        return "it has been revoked" if self.options.is_revoked(certificate) else None

    def drain(self, on_empty: Callable[[], None]) -> None:
        """GOAWAY to everybody; new connections are still accepted, only to be told DRAINING. `on_empty` when all calls ended."""
        self._on_empty = on_empty
        self.edge.draining = True
        for inlet in list(self.connections):
            inlet.drain()
        self.check_empty()

    def check_empty(self) -> None:
        if self._on_empty is not None and not any(inlet.is_busy for inlet in self.connections):
            on_empty, self._on_empty = self._on_empty, None
            on_empty()

    def stop_accepting(self) -> None:
        self._paused = True
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening.fileno())
            name = self._listening.getsockname()
            self._listening.close()
            if isinstance(name, str) and name:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)  # noqa: PTH108 - a socket's name, not a file of ours
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    def close(self) -> None:
        """Stop accepting and end every connection at once."""
        self.stop_accepting()
        for inlet in list(self.connections):
            inlet.close()

    def calls(self) -> list[Call]:
        """Those that run now."""
        connections = [each.connection for each in self.connections if each.connection is not None]
        return [
            stream
            for connection in connections
            for stream in connection.streams.values()
            if isinstance(stream, Call) and not stream.ended
        ]

    @property
    def active_calls(self) -> int:
        return sum(inlet.active_calls for inlet in self.connections)


class Inlet:
    """One accepted connection: its peer, and the timers that bound idleness, age and slowness."""

    __slots__ = ("_born", "_bucket", "_busy_at", "_listener", "_oldest", "_socket", "connection", "peer")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._socket: Socket | None = None
        self._bucket: set[Expiring] | None = None
        self._born = self._busy_at = listener.runtime.clock.monotonic()
        self._oldest = 0.0
        self.connection: Connection | None = None
        self.peer: Peer | None = None

    def protocol(self) -> Socket:
        listener = self._listener
        return Socket(listener.flusher, listener.runtime.clock.monotonic, self._made, self._lost)

    def _made(self, made: Socket) -> Connection | None:
        listener = self._listener
        options = listener.options
        tls = made.transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            listener.handshakes_failed += 1
            return None
        self._socket = made
        self.peer = self._identify(made.transport, tls)
        connection = Connection(accept=self._call, wake=made.wake, limits=options.limits)
        connection.on_idle = self._idle
        self.connection = connection
        if options.max_connection_age:
            jitter = listener.runtime.random.uniform(1 - _AGE_JITTER, 1 + _AGE_JITTER)
            self._oldest = self._born + options.max_connection_age * jitter
        self._watch(listener.runtime.clock.monotonic())
        if listener.edge.draining:
            # After its first streams have been told DRAINING.
            listener.runtime.clock.call_later(1.0, self.drain)
        return connection

    def _identify(self, transport: Any, tls: Any) -> Peer:
        listener = self._listener
        runtime = listener.runtime
        certificate = None
        der = tls.getpeercert(binary_form=True) if tls is not None else None
        if der:
            from sidecar.identity.certificate import facts

            certificate = facts(der, listener.options.trust_domains)
        identity, problem = listener.direction.identify(certificate)
        refused: Rejection | None = None
        ends = float("inf")
        if certificate is not None:
            problem = problem or listener.revocation_problem(certificate)
            ends = runtime.clock.monotonic() + certificate.not_after - runtime.clock.wall() - listener.ahead
        if problem is not None:
            refused = unusable(problem)
        return Peer(
            listener.edge,
            identity=identity,
            address=_peer_address(transport),
            certificate=certificate,
            to_agent=listener.direction.told_agent(identity),
            ends=ends,
            refused=refused,
        )

    def _call(self, connection: Connection) -> Call:
        peer = self.peer
        assert peer is not None
        return Call(peer)

    @property
    def active_calls(self) -> int:
        return len(self.connection.streams) if self.connection is not None else 0

    @property
    def is_busy(self) -> bool:
        """Does a call still run here? Streams that only linger after their end do not count."""
        connection = self.connection
        if connection is None or connection.closed:
            return False
        return any(
            not (isinstance(stream, Call) and stream.ended and stream.pending is None)
            for stream in connection.streams.values()
        )

    # ── timers ──

    def _watch(self, now: float) -> None:
        options = self._listener.options
        whens = [now + options.header_timeout]
        if self._oldest:
            whens.append(self._oldest)
        self._bucket = self._listener.runtime.deadlines.add(min(whens), now, self)

    def on_deadline(self, now: float) -> None:
        self._bucket = None
        connection = self.connection
        if connection is None or connection.closed:
            return
        options = self._listener.options
        block_age = connection.unfinished_block_age(now)
        if not connection.got_settings:
            if now - self._born >= options.header_timeout:
                self._cut(ErrorCode.PROTOCOL_ERROR, "no preface in time")
                return
        elif block_age is not None and block_age >= options.header_timeout:
            self._cut(ErrorCode.ENHANCE_YOUR_CALM, "an unfinished header block")
            return
        if connection.streams:
            self._busy_at = now
        elif connection.draining and now - max(self._busy_at, connection.now) >= options.header_timeout:
            # It never answered the PING that goes with our GOAWAY.
            self._cut(ErrorCode.NO_ERROR, "drained")
            return
        elif options.idle_timeout and now - max(self._busy_at, connection.now) >= options.idle_timeout:
            connection.drain()
        if self._oldest and now >= self._oldest:
            self._oldest = 0.0
            connection.drain()
        self._watch(now)

    def _cut(self, code: ErrorCode, why: str) -> None:
        if self.connection is not None:
            self.connection.close(code, why)

    # ── the end ──

    def drain(self) -> None:
        if self.connection is not None:
            self.connection.drain()

    def _idle(self) -> None:
        """Drained: nothing runs, nothing may start."""
        if self._socket is not None:
            self._socket.close()

    def _lost(self, error: Exception | None) -> None:
        self.leave()

    def leave(self) -> None:
        if self._bucket is not None:
            self._bucket.discard(self)
            self._bucket = None
        self._listener.connections.discard(self)
        self._listener.check_empty()

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        if self._socket is not None:
            self._socket.close()
        self.leave()


def _peer_address(transport: Any) -> str:
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return "unix"


def _handshake_cause(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "unknown").replace("_", " ").lower()
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return "no handshake in time, or given up"
    return type(error).__name__
