"""What is kept of calls, encrypted with the configured keys: the newest encrypts, each decrypts, so that keys can be rotated.

What was sealed with an older key is sealed again when it is read, or changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.fernet import Fernet, MultiFernet

_CLEAR = b"c"
_FERNET = b"f"


class Unreadable(Exception):
    """Sealed with a key that is not among ours, or no record at all."""


class Sealing:
    """Seals with the first of `keys` (Fernet: 32 bytes in URL-safe base64); without keys, what is kept is kept in clear."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        """Raises ValueError for a text that is no key; it is not repeated."""
        self._fernet: MultiFernet | None = None
        self._newest: Fernet | None = None
        if keys:
            from cryptography.fernet import Fernet, MultiFernet

            try:
                self._fernet = MultiFernet([Fernet(each) for each in keys])
                self._newest = Fernet(keys[0])
            except (ValueError, TypeError):
                raise ValueError("is no Fernet key; make one with: sidecar certs key") from None

    def seal(self, content: bytes) -> bytes:
        if self._fernet is None:
            return _CLEAR + content
        return _FERNET + self._fernet.encrypt(content)

    def open(self, sealed: bytes) -> bytes:
        """What was sealed. Raises Unreadable."""
        return self.unseal(sealed)[0]

    def unseal(self, sealed: bytes) -> tuple[bytes, bool]:
        """What was sealed, and is it as `seal` would seal it now? If not, it should be sealed again. Raises Unreadable."""
        kind, content = sealed[:1], sealed[1:]
        if kind == _CLEAR:
            return content, self._fernet is None
        if kind != _FERNET:
            raise Unreadable("it is no record of ours")
        if self._fernet is None or self._newest is None:
            raise Unreadable("it is encrypted, and no key is configured")
        from cryptography.fernet import InvalidToken

        try:
            return self._newest.decrypt(content), True
        except InvalidToken:
            try:
                return self._fernet.decrypt(content), False
            except InvalidToken:
                raise Unreadable("none of the configured keys opens it") from None
