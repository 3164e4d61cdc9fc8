"""Who may see and change: browsers that gave the admin token once, and pages that are ours.

Why are sessions signed and not kept in a table? Several workers serve one admin address, and each must know what another has let in;
what they share is the token. The cookie's name has the port in it: browsers send the cookies of one host to all its ports.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict, deque
from functools import cached_property
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LASTS = 12 * 3600
_ENDED_KEPT = 1000
_FAILURES = 10
_FAILURES_PER = 60.0
_ROUNDS = 100_000
"""Of PBKDF2: a cookie that got away must not tell the token by trial."""


class Sessions:
    """Sessions of one admin address. Thread-safe as far as single steps on built-in types are."""

    def __init__(self, token: str | None, name: str, wall: Callable[[], float]) -> None:
        """`name`: what tells this address from others of the same host."""
        self._token = token
        self._wall = wall
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._failed: deque[float] = deque(maxlen=_FAILURES)
        self.cookie_name = f"sidecar_session_{name}"

    @cached_property
    def _key(self) -> bytes:
        if self._token is None:
            return secrets.token_bytes(32)
        return hashlib.pbkdf2_hmac("sha256", self._token.encode(), b"sidecar dashboard", _ROUNDS)

    def log_in(self, given: str) -> str | None:
        """The `set-cookie` value of a new session; None = that is not the token."""
        if self._token is None or not hmac.compare_digest(given.encode(), self._token.encode()):
            self._failed.append(self._wall())
            return None
        body = f"{int(self._wall()) + _LASTS}.{secrets.token_urlsafe(18)}"
        return self._cookie(f"{body}.{self._signed('session', body)}", _LASTS)

    @property
    def is_guessed_at(self) -> bool:
        """Have there been so many wrong tokens lately that no more are looked at?"""
        return len(self._failed) == _FAILURES and self._wall() - self._failed[0] < _FAILURES_PER

    def session(self, cookies: str | None) -> str | None:
        """The valid session that a request's `cookie` field names."""
        if self._token is None or not cookies:
            return None
        try:
            found = SimpleCookie(cookies).get(self.cookie_name)
        except CookieError:
            return None
        if found is None:
            return None
        body, _, signature = found.value.rpartition(".")
        ends = body.partition(".")[0]
        is_ours = hmac.compare_digest(self._signed("session", body).encode(), signature.encode())
        if not is_ours or int(ends) <= self._wall() or found.value in self._ended:
            return None
        return found.value

    def log_out(self, session: str) -> str:
        """End it. The `set-cookie` value that removes it from the browser."""
        self._ended[session] = None
        while len(self._ended) > _ENDED_KEPT:
            self._ended.popitem(last=False)
        return self._cookie("", 0)

    def csrf(self, session: str | None) -> str:
        """What a form of our page carries, and no other page can know."""
        return self._signed("form", session or "")

    def is_ours(self, session: str | None, given: str) -> bool:
        return hmac.compare_digest(self.csrf(session).encode(), given.encode())

    def _signed(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()

    def _cookie(self, value: str, seconds: int) -> str:
        return f"{self.cookie_name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict"
