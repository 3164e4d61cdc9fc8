"""Roles: who is in one, and what is known when an attribute is missing."""

from __future__ import annotations

import pytest

from sidecar.policies.authz.conditions import Caller, Holds
from sidecar.policies.authz.roles import Roles, claim_of, fold, parse_granted_name, parse_member

ORDERS = "spiffe://mesh.local/agent/orders"
ROLES = Roles(
    {
        "operator": [ORDERS, "claim:role=operator"],
        "agent": ["spiffe://mesh.local/agent/*"],
        "staff": ["claim:team=core", "claim:team=ops-*"],
    }
)


@pytest.mark.parametrize(
    ("caller", "roles"),
    [
        (Caller(ORDERS), ("operator", "agent")),
        (Caller("spiffe://mesh.local/agent/data"), ("agent",)),
        (Caller("spiffe://other.local/agent/data"), ()),
        (Caller(None, {"role": ("operator",)}), ("operator",)),
        (Caller(ORDERS, {"role": ("operator",), "team": ("ops-1",)}), ("operator", "agent", "staff")),
        (Caller(None), ()),
        (Caller(None, may_prove=True), ()),
    ],
)
def test_a_caller_has_the_roles_it_can_show(caller: Caller, roles: tuple[str, ...]) -> None:
    assert ROLES.of(caller) == roles


@pytest.mark.parametrize(
    ("role", "caller", "known"),
    [
        ("operator", Caller(ORDERS, may_prove=True), Holds.YES),
        ("operator", Caller("spiffe://mesh.local/agent/data", may_prove=True), Holds.UNPROVEN),
        ("operator", Caller("spiffe://mesh.local/agent/data", {}), Holds.ABSENT),
        ("operator", Caller("spiffe://mesh.local/agent/data", {"role": ("x",)}), Holds.NO),
        ("operator", Caller(None, {"role": ("x",)}), Holds.ABSENT),
        ("agent", Caller(None), Holds.ABSENT),
        ("staff", Caller(None, {"team": ("other",)}), Holds.NO),
    ],
)
def test_a_role_is_unknown_while_anything_could_still_make_a_member(role: str, caller: Caller, known: Holds) -> None:
    assert ROLES.condition(role)(caller) is known


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("claim:role=operator", ("role", "operator")),
        ("claim:https://idp/roles=a*", ("https://idp/roles", "a*")),
        ("claim:role=a=b", ("role", "a=b")),
        ("claim:role=*", ("role", "*")),
    ],
)
def test_a_claim_has_a_name_and_a_pattern(text: str, claim: tuple[str, str]) -> None:
    assert claim_of(text) == claim
    assert parse_member(text) == text


@pytest.mark.parametrize(
    "text", ["claim:", "claim:role", "claim:=x", "claim:role=", "claim:role=a*b", "spiffe://*", ""]
)
def test_what_is_neither_claim_nor_identity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has)"):
        parse_member(text)


def test_permissions_are_told_apart_without_case() -> None:
    assert fold("READ") == fold("Read") == "read"


@pytest.mark.parametrize("text", ["", "a:b", "-a", "a b", "x" * 64, "ä"])
def test_names_of_roles_and_permissions_are_plain(text: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        parse_granted_name(text)
