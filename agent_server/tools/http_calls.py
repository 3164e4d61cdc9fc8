"""Calls of HTTP APIs: so many at a time per host, tried again where that is safe, answers of GET kept for a while."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from agent_server.tools.http import Fetched, Fetcher

SAFE = frozenset({"GET", "HEAD"})
_BUSY = frozenset({429, 502, 503, 504})
_LOST = frozenset({"TIMEOUT", "CONNECT_FAILED", "CONNECTION_LOST", "PROTOCOL_ERROR"})


@dataclass(frozen=True, slots=True)
class Call:
    """One call."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    timeout: float = 10.0
    max_bytes: int = 1 << 20
    attempts: int = 1
    cache_seconds: float = 0.0
    """Keep a good answer of a GET so long, and give one that was kept so long ago at most; 0: ask."""
    identity: str = ""
    """For whom: answers are not shared between callers."""


@dataclass(slots=True)
class _Host:
    places: asyncio.Semaphore
    users: int = 0


class HttpCalls:
    """All calls of a server share its limits and its cache."""

    def __init__(
        self,
        fetcher: Fetcher,
        *,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        per_host: int = 20,
        retry_delay: float = 1.0,
        retry_factor: float = 2.0,
        cache_bytes: int = 32 << 20,
    ) -> None:
        """`per_host`: calls at the same time to one host and port. `cache_bytes`: kept bodies; the longest unused go first."""
        self._fetcher = fetcher
        self._now = now
        self._sleep = sleep
        self._per_host = per_host
        self._delay = retry_delay
        self._factor = retry_factor
        self._cache_bytes = cache_bytes
        self._kept: OrderedDict[str, tuple[float, Fetched]] = OrderedDict()
        self._kept_bytes = 0
        self._hosts: dict[str, _Host] = {}

    async def call(self, call: Call) -> tuple[Fetched, bool]:
        """The answer, and whether it was kept from earlier. Never raises for what goes wrong with the URL.

        A changing call is tried again only where it carries an idempotency key.
        """
        key = _cache_key(call) if call.cache_seconds > 0 and call.method == "GET" else ""
        if key and (kept := self._kept.get(key)) is not None:
            if self._now() - kept[0] < call.cache_seconds:
                self._kept.move_to_end(key)
                return kept[1], True
            self._forget(key)
        may_repeat = call.method in SAFE or any(name.lower() == "idempotency-key" for name in call.headers)
        wait = self._delay
        for attempt in range(1, (call.attempts if may_repeat else 1) + 1):
            async with self._place(call.url):
                answer = await self._fetcher.fetch(
                    call.url,
                    headers=call.headers,
                    timeout=call.timeout,
                    max_bytes=call.max_bytes,
                    method=call.method,
                    content=call.content,
                )
            if attempt == call.attempts or not may_repeat or not is_passing(answer):
                break
            await self._sleep(max(wait, _asked_wait(answer)))
            wait *= self._factor
        if key and answer.status is not None and answer.status < 300 and not answer.is_truncated:
            self._keep(key, answer)
        return answer, False

    @contextlib.asynccontextmanager
    async def _place(self, url: str) -> AsyncIterator[None]:
        try:
            parsed = httpx.URL(url)
            name = f"{parsed.scheme}://{parsed.host}:{parsed.port}"
        except httpx.InvalidURL:
            name = ""
        host = self._hosts.setdefault(name, _Host(asyncio.Semaphore(self._per_host)))
        host.users += 1
        try:
            async with host.places:
                yield
        finally:
            host.users -= 1
            if not host.users:
                del self._hosts[name]

    def _keep(self, key: str, answer: Fetched) -> None:
        if len(answer.body) > self._cache_bytes // 8:
            return
        if key in self._kept:
            self._forget(key)
        self._kept[key] = (self._now(), answer)
        self._kept_bytes += len(answer.body)
        while self._kept_bytes > self._cache_bytes or len(self._kept) > 10_000:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: str) -> None:
        self._kept_bytes -= len(self._kept.pop(key)[1].body)


def is_passing(answer: Fetched) -> bool:
    """What went wrong may be gone at the next try."""
    return answer.reason in _LOST or answer.status in _BUSY


def _asked_wait(answer: Fetched) -> float:
    asked = answer.headers.get("retry-after", "")
    return min(float(asked), 60.0) if asked.isascii() and asked.isdigit() else 0.0


def _cache_key(call: Call) -> str:
    parts = [
        call.identity,
        call.url,
        str(call.max_bytes),
        *(f"{name.lower()}: {value}" for name, value in sorted(call.headers.items())),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
