"""Opening a connection to an upstream address: TCP (with happy eyeballs for names), unix, clear or TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any

from sidecar.transport.bind import split_host_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.transport.socket import Socket

_HAPPY_EYEBALLS_DELAY = 0.25
_USER_TIMEOUT_MS = 30_000


async def dial(
    address: str,
    protocol: Callable[[], Socket],
    *,
    timeout: float,
    context: ssl.SSLContext | None = None,
    server_name: str | None = None,
) -> Socket:
    """Connect `protocol()` to `address` within `timeout` seconds.

    Raises OSError (refused, unreachable), ssl.SSLError (handshake), or TimeoutError.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout):
        if address.startswith("unix:"):
            _, made = await loop.create_unix_connection(
                protocol,
                address.removeprefix("unix:"),
                ssl=context,
                server_hostname=server_name or ("" if context else None),
            )
            return made
        host, port = split_host_port(address)
        raw = await _race(host, port)
        # A peer that vanished without a word is noticed although nothing is read (half-open TCP).
        with contextlib.suppress(OSError, AttributeError):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        _, made = await loop.create_connection(
            protocol, sock=raw, ssl=context, server_hostname=(server_name or host) if context else None
        )
        return made


async def _race(host: str, port: int) -> socket.socket:
    """Connect to whichever address of `host` answers first, a new one tried every 250 ms (RFC 8305 §5). Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if len(found) == 1:
        return await _connect(found[0])
    tries: set[asyncio.Task[socket.socket]] = set()
    failure: BaseException = OSError(f"no address for {host}")
    waiting = list(reversed(found))
    try:
        while waiting or tries:
            if waiting:
                tries.add(loop.create_task(_connect(waiting.pop())))
            done, tries = await asyncio.wait(
                tries, timeout=_HAPPY_EYEBALLS_DELAY if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for each in done:
                if each.exception() is None:
                    return each.result()
                failure = each.exception() or failure
        raise failure
    finally:
        for each in tries:
            each.cancel()


async def _connect(info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, address = info
    raw = socket.socket(family, kind, protocol)
    try:
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, address)
    except BaseException:
        raw.close()
        raise
    return raw


def describe(error: BaseException) -> str:
    """A failed dial in plain words, without addresses of ours or library names."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"the TLS handshake failed: {(error.reason or 'unknown reason').replace('_', ' ').lower()}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, FileNotFoundError):
        return "no such socket"
    if isinstance(error, socket.gaierror):
        return "the name is not known"
    if isinstance(error, ConnectionError):
        return "the connection was reset"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__
