"""The small languages of the configuration, compiled: patterns with `*`, and selectors such as `metadata.x-tenant`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from sidecar.proxy.call import Call

Matcher: TypeAlias = Callable[[str], bool]
Selector: TypeAlias = "Callable[[Call], str | None]"


def compile_pattern(pattern: str) -> Matcher:
    """Compile `exact`, `prefix*`, `*suffix` or `*` (gRFC A43). Raises ValueError on a `*` anywhere else."""
    if pattern == "*":
        return _anything
    if "*" not in pattern:
        return pattern.__eq__
    if pattern.count("*") > 1 or not (pattern.startswith("*") or pattern.endswith("*")):
        raise ValueError(f"{pattern!r}: `*` may stand at one end only: exact, prefix*, *suffix or *")
    if pattern.endswith("*"):
        prefix = pattern[:-1]
        return lambda text: text.startswith(prefix)
    suffix = pattern[1:]
    return lambda text: text.endswith(suffix)


def covers(wide: str, narrow: str) -> bool:
    """Does every text that matches `narrow` match `wide`, too?"""
    if wide in {"*", narrow}:
        return True
    if "*" not in narrow:
        return compile_pattern(wide)(narrow)
    if wide.endswith("*") and narrow.endswith("*"):
        return narrow[:-1].startswith(wide[:-1])
    if wide.startswith("*") and narrow.startswith("*"):
        return narrow[1:].endswith(wide[1:])
    return False


def compile_selector(text: str) -> Selector:
    """Compile `identity`, `method`, `route`, `authority` or `metadata.NAME`; a selector gives None where the call has none.

    Raises ValueError naming what is allowed.
    """
    if text.startswith("metadata."):
        name = text.removeprefix("metadata.").encode()
        return lambda call: call.metadata_text(name)
    try:
        return _SELECTORS[text]
    except KeyError:
        allowed = ", ".join([*_SELECTORS, "metadata.NAME"])
        raise ValueError(f"{text!r} selects nothing; allowed: {allowed}") from None


def _anything(_: str) -> bool:
    return True


_SELECTORS: dict[str, Selector] = {
    "identity": lambda call: call.identity,
    "method": lambda call: call.path,
    "route": lambda call: call.plan.route,
    "authority": lambda call: call.metadata_text(b":authority"),
}
