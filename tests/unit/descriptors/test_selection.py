"""Selectors: what they find in types, where they end, and what is told of those that find nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sidecar.descriptors.descriptor_set import parse_set
from sidecar.descriptors.selection import Selection, Shape, fold, parse_selector, shape_of
from tests.support.descriptors import OLD, agent_set, compiled, nasty


def anywhere(*texts: str, descriptors: Any = None) -> Selection[str]:
    return Selection(descriptors or nasty(), {each: each for each in texts})


def rooted(*texts: str) -> Selection[str]:
    def roots() -> Iterator[Any]:
        yield nasty().types["nasty.v1.Everything"]

    return Selection(nasty(), {each: each for each in texts}, rooted=roots)


def hits(selection: Selection[str], name: str) -> dict[str, tuple[str, ...]]:
    return {hit.name: hit.payloads for hit in selection.root(nasty().types[name]).hits}


def test_a_name_is_found_in_whatever_case_it_is_written() -> None:
    found = anywhere("credit-card", "PASSWORD")
    assert hits(found, "nasty.v1.Everything") == {"password": ("PASSWORD",), "creditCard": ("credit-card",)}
    assert fold("Credit_Card-") == "creditcard"


def test_a_type_and_a_path_are_found_wherever_the_type_occurs() -> None:
    found = anywhere("nasty.v1.User.friend.password")
    node = found.root(nasty().types["nasty.v1.Everything"])
    assert not node.hits
    assert {"user", "users", "people"} <= {edge.name for edge in node.edges}
    user = next(edge.node for edge in node.edges if edge.name == "user")
    assert user is not None
    friend = next(edge.node for edge in user.edges if edge.name == "friend")
    assert friend is not None
    assert [hit.name for hit in friend.hits] == ["password"]


def test_a_rooted_path_begins_in_the_message_only() -> None:
    found = rooted("user.password")
    node = found.root(nasty().types["nasty.v1.Everything"])
    assert [edge.name for edge in node.edges] == ["user"]
    assert not node.hits


def test_what_can_hold_nothing_selected_is_not_looked_into() -> None:
    found = anywhere("nasty.v1.Everything.password")
    node = found.root(nasty().types["nasty.v1.Everything"])
    # An Any may hold such a message; nothing else here can.
    assert {edge.name for edge in node.edges} == {"any", "anys"}
    assert not found.root(nasty().types["nasty.v1.Plain"]).is_live


def test_types_that_hold_themselves_come_to_an_end() -> None:
    assert not rooted("password").root(nasty().types["nasty.v1.Loop"]).is_live
    found = anywhere("text")
    node = found.root(nasty().types["nasty.v1.Loop"])
    assert next(edge.node for edge in node.edges) is node


def test_a_node_of_a_cycle_is_alive_if_any_of_it_is() -> None:
    text = """syntax = "proto3"; package c;
    message A { B b = 1; } message B { C c = 1; } message C { A a = 1; string hidden = 2; } message D { D d = 1; A a = 2; }
    """
    descriptors = parse_set(compiled(text))
    found = anywhere("c.C.hidden", descriptors=descriptors)
    for name in "ABCD":
        assert found.root(descriptors.types[f"c.{name}"]).is_live, name


def test_keys_are_found_and_lead_on() -> None:
    found = anywhere("labels.secret", "token")
    payloads, inside = found.keyed("Token", frozenset())
    assert payloads == ("token",)
    assert not inside
    assert found.keyed("labels", frozenset())[1] == {(("secret",), 0)}


def test_the_memory_for_keys_is_bounded() -> None:
    found = anywhere("password")
    for i in range(10_000):
        found.keyed(f"key{i}", frozenset())
    found.keyed("k" * 1000, frozenset())
    assert len(found._keys) <= 4096
    assert all(len(key) <= 128 for key, _ in found._keys)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("nasty.v1.User.pasword", "nasty.v1.User has no field pasword; did you mean `password`"),
        ("nasty.v1.Usr.password", r"no field that the descriptors know; did you mean `nasty.v1.User.password`"),
        ("nasty.v1.User", "is a message type; name a field of it"),
        ("google.protobuf.Struct.fields", "name the field that holds the google.protobuf.Struct"),
    ],
)
def test_what_finds_nothing_is_told(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        anywhere(text)


def test_a_rooted_path_that_finds_nothing_is_told() -> None:
    with pytest.raises(ValueError, match="`pasword` is no field of any message; did you mean `password`"):
        rooted("pasword")


def test_a_name_may_be_a_key_where_there_are_keys_and_nowhere_else() -> None:
    assert anywhere("never_declared", descriptors=parse_set(agent_set())).targets["never_declared"]
    plain = parse_set(compiled('syntax = "proto3"; package p; message M { string secret = 1; }'))
    with pytest.raises(ValueError, match="`secert` is no field of any message; did you mean `secret`"):
        anywhere("secert", descriptors=plain)


def test_extensions_are_found() -> None:
    descriptors = parse_set(compiled(OLD))
    node = anywhere("extra_secret", "secret", descriptors=descriptors).root(descriptors.types["old.v1.Record"])
    assert {hit.name for hit in node.hits if hit.is_extension} == {"extra_secret"}
    assert {edge.name for edge in node.edges} == {"inner", "more"}


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "a b", "a*", "ä", "a\n"])
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="selects no field; write a name"):
        parse_selector(text)


@pytest.mark.parametrize("text", ["password", "user.password", "agent.v1.T.f", "api-key", "_x.1"])
def test_what_is_a_selector_is_kept(text: str) -> None:
    assert parse_selector(text) == text


def test_shapes() -> None:
    fields = nasty().types["nasty.v1.Everything"].fields_by_name
    shapes = {name: shape_of(fields[name]) for name in ("user", "users", "people", "tokens", "choice_text")}
    assert shapes == {
        "user": Shape.ONE,
        "users": Shape.MANY,
        "people": Shape.MAP,
        "tokens": Shape.MANY,
        "choice_text": Shape.ONE,
    }
