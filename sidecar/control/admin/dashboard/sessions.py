"""Who may see and change: browsers that gave the admin token once, and pages that are ours.

The cookie's name has the port in it: browsers send the cookies of one host to all its ports.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict, deque
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LASTS = 12 * 3600
_KEPT = 100
_FAILURES = 10
_FAILURES_PER = 60.0


class Sessions:
    """Sessions of one admin address. Thread-safe as far as single steps on built-in types are."""

    def __init__(self, token: str | None, name: str, wall: Callable[[], float]) -> None:
        self._token = token
        self._wall = wall
        self._key = secrets.token_bytes(32)
        # Hash of the session's id → when it ends; the ids themselves are the browsers' alone.
        self._ends: OrderedDict[bytes, float] = OrderedDict()
        self._failed: deque[float] = deque(maxlen=_FAILURES)
        self.cookie_name = f"sidecar_session_{name}"

    def log_in(self, given: str) -> str | None:
        """The `set-cookie` value of a new session; None = that is not the token."""
        if self._token is None or not hmac.compare_digest(given.encode(), self._token.encode()):
            self._failed.append(self._wall())
            return None
        session = secrets.token_urlsafe(32)
        while len(self._ends) >= _KEPT:
            self._ends.popitem(last=False)
        self._ends[_hashed(session)] = self._wall() + _LASTS
        return self._cookie(session, _LASTS)

    @property
    def is_guessed_at(self) -> bool:
        """Have there been so many wrong tokens lately that no more are looked at?"""
        return len(self._failed) == _FAILURES and self._wall() - self._failed[0] < _FAILURES_PER

    def session(self, cookies: str | None) -> str | None:
        """The valid session that a request's `cookie` field names."""
        try:
            found = SimpleCookie(cookies or "").get(self.cookie_name)
        except CookieError:
            return None
        if found is None or self._ends.get(_hashed(found.value), 0.0) <= self._wall():
            return None
        return found.value

    def log_out(self, session: str) -> str:
        """End it. The `set-cookie` value that removes it from the browser."""
        self._ends.pop(_hashed(session), None)
        return self._cookie("", 0)

    def csrf(self, session: str | None) -> str:
        """What a form of our page carries, and no other page can know."""
        return hmac.new(self._key, (session or "").encode(), hashlib.sha256).hexdigest()

    def is_ours(self, session: str | None, given: str) -> bool:
        return hmac.compare_digest(self.csrf(session).encode(), given.encode())

    def _cookie(self, value: str, seconds: int) -> str:
        return f"{self.cookie_name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict"


def _hashed(session: str) -> bytes:
    return hashlib.sha256(session.encode()).digest()
