"""A whole number in messages: there, not there, or not one."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from sidecar.descriptors.descriptor_set import parse_set
from sidecar.descriptors.numbers import NumberField
from sidecar.policies.mask import Mask
from tests.support.bench import of
from tests.support.descriptors import compiled, new
from tests.support.wire import message

PROTO = """
syntax = "proto3";
package n.v1;
import "google/protobuf/struct.proto";
message Usage { int64 tokens = 1; optional uint32 maybe = 2; double share = 3; repeated int32 many = 4; }
message Answer { Usage usage = 1; repeated Usage parts = 2; google.protobuf.Struct data = 3; oneof o { int32 cost = 4; string free = 5; } }
message Other { string text = 1; }
service S { rpc A(Answer) returns (Answer); rpc B(Answer) returns (Other); }
"""


class Reader:
    def __init__(self, folder: Path, field: str) -> None:
        (folder / "n.binpb").write_bytes(compiled(PROTO))
        self.field = NumberField(folder / "n.binpb", field, of(Mask, "{fields: [a], in: [logs]}").runtime)
        self.descriptors = parse_set(compiled(PROTO))

    def of(self, **fields: Any) -> int | None:
        body = new(self.descriptors, "n.v1.Answer", **fields).SerializeToString()
        return self.field.read("/n.v1.S/A", message(body), None, 1000)


@pytest.mark.parametrize(
    ("field", "sent", "number"),
    [
        ("usage.tokens", {}, None),
        ("usage.tokens", {"usage": {}}, 0),
        ("usage.tokens", {"usage": {"tokens": 7}}, 7),
        ("usage.maybe", {"usage": {}}, None),
        ("usage.maybe", {"usage": {"maybe": 0}}, 0),
        ("parts.tokens", {"parts": [{"tokens": 1}, {"tokens": 2}]}, 3),
        ("n.v1.Usage.tokens", {"usage": {"tokens": 1}, "parts": [{"tokens": 2}]}, 3),
        ("cost", {"free": "x"}, None),
        ("cost", {"cost": 3}, 3),
        ("data.tokens", {}, None),
        ("data.tokens", {"data": {"tokens": 5}}, 5),
        ("data.usage.tokens", {"data": {"usage": {"tokens": 5}}}, 5),
    ],
)
def test_what_is_read(tmp_path: Path, field: str, sent: dict[str, Any], number: int | None) -> None:
    assert Reader(tmp_path, field).of(**sent) == number


@pytest.mark.parametrize(
    ("field", "sent"),
    [
        ("usage.tokens", {"usage": {"tokens": -1}}),
        ("data.tokens", {"data": {"tokens": 1.5}}),
        ("data.tokens", {"data": {"tokens": "7"}}),
        ("data.tokens", {"data": {"tokens": float("nan")}}),
        ("data.tokens", {"data": {"tokens": float("inf")}}),
    ],
)
def test_what_is_no_whole_number_is_refused(tmp_path: Path, field: str, sent: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="whole number"):
        Reader(tmp_path, field).of(**sent)


@pytest.mark.parametrize("field", ["usage.share", "usage.many", "usage", "free"])
def test_fields_that_are_no_whole_numbers_are_refused_at_load(tmp_path: Path, field: str) -> None:
    with pytest.raises(ValueError, match="is no whole number"):
        Reader(tmp_path, field)


def test_methods_without_the_field_say_nothing(tmp_path: Path) -> None:
    reader = Reader(tmp_path, "usage.tokens")
    assert reader.field.read("/n.v1.S/B", message(b"\xff"), None, 1000) is None
    assert reader.field.read("/n.v1.S/Unknown", message(b"\xff"), None, 1000) is None


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    reader = Reader(tmp_path, "usage.tokens")
    with pytest.raises(ValueError, match="does not parse"):
        reader.field.read("/n.v1.S/A", message(b"\xff"), None, 1000)
    with pytest.raises(ValueError, match="grpc-encoding"):
        reader.field.read("/n.v1.S/A", message(b"x", 1), b"br", 1000)
    compressed = message(
        gzip.compress(new(reader.descriptors, "n.v1.Answer", usage={"tokens": 4}).SerializeToString()), 1
    )
    assert reader.field.read("/n.v1.S/A", compressed, b"gzip", 1000) == 4


def test_before_the_agent_has_told_nobody_knows() -> None:
    field = NumberField("reflection", "usage.tokens", of(Mask, "{fields: [a], in: [logs]}").runtime)
    with pytest.raises(ValueError, match="no descriptors yet"):
        field.read("/n.v1.S/A", message(b""), None, 1000)
