"""The revocation lists in use, by file; connections ask them at the handshake and again when a list changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidecar.identity.certificate import CertificateFacts
    from sidecar.identity.revocation import Revocations


class RevocationLists:
    """Each file once. A list that cannot be read any more keeps what it said before."""

    def __init__(self) -> None:
        self._lists: dict[Path, Revocations] = {}

    def checker(self, path: Path | None) -> Callable[[CertificateFacts], bool]:
        """Is a certificate revoked by the list at `path`, as it is at that moment? Raises ValueError: `file:line: …`."""
        if path is None:
            return _never
        from sidecar.identity.revocation import Revocations

        if path not in self._lists:
            self._lists[path] = Revocations.load(path)
        return lambda facts: self._lists[path].is_revoked(facts)

    def reload(self, paths: set[Path]) -> tuple[bool, list[str]]:
        """Read the lists among `paths` again: (any read?, problems)."""
        from sidecar.identity.revocation import Revocations

        problems = []
        read = False
        for path in paths & self._lists.keys():
            try:
                self._lists[path] = Revocations.load(path)
                read = True
            except ValueError as error:
                problems.append(str(error))
        return read, problems


def _never(_: CertificateFacts) -> bool:
    return False
