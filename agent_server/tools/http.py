"""Fetching over HTTP: HTTP/1.1 and HTTP/2 by httpx, to allowed addresses only, bodies cut at a limit.

Why an own transport? The address has to be checked after the name is resolved and before the connection is made, for each
connection: a name that was harmless when looked up first may mean something else when it is connected to.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import zlib
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import httpcore
import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping

    from agent_server.tools.addresses import AddressRule

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class AddressRefused(Exception):
    """The host's address may not be fetched from."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of one URL. Exactly one of `status` and `reason` is set; `reason` says why there is no answer."""

    url: str
    """As asked."""
    final_url: str
    """After redirects."""
    elapsed: float
    """Seconds."""
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_truncated: bool = False
    charset: str = "utf-8"
    reason: str = ""
    message: str = ""


class Fetcher:
    """GETs. One per server: connections are kept and shared."""

    def __init__(
        self,
        rule: AddressRule,
        *,
        now: Callable[[], float],
        user_agent: str,
        ssl_context: ssl.SSLContext | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._now = now
        checked = _CheckedNetwork(rule, network or httpcore.AnyIOBackend())
        # No httpx.AsyncClient: it would keep the cookies that one caller's call was given, and send them with another's.
        self._transport = _Transport(checked, ssl_context or ssl.create_default_context())
        self._headers = {"accept": "*/*", "accept-encoding": "gzip, deflate", "user-agent": user_agent}

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def fetch(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        timeout: float,
        max_bytes: int,
        method: str = "GET",
        content: bytes = b"",
    ) -> Fetched:
        """Ask for one URL within `timeout` seconds, redirects of a GET included. Never raises for what goes wrong with that URL."""
        started = self._now()
        final = url
        reason = message = ""
        try:
            async with asyncio.timeout(timeout) as limit:
                current = httpx.URL(url)
                sent = dict(headers)
                for _ in range(MAX_REDIRECTS + 1):
                    final = str(current)
                    if current.scheme not in ("http", "https") or not current.host or (current.port or 0) > 65535:
                        reason, message = "BAD_URL", "neither http nor https, without a host, or with a wrong port"
                        break
                    async with aclosing(await self._asked(method, current, sent, content, timeout)) as response:
                        location = response.headers.get("location")
                        # What changes something is never sent to another place than the one that was named.
                        if response.status_code in _REDIRECTS and location and method in ("GET", "HEAD"):
                            target = current.join(location)
                            if _origin(target) != _origin(current):
                                sent = {}  # what the caller sent was meant for that host
                            current = target
                            continue
                        body, is_truncated = await _body(response, max_bytes)
                        return Fetched(
                            url,
                            final,
                            self._now() - started,
                            response.status_code,
                            dict(response.headers),
                            body,
                            is_truncated,
                            response.charset_encoding or "utf-8",
                        )
                else:
                    reason, message = "TOO_MANY_REDIRECTS", f"more than {MAX_REDIRECTS}"
        except TimeoutError:
            if not limit.expired():
                raise
            reason, message = "TIMEOUT", f"no complete answer within {timeout:g} s"
        except Exception as error:
            known = _reason(error)
            if known is None:
                raise
            reason, message = known, str(error) or type(error).__name__
        return Fetched(url, final, self._now() - started, reason=reason, message=message)

    async def _asked(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes, timeout: float
    ) -> httpx.Response:
        named = {name.lower() for name in headers}
        ours = {name: value for name, value in self._headers.items() if name not in named}
        if url.userinfo and "authorization" not in named:
            ours["authorization"] = "Basic " + base64.b64encode(url.userinfo).decode()
        bounds = {"connect": timeout, "read": timeout, "write": timeout, "pool": timeout}
        request = httpx.Request(
            method, url, headers={**ours, **headers}, content=content or None, extensions={"timeout": bounds}
        )
        return await self._transport.handle_async_request(request)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


async def _body(response: httpx.Response, max_bytes: int) -> tuple[bytes, bool]:
    """The decoded body, up to the limit. Decoded here, because a small compressed piece may stand for gigabytes."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    inflate = _inflate_for(encoding)
    body = bytearray()
    async with aclosing(cast("AsyncGenerator[bytes]", response.aiter_raw())) as pieces:
        async for piece in pieces:
            room = max_bytes + 1 - len(body)
            body += piece[:room] if inflate is None else inflate.decompress(piece, room)
            if len(body) > max_bytes:
                return bytes(body[:max_bytes]), True
    return bytes(body), False


def _inflate_for(encoding: str) -> zlib._Decompress | None:
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32)  # finds out by itself whether it is gzip or zlib
    msg = f"content-encoding {encoding!r} was not asked for"
    raise httpx.DecodingError(msg)


def _reason(error: Exception) -> str | None:
    for kind, reason in (
        (AddressRefused, "ADDRESS_REFUSED"),
        (socket.gaierror, "NAME_NOT_FOUND"),
        (httpx.InvalidURL, "BAD_URL"),
        (httpcore.UnsupportedProtocol, "BAD_URL"),
        (httpcore.TimeoutException, "TIMEOUT"),
        (httpcore.ConnectError, "CONNECT_FAILED"),
        (httpcore.ProtocolError, "PROTOCOL_ERROR"),
        (httpcore.NetworkError, "CONNECTION_LOST"),
        (httpx.DecodingError, "BAD_ENCODING"),
        (zlib.error, "BAD_ENCODING"),
        (ssl.SSLError, "TLS_FAILED"),
        (UnicodeError, "BAD_URL"),  # a host name with a label too long to look up
        (OSError, "CONNECT_FAILED"),
    ):
        if isinstance(error, kind):
            return "TLS_FAILED" if _is_tls(error) else reason
    return None


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to addresses the rule allows. The name for TLS stays the host's, so certificates are checked against it."""

    def __init__(self, rule: AddressRule, inner: httpcore.AsyncNetworkBackend) -> None:
        self._rule = rule
        self._inner = inner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = [each for each in addresses if self._rule.allows(each)]
        if not allowed:
            msg = f"{host} is {', '.join(addresses)}: not a public address, and not allowed by the configuration"
            raise AddressRefused(msg)
        last: Exception = OSError("no address")
        for address in allowed:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                last = error
        raise last

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        msg = "unix sockets are not fetched from"
        raise AddressRefused(msg)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class _Transport(httpx.AsyncBaseTransport):
    """httpx over a pool of httpcore with our network beneath."""

    def __init__(self, network: httpcore.AsyncNetworkBackend, ssl_context: ssl.SSLContext) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=200,
            max_keepalive_connections=50,
            keepalive_expiry=30.0,
            http1=True,
            http2=True,
            network_backend=network,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme, host=request.url.raw_host, port=request.url.port, target=request.url.raw_path
        )
        answer = await self._pool.handle_async_request(
            httpcore.Request(request.method, url, headers=request.headers.raw, extensions=request.extensions)
        )
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Stream(answer.stream), extensions=answer.extensions
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Stream(httpx.AsyncByteStream):
    """The body of an answer, as httpx wants it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
