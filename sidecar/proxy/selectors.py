"""The small languages of the configuration, compiled: patterns with `*`, and selectors such as `metadata.x-tenant`."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from sidecar.proxy.call import Call

Matcher: TypeAlias = Callable[[str], bool]
Selector: TypeAlias = "Callable[[Call], str | None]"
Key: TypeAlias = "Callable[[Call], Hashable]"
SKIPPED = object()
"""In place of a key: the call lacks a part, and that was said to be optional."""


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


def compile_key(parts: Sequence[str], *, skips_absent: bool = False) -> Key:
    """Compile a list of selectors to one that gives a key: that of a single part, else a tuple (metadata as bytes).

    A part that the call has not is None in the key, so that all calls without it share one; with `skips_absent` the key
    of such a call is `SKIPPED`. Raises ValueError naming what is allowed.
    """
    selectors = tuple(map(_compile_part, parts))
    key: Key
    if parts and all(part in _ATTRIBUTES for part in parts):
        # The fast path: attributes alone are read in C, as one text or as a tuple.
        key = attrgetter(*(_ATTRIBUTES[part] for part in parts))
    elif len(selectors) == 1:
        key = selectors[0]
    elif len(selectors) == 2:
        first, second = selectors

        def key(call: Call) -> Hashable:
            return first(call), second(call)
    else:

        def key(call: Call) -> Hashable:
            return tuple([select(call) for select in selectors])

    if not skips_absent:
        return key

    def key_or_skipped(call: Call) -> Hashable:
        found = key(call)
        return SKIPPED if found is None or (type(found) is tuple and None in found) else found

    return key_or_skipped


def _compile_part(text: str) -> Key:
    if text.startswith("metadata."):
        # As it was sent: a key is compared, not read.
        name = text.removeprefix("metadata.").encode()
        return lambda call: call.headers.index.get(name)
    return compile_selector(text)


def _anything(_: str) -> bool:
    return True


_SELECTORS: dict[str, Selector] = {
    "identity": lambda call: call.identity,
    "method": lambda call: call.path,
    "route": lambda call: call.route,
    "authority": lambda call: call.metadata_text(b":authority"),
}
# Selectors that are plain attributes of a call.
_ATTRIBUTES = {"identity": "identity", "method": "path", "route": "plan.route"}
