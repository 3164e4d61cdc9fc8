"""`grpc-timeout`, both ways (grpc/grpc `doc/PROTOCOL-HTTP2.md`): one to eight digits and a unit."""

from __future__ import annotations

_UNITS = {0x48: 3600.0, 0x4D: 60.0, 0x53: 1.0, 0x6D: 1e-3, 0x75: 1e-6, 0x6E: 1e-9}
_LONGEST = 99_999_999


def parse(value: bytes) -> float:
    """Seconds. Raises ValueError when malformed."""
    digits = value[:-1]
    if not digits.isdigit() or len(digits) > 8:
        raise ValueError("must be 1 to 8 digits and a unit of H, M, S, m, u or n")
    unit = _UNITS.get(value[-1])
    if unit is None:
        raise ValueError("must end in a unit of H, M, S, m, u or n")
    return int(digits) * unit


def encode(seconds: float) -> bytes:
    """A timeout of at most `seconds`: rounded down, as a deadline only shrinks; in the finest unit that takes it."""
    if seconds <= 0:
        return b"0n"
    if seconds < 0.09:
        return b"%dn" % int(seconds * 1e9)
    if seconds < 99:
        return b"%du" % int(seconds * 1e6)
    if seconds < 99_999:
        return b"%dm" % int(seconds * 1e3)
    if seconds <= _LONGEST:
        return b"%dS" % int(seconds)
    return b"%dH" % min(int(seconds / 3600), _LONGEST)
