"""Which certificates and identities are no longer welcome, from a file of one entry per line.

```
# the laptop that was lost
0a:1b:2c:3d:4e                          a serial in hex, as openssl or `sidecar certs show` print it
spiffe://mesh.local/agent/retired       an identity, whatever its certificate
identity:cafe                           spelled out, where a DNS name could be read as a serial
serial:0a1b2c
```

A serial counts whoever issued it: of two issuers with the same serial the wrong one is refused rather than neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.identity import spiffe
from sidecar.identity.certificate import is_dns_name, serial_text

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.identity.certificate import CertificateFacts

_SERIAL = re.compile(r"(?:0[xX])?([0-9a-fA-F]+|[0-9a-fA-F]{1,2}(?::[0-9a-fA-F]{2})+)", re.ASCII)
# RFC 5280 §4.1.2.2: at most 20 octets.
_MAX_SERIAL_BITS = 160


@dataclass(frozen=True, slots=True)
class Revocations:
    """What is revoked: serials as `serial_text` writes them, and identities. Empty = nothing."""

    serials: frozenset[str] = frozenset()
    identities: frozenset[str] = frozenset()

    @classmethod
    def load(cls, path: Path) -> Revocations:
        """Read a file. Raises ValueError: `file:line: …` for a line that is neither, `file: …` if it cannot be read."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path}: is not UTF-8 text") from None
        serials: set[str] = set()
        identities: set[str] = set()
        # Not splitlines(): it would also split at characters that an editor does not show as a line.
        for number, line in enumerate(text.split("\n"), start=1):
            entry = line.partition("#")[0].strip()
            if not entry:
                continue
            try:
                _take(entry, serials, identities)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from None
        return cls(frozenset(serials), frozenset(identities))

    def is_revoked(self, facts: CertificateFacts) -> bool:
        """Is the certificate, or whom it names, revoked?"""
        return facts.serial in self.serials or facts.identity in self.identities


def _take(entry: str, serials: set[str], identities: set[str]) -> None:
    kind, colon, rest = entry.partition(":")
    if colon and kind == "identity":
        identities.add(_identity(rest.strip()))
    elif colon and kind == "serial":
        serials.add(_serial(rest.strip()))
    elif _SERIAL.fullmatch(entry):
        serials.add(_serial(entry))
    else:
        identities.add(_identity(entry))


def _serial(text: str) -> str:
    found = _SERIAL.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a serial in hex")
    number = int(found.group(1).replace(":", ""), 16)
    if number.bit_length() > _MAX_SERIAL_BITS:
        raise ValueError("a serial has at most 20 bytes; is this a fingerprint?")
    return serial_text(number)


def _identity(text: str) -> str:
    if text.startswith("spiffe:"):
        return str(spiffe.parse(text))
    name = text.lower()
    if not is_dns_name(name):
        raise ValueError(f"{text!r} is neither a serial in hex, nor a SPIFFE id, nor a DNS name")
    return name
