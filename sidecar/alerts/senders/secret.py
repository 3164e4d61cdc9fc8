"""A URL or a key that is never shown: from the configuration, or from a file that is read at each use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.alerts.delivery import NotDelivered

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import SecretStr

_LONGEST = 8192


class Secret:
    """Its text is given by `read` alone."""

    __slots__ = ("_file", "_given")

    def __init__(self, given: SecretStr | None, file: Path | None) -> None:
        self._given = given
        self._file = file

    def read(self) -> str:
        """Raises NotDelivered: the file cannot be read or holds nothing; mounted secrets come and change."""
        if self._given is not None:
            return self._given.get_secret_value().strip()
        assert self._file is not None
        try:
            with self._file.open(encoding="utf-8") as file:
                text = file.read(_LONGEST).strip()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not UTF-8"
            raise NotDelivered(f"{self._file.name} cannot be read: {why}") from None
        if not text:
            raise NotDelivered(f"{self._file.name} is empty")
        return text
