"""Masks what must not be read in logs and errors: credentials, and the addresses and numbers of people.

What an operation gives is its caller's and stays as it is; the sidecar's policy `mask` is for that.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_WORDS = r"(?:api[_-]?key|access[_-]?key|token(?!s)|secret|passw(?:or)?d|pwd|credential|signature|session[_-]?id|\bsig\b|authorization)"
_NAMED = rf"[\w-]{{0,40}}{_WORDS}[\w-]{{0,40}}"
# Every repetition is bounded: whoever writes the text must not decide how long reading it takes. Most texts have none of it, which the
# first expression of each rule finds out in one go.
_RULES = tuple(
    (re.compile(hint), re.compile(pattern), instead)
    for hint, pattern, instead in (
        # scheme://user:password@host
        ("://", r"(?i)\b([a-z][a-z0-9+.-]{0,30}://)[^\s/@?#'\"]{1,400}@", r"\1…@"),
        ("(?i)bearer|basic", r"(?i)\b(bearer|basic)(\s{1,8})[a-z0-9+/=._~-]{4,}", r"\1\2…"),
        # name=value, name: value, "name": "value"
        (
            rf"(?i){_WORDS}",
            # After a colon without quotes it is a word of a sentence as often as a value: what has a digit or a sign is a value.
            rf"(?i)\b({_NAMED})(?:(['\"]?\s{{0,8}}[=:]\s{{0,8}})(?:'[^']*'|\"[^\"]*\")"
            r"|(['\"]?\s{0,8}=\s{0,8})(?!bearer\b|basic\b)[^\s&,;'\"}]+"
            r"|(:\s{0,8})(?=[^\s&,;'\"}]{0,80}[0-9+/=_-])(?!bearer\b|basic\b)[^\s&,;'\"}]{6,})",
            r"\1\2\3\4…",
        ),
        ("eyJ", r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*", "…"),
        ("@", r"\b([A-Za-z0-9])[A-Za-z0-9._%+-]{0,63}@([A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8})", r"\1…@\2"),
        (r"\+\d", r"(?<![\w+])(\+\d{2})\d{5,11}(\d{2})(?!\d)", r"\1…\2"),
    )
)
_LEAST = 6
"""Characters of a configured secret that is looked for: shorter ones stand in ordinary words."""


class _Secrets:
    """The configured secrets of this process."""

    def __init__(self) -> None:
        self.known: tuple[str, ...] = ()


_secrets = _Secrets()


def keep_secret(values: Iterable[str]) -> None:
    """From now on these are masked wherever they appear."""
    found = {each for each in values if len(each) >= _LEAST}
    _secrets.known = tuple(sorted(found | set(_secrets.known), key=len, reverse=True))


def masked(text: str) -> str:
    """The text without what must not be read."""
    for secret in _secrets.known:
        text = text.replace(secret, "…")
    for hint, pattern, instead in _RULES:
        if hint.search(text):
            text = pattern.sub(instead, text)
    return text


class MaskingFormatter(logging.Formatter):
    """Log lines, their arguments and tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))
