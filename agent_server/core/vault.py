"""Encryption of what is stored: Fernet, with as many keys as a rotation needs. The first key writes, all of them read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

if TYPE_CHECKING:
    from collections.abc import Sequence


class VaultError(Exception):
    """Keys that cannot be used, or data that none of them opens. Neither is repeated in the text."""


class Vault:
    """Seals and opens. `keys` are Fernet keys (32 bytes in URL-safe base64), the newest first. Raises VaultError."""

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            msg = "no encryption key is given"
            raise VaultError(msg)
        fernets = []
        for number, key in enumerate(keys):
            try:
                fernets.append(Fernet(key.strip()))
            except (ValueError, TypeError):
                msg = f"encryption key {number}: not 32 bytes in URL-safe base64"
                raise VaultError(msg) from None
        self._keys = MultiFernet(fernets)

    def seal(self, value: Any) -> bytes:
        """A value of JSON, encrypted."""
        return self._keys.encrypt(json.dumps(value, separators=(",", ":")).encode())

    def open(self, sealed: bytes) -> Any:
        """The value again. Raises VaultError."""
        try:
            return json.loads(self._keys.decrypt(sealed))
        except InvalidToken:
            msg = "stored data cannot be opened with the configured keys"
            raise VaultError(msg) from None

    def renew(self, sealed: bytes) -> bytes:
        """The same, sealed with the newest key. Raises VaultError."""
        try:
            return self._keys.rotate(sealed)
        except InvalidToken:
            msg = "stored data cannot be opened with the configured keys"
            raise VaultError(msg) from None


def key_beside(path: Path) -> str:
    """The key in `path`, which is made, readable by its owner only, when there is none. Raises VaultError."""
    try:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text(encoding="ascii").strip()
        key = Fernet.generate_key()
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
        return key.decode()
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise VaultError(msg) from error
