"""SPIFFE ids: `spiffe://<trust domain>/<path>`, taken apart strictly.

Why so strict? An id is compared as text in authorization rules. Whatever could be spelled in two ways (case of the
trust domain, percent-encoding, dot segments, a trailing slash) would let one workload pass for another: it is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SCHEME = "spiffe://"
MAX_BYTES = 2048
MAX_TRUST_DOMAIN_BYTES = 255

# SPIFFE-ID §2.1 and §2.2. ASCII classes on purpose: `\w` and `isalnum` would accept letters of every script.
_NOT_IN_TRUST_DOMAIN = re.compile(r"[^a-z0-9._-]")
_NOT_IN_SEGMENT = re.compile(r"[^a-zA-Z0-9._-]")


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A valid id. `path` begins with a slash, or is empty (the id of the trust domain itself)."""

    trust_domain: str
    path: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain}{self.path}"


def parse(text: str) -> SpiffeId:
    """Take `text` apart; `str(parse(text)) == text`. Raises ValueError, naming the rule that is broken."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ValueError(f"a SPIFFE id has at most {MAX_BYTES} bytes")
    if not text.startswith(SCHEME):
        raise ValueError(f"a SPIFFE id begins with {SCHEME} in lower case")
    trust_domain, slash, path = text.removeprefix(SCHEME).partition("/")
    check_trust_domain(trust_domain)
    if slash:
        _check_path(path)
    return SpiffeId(trust_domain, slash + path)


def check_trust_domain(name: str) -> None:
    """Raises ValueError with the rule that `name` breaks as a trust domain."""
    if not name:
        raise ValueError("the trust domain of a SPIFFE id is not empty")
    if "@" in name:
        raise ValueError("a SPIFFE id has no user information before the trust domain")
    if ":" in name:
        raise ValueError("a SPIFFE id has no port after the trust domain")
    if wrong := _NOT_IN_TRUST_DOMAIN.search(name):
        raise ValueError(
            _refuse(wrong.group(), "trust domain", "lower-case letters, digits, dots, dashes and underscores")
        )
    if len(name) > MAX_TRUST_DOMAIN_BYTES:
        raise ValueError(f"the trust domain of a SPIFFE id has at most {MAX_TRUST_DOMAIN_BYTES} bytes")


def _check_path(path: str) -> None:
    segments = path.split("/")
    if not segments[-1]:
        raise ValueError("a SPIFFE id does not end with a slash")
    for segment in segments:
        if not segment:
            raise ValueError("the path of a SPIFFE id has no empty segments")
        if segment in {".", ".."}:
            raise ValueError("the path of a SPIFFE id has no dot segments")
        if wrong := _NOT_IN_SEGMENT.search(segment):
            raise ValueError(_refuse(wrong.group(), "path", "letters, digits, dots, dashes and underscores"))


def _refuse(character: str, part: str, allowed: str) -> str:
    match character:
        case "?":
            return "a SPIFFE id has no query"
        case "#":
            return "a SPIFFE id has no fragment"
        case "%":
            return "a SPIFFE id has no percent-encoding"
        case _:
            return f"the {part} of a SPIFFE id holds {allowed} only, not {character!a}"
