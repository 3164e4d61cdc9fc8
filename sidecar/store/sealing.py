"""What is kept of calls, encrypted with the configured keys: the newest encrypts, each decrypts, so that keys can be rotated.

Records are rewritten whenever they change; what is read with an old key and written again has the newest one then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.fernet import MultiFernet

_CLEAR = b"c"
_FERNET = b"f"


class Unreadable(Exception):
    """Sealed with a key that is not among ours, or no record at all."""


class Sealing:
    """Seals with the first of `keys` (Fernet: 32 bytes in URL-safe base64); without keys, what is kept is kept in clear."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        """Raises ValueError for a text that is no key; it is not repeated."""
        self._fernet: MultiFernet | None = None
        if keys:
            from cryptography.fernet import Fernet, MultiFernet

            try:
                self._fernet = MultiFernet([Fernet(each) for each in keys])
            except (ValueError, TypeError):
                raise ValueError("is no Fernet key; make one with: sidecar certs key") from None

    def seal(self, content: bytes) -> bytes:
        if self._fernet is None:
            return _CLEAR + content
        return _FERNET + self._fernet.encrypt(content)

    def open(self, sealed: bytes) -> bytes:
        """What was sealed. Raises Unreadable."""
        kind, content = sealed[:1], sealed[1:]
        if kind == _CLEAR:
            return content
        if kind != _FERNET:
            raise Unreadable("it is no record of ours")
        if self._fernet is None:
            raise Unreadable("it is encrypted, and no key is configured")
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(content)
        except InvalidToken:
            raise Unreadable("none of the configured keys opens it") from None
