from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.struct_pb2 import Struct

from sidecar.policies.mirror.differences import differing

NOTHING: frozenset[str] = frozenset()


def file(**fields: Any) -> FileDescriptorProto:
    made = FileDescriptorProto(**fields)
    made.message_type.add(name="M").field.add(name="f", number=1)
    return made


def test_equal_messages_differ_in_nothing() -> None:
    assert differing(file(name="a"), file(name="a"), NOTHING) == []


@pytest.mark.parametrize(
    ("change", "paths"),
    [
        (lambda each: setattr(each, "name", "b"), ["name"]),
        (lambda each: each.dependency.append("x"), ["dependency"]),
        (lambda each: each.message_type.add(), ["message_type"]),
        (lambda each: setattr(each.message_type[0].field[0], "number", 2), ["message_type.field.number"]),
        (lambda each: each.options.SetInParent(), ["options"]),
        (lambda each: each.MergeFromString(b"\xfa\x3f\x01x"), ["(unknown fields)"]),
    ],
)
def test_each_difference_has_its_path(change: Any, paths: list[str]) -> None:
    one, other = file(name="a"), file(name="a")
    change(other)
    assert differing(one, other, NOTHING) == differing(other, one, NOTHING) == paths


def test_what_may_differ_is_left_out_by_name_or_by_path() -> None:
    one, other = file(name="a"), file(name="b")
    other.message_type[0].field[0].name = "g"
    assert differing(one, other, frozenset({"name"})) == []
    assert differing(one, other, frozenset({"message_type.field.name"})) == ["name"]


def test_maps_are_compared_by_key() -> None:
    one, other = Struct(), Struct()
    one.update({"a": 1, "b": {"c": "x"}, "at": 1})
    other.update({"a": 1, "b": {"c": "y"}, "at": 2})
    assert differing(one, other, frozenset({"at"})) == ["fields.struct_value.fields.string_value"]
    other.update({"more": 1})
    assert differing(one, other, NOTHING) == ["fields"]


def test_no_more_paths_than_anybody_reads() -> None:
    names = [f"f{i}" for i in range(100)]
    one, other = Struct(), Struct()
    one.update(dict.fromkeys(names, 1))
    other.update(dict.fromkeys(names, 2))
    assert differing(one, other, NOTHING) == ["fields.number_value"]
