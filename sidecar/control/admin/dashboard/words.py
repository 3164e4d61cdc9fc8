"""Figures as people read them: the same on the page and in the terminal."""

from __future__ import annotations


def rate(value: float | None) -> str:
    """RPCs per second."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if value < 9.95:
        return f"{value:.1f}" if value >= 0.05 else "<0.1"
    return f"{value:,.0f}"


def share(value: float | None) -> str:
    """A share of 1 as percent; never rounded up to 100."""
    if value is None:
        return "–"
    if value >= 1:
        return "100 %"
    shown = f"{value * 100:.1f}" if value < 0.999 else f"{value * 100:.2f}"
    return "99.99 %" if shown == "100.00" else f"{shown} %"


def seconds(value: float | None) -> str:
    """A latency."""
    if value is None:
        return "–"
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    if value < 0.00995:
        return f"{value * 1e3:.1f} ms"
    if value < 0.9995:
        return f"{value * 1e3:.0f} ms"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.0f} s"


def age(value: float) -> str:
    """How long ago, or how long: the two largest units at most."""
    whole = max(0, int(value))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def size(value: float | None) -> str:
    """Bytes."""
    if value is None:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def count(value: float) -> str:
    return f"{value:,.0f}"


def several(number: float, what: str) -> str:
    """With the plural where there is one."""
    return f"{count(number)} {what}{'' if number == 1 else 's'}"


def clock(at: float) -> str:
    """Wall seconds as the time of day, UTC."""
    whole = int(at) % 86_400
    return f"{whole // 3600:02}:{whole % 3600 // 60:02}:{whole % 60:02}"


def short_identity(identity: str) -> str:
    """A SPIFFE ID without its scheme: the trust domain and path tell it."""
    return identity.removeprefix("spiffe://")
