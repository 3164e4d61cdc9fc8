"""Opening a connection to an upstream address: TCP (with happy eyeballs for names), unix, clear or TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

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
                protocol, address.removeprefix("unix:"), ssl=context, server_hostname=server_name or ("" if context else None)
            )
            return made
        host, port = split_host_port(address)
        transport, made = await loop.create_connection(
            protocol,
            host,
            port,
            ssl=context,
            server_hostname=(server_name or host) if context else None,
            happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY,
        )
        raw = transport.get_extra_info("socket")
        if raw is not None:
            # A peer that vanished without a word is noticed although nothing is read (half-open TCP).
            with contextlib.suppress(OSError, AttributeError):
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        return made


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
