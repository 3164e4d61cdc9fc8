"""Conditions: what is known of a caller, and how surely."""

from __future__ import annotations

import pytest

from sidecar.http2.blocks import Beginning, HeaderBlock
from sidecar.http2.hpack import encode_field
from sidecar.policies.authz.conditions import (
    Caller,
    Holds,
    anonymous_is,
    any_of,
    claim_is,
    either,
    identity_is,
    parse_called_pattern,
    parse_caller_pattern,
    sent_texts,
)

ORDERS = "spiffe://mesh.local/agent/orders"


@pytest.mark.parametrize(
    ("caller", "known"),
    [
        (Caller(ORDERS), Holds.YES),
        (Caller("spiffe://mesh.local/agent/data"), Holds.NO),
        (Caller(None), Holds.ABSENT),
        (Caller(None, {"sub": (ORDERS,)}), Holds.ABSENT),
    ],
)
def test_an_identity_is_that_of_the_certificate_alone(caller: Caller, known: Holds) -> None:
    assert identity_is([ORDERS])(caller) is known


@pytest.mark.parametrize(
    ("caller", "known"),
    [
        (Caller(None, {"role": ("operator",)}), Holds.YES),
        (Caller(None, {"role": ("guest", "operator")}), Holds.YES),
        (Caller(None, {"role": ("guest",)}), Holds.NO),
        (Caller(None, {"role": ()}), Holds.NO),
        (Caller(None, {"other": ("operator",)}), Holds.ABSENT),
        (Caller(None, may_prove=True), Holds.UNPROVEN),
        (Caller(None), Holds.ABSENT),
    ],
)
def test_a_claim_is_unproven_without_a_token(caller: Caller, known: Holds) -> None:
    assert claim_is("role", ["operator"])(caller) is known


def test_anonymous_is_who_shows_nothing_at_all() -> None:
    for caller, is_anonymous in ((Caller(None), True), (Caller(ORDERS), False), (Caller(None, {}), False)):
        assert anonymous_is(True)(caller) is (Holds.YES if is_anonymous else Holds.NO)
        assert anonymous_is(False)(caller) is (Holds.NO if is_anonymous else Holds.YES)


@pytest.mark.parametrize("known", list(Holds))
@pytest.mark.parametrize("other", list(Holds))
def test_either_is_as_good_as_the_better_one(known: Holds, other: Holds) -> None:
    assert either([lambda _: known, lambda _: other])(Caller(None)) is min(known, other)


@pytest.mark.parametrize(
    ("patterns", "matching", "others"),
    [
        (["a"], ["a"], ["", "A", "aa", "a "]),
        (["a*"], ["a", "ab", "a*"], ["", "ba", "A"]),
        (["*a"], ["a", "ba"], ["", "ab"]),
        (["*"], ["", "a"], []),
        (["a", "b*", "*c"], ["a", "b", "bx", "c", "xc"], ["", "ax", "xb", "cx"]),
        (["a", "*"], ["", "z"], []),
        (["a", "b"], ["a", "b"], ["ab", ""]),
    ],
)
def test_several_patterns_are_alternatives(patterns: list[str], matching: list[str], others: list[str]) -> None:
    matches = any_of(patterns)
    assert [text for text in matching + others if matches(text)] == matching


def test_what_was_sent_is_found_in_the_repeated_beginning_and_the_rest() -> None:
    one, two, other = (encode_field(b"x-t", b"1"), encode_field(b"x-t", b"2"), encode_field(b"x-o", b"3"))
    assert sent_texts(HeaderBlock(None, (other,)), b"x-t") is None
    assert sent_texts(HeaderBlock(None, (one, other)), b"x-t") == "1"
    assert sent_texts(HeaderBlock(Beginning(b"", (one,)), (other,)), b"x-t") == "1"
    assert sorted(sent_texts(HeaderBlock(Beginning(b"", (one,)), (two,)), b"x-t") or ()) == ["1", "2"]
    assert sorted(sent_texts(HeaderBlock(Beginning(b"", (one, two)), (other,)), b"x-t") or ()) == ["1", "2"]


@pytest.mark.parametrize("text", ["*", "*/agent/orders", ORDERS, "spiffe://mesh.local/agent/*", "orders.svc", "*.svc"])
def test_callers_are_named_by_patterns(text: str) -> None:
    assert parse_caller_pattern(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://*",
        "spiffe://mesh*",
        "spiffe://Mesh.local/a",
        "spiffe://mesh.local/a//b",
        "a*b",
        "**",
        "*a*",
        "x y",
    ],
)
def test_a_pattern_that_would_let_in_other_trust_domains_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has|holds)"):
        parse_caller_pattern(text)


@pytest.mark.parametrize("text", ["*", "/*", "*/Get", "/p.S/Get", "/p.S/Get*", "/p.S/*", "/p.*"])
def test_methods_are_named_by_patterns(text: str) -> None:
    assert parse_called_pattern(text) == text


@pytest.mark.parametrize(
    "text", ["", "Get", "/", "//", "/p.S/", "/p.S//Get", "/p.S/Get/", "/p.S/G%2F", "/a*b", "*a*", "* "]
)
def test_a_pattern_that_is_no_method_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(names|does|has|is)"):
        parse_called_pattern(text)
