"""What a rule asks of a caller, and how surely the answer is known.

Why four answers and not two? What a caller does not show must not help it: an absent attribute counts as matching in a
deny rule and as not matching in an allow rule. So a condition says what is known, and the rule says what that means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from sidecar.config.units import TextPattern, parse_identity_pattern, parse_method_pattern, parse_text_pattern
from sidecar.proxy.selectors import Matcher, compile_pattern

if TYPE_CHECKING:
    from sidecar.http2.blocks import HeaderBlock


class Holds(IntEnum):
    """Does a condition hold? AND is `max` and OR is `min` (Kleene's logic, with two shades of unknown)."""

    YES = 0
    UNPROVEN = 1
    """Only a token could tell, and the caller sent none."""
    ABSENT = 2
    """The caller has no such attribute."""
    NO = 3


Claims: TypeAlias = Mapping[str, tuple[str, ...]]
"""Verified claims by name, each with its values as text; a claim that holds something else has none."""


class Caller:
    """Whom rules judge: the identity of its certificate, the claims of its token. `may_prove`: tokens are accepted."""

    __slots__ = ("claims", "identity", "may_prove")

    def __init__(self, identity: str | None, claims: Claims | None = None, *, may_prove: bool = False) -> None:
        self.identity = identity
        self.claims = claims
        self.may_prove = may_prove

    @property
    def is_anonymous(self) -> bool:
        return self.identity is None and self.claims is None


Condition: TypeAlias = Callable[[Caller], Holds]


def identity_is(patterns: Sequence[str]) -> Condition:
    """One of `patterns` matches the identity of the certificate."""
    matches = any_of(patterns)

    def holds(caller: Caller) -> Holds:
        if caller.identity is None:
            return Holds.ABSENT
        return Holds.YES if matches(caller.identity) else Holds.NO

    return holds


def claim_is(name: str, patterns: Sequence[str]) -> Condition:
    """One of the values of claim `name` matches one of `patterns`."""
    matches = any_of(patterns)

    def holds(caller: Caller) -> Holds:
        if caller.claims is None:
            return Holds.UNPROVEN if caller.may_prove else Holds.ABSENT
        values = caller.claims.get(name)
        if values is None:
            return Holds.ABSENT
        return Holds.YES if any(map(matches, values)) else Holds.NO

    return holds


def anonymous_is(wanted: bool) -> Condition:
    """The caller has shown neither a certificate nor a token (or it has): always known."""
    return lambda caller: Holds.YES if caller.is_anonymous is wanted else Holds.NO


def either(conditions: Iterable[Condition]) -> Condition:
    """At least one holds."""
    alternatives = tuple(conditions)
    return lambda caller: min(condition(caller) for condition in alternatives)


class MetadataCondition(NamedTuple):
    """Metadata `name` matches one of the patterns."""

    name: bytes
    matches: Matcher


def sent_texts(headers: HeaderBlock, name: bytes) -> str | tuple[str, ...] | None:
    """What the caller sent as `name`: one text, several, or None."""
    found = [field[1] for field in headers.rest if field[0] == name]
    beginning = headers.beginning
    if beginning is not None and name in beginning.index:
        found += [field[1] for field in beginning.fields if field[0] == name]
    if not found:
        return None
    if len(found) == 1:
        return found[0].decode("latin-1")
    return tuple(each.decode("latin-1") for each in found)


def any_of(patterns: Sequence[str]) -> Matcher:
    """One matcher for all patterns: their number costs nothing."""
    if len(patterns) == 1:
        return compile_pattern(patterns[0])
    if "*" in patterns:
        return compile_pattern("*")
    exact = frozenset(each for each in patterns if "*" not in each)
    prefixes = tuple(each[:-1] for each in patterns if each.endswith("*"))
    suffixes = tuple(each[1:] for each in patterns if each.startswith("*"))
    return lambda text: text in exact or text.startswith(prefixes) or text.endswith(suffixes)


# ── how the file says it ──

_METHOD_SUFFIX = re.compile(r"\*[A-Za-z0-9_./]+", re.ASCII)


def parse_caller_pattern(text: str) -> str:
    """`*`, `*suffix`, or what `parse_identity_pattern` takes: no `*` within a trust domain. Raises ValueError."""
    return parse_text_pattern(text) if text.startswith("*") else parse_identity_pattern(text)


def parse_called_pattern(text: str) -> str:
    """`*`, `*suffix`, or what `parse_method_pattern` takes. Raises ValueError."""
    if text == "*" or _METHOD_SUFFIX.fullmatch(text):
        return text
    return parse_method_pattern(text)


def _several(value: Any) -> Any:
    """One text stands for a list of one."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        if not value:
            raise ValueError("is empty and could never match; name at least one pattern, or leave the field out")
        return tuple(value)
    return value


Patterns: TypeAlias = Annotated[
    tuple[TextPattern, ...],
    BeforeValidator(_several),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
"""One text pattern, or several of which one must match."""
CallerPattern: TypeAlias = Annotated[
    str,
    AfterValidator(parse_caller_pattern),
    WithJsonSchema({"type": "string", "examples": ["spiffe://mesh.local/agent/*"]}),
]
"""Identities: exact, `prefix*` beyond the trust domain, `*suffix`, `*`."""
CalledPattern: TypeAlias = Annotated[
    str,
    AfterValidator(parse_called_pattern),
    WithJsonSchema({"type": "string", "examples": ["/agent.v1.AgentService/Get*", "/*"]}),
]
"""Methods: exact, `prefix*`, `*suffix`, `*`."""
