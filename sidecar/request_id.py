"""Request ids: a caller's own if it is usable, else a new UUIDv7 (RFC 9562 §5.7)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

is_valid_request_id = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}").fullmatch
"""Ids that are safe in logs, metrics pages and file names; a match object or None."""


def new_request_id(wall: float, random: random.Random) -> bytes:
    """A UUIDv7 for `wall` seconds since the epoch: sorts by time, 74 random bits."""
    bits = random.getrandbits(74)
    value = (
        (int(wall * 1000) & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | (bits >> 62) << 64 | 0b10 << 62 | bits & (1 << 62) - 1
    )
    text = b"%032x" % value
    return b"-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
