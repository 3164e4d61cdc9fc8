"""Roles: names for groups of callers, by identity or by a claim of their token; and what is granted to them.

A role is a name for conditions, nothing that a caller could bring along.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import AfterValidator, WithJsonSchema

from sidecar.config.units import parse_text_pattern
from sidecar.policies.authz.conditions import Condition, Holds, claim_is, either, identity_is, parse_caller_pattern

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.policies.authz.conditions import Caller

_CLAIM = re.compile(r"claim:([!-<>-~]{1,256})=(.+)", re.ASCII)
_CLAIM_HELP = "write claim:name=value, claim:name=prefix*, claim:name=*suffix or claim:name=*"
_GRANTED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", re.ASCII)


def parse_member(text: str) -> str:
    """Who is in a role: an identity pattern, or `claim:name=value`. Raises ValueError saying what is allowed."""
    if text.startswith("claim:"):
        claim_of(text)
        return text
    return parse_caller_pattern(text)


def claim_of(text: str) -> tuple[str, str]:
    """`claim:name=pattern` → (name, pattern). Raises ValueError."""
    found = _CLAIM.fullmatch(text)
    if found is None:
        raise ValueError(f"is not a claim; {_CLAIM_HELP}")
    return found[1], parse_text_pattern(found[2])


def is_claim(text: str) -> bool:
    return text.startswith("claim:")


def parse_granted_name(text: str) -> str:
    """The name of a role or permission. Raises ValueError saying what is allowed."""
    if not _GRANTED_NAME.fullmatch(text):
        raise ValueError("is not a name; letters, digits, - and _, at most 63, a letter or digit first")
    return text


Member: TypeAlias = Annotated[
    str,
    AfterValidator(parse_member),
    WithJsonSchema({"type": "string", "examples": ["spiffe://mesh.local/agent/orders", "claim:role=operator"]}),
]
"""An identity pattern, or a claim with its value."""
GrantedName: TypeAlias = Annotated[
    str,
    AfterValidator(parse_granted_name),
    WithJsonSchema({"type": "string", "pattern": f"^{_GRANTED_NAME.pattern}$", "examples": ["operator", "READ"]}),
]
"""The name of a role or permission."""


def fold(permission: str) -> str:
    """READ, Read and read are one permission."""
    return permission.lower()


class Roles:
    """The configured roles, compiled."""

    __slots__ = ("_conditions",)

    def __init__(self, members: Mapping[str, Sequence[str]]) -> None:
        self._conditions = {role: _condition(patterns) for role, patterns in members.items()}

    def condition(self, role: str) -> Condition:
        """Is the caller in `role`? Unknown as long as any attribute that could make it a member is."""
        return self._conditions[role]

    def of(self, caller: Caller) -> tuple[str, ...]:
        """The roles that `caller` certainly has, in the order of the file."""
        return tuple(role for role, holds in self._conditions.items() if holds(caller) is Holds.YES)


def _condition(patterns: Sequence[str]) -> Condition:
    identities = [each for each in patterns if not is_claim(each)]
    conditions = [identity_is(identities)] if identities else []
    conditions += [claim_is(name, [value]) for name, value in map(claim_of, filter(is_claim, patterns))]
    return conditions[0] if len(conditions) == 1 else either(conditions)
