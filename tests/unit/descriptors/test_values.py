"""Fields of a request as a key: the same for the same content, absent when one of them is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.descriptors.descriptor_set import parse_set
from sidecar.descriptors.values import FieldValues
from sidecar.policies.mask import Mask
from tests.support.bench import of
from tests.support.descriptors import compiled, new
from tests.support.wire import message

PROTO = """
syntax = "proto3";
package v.v1;
import "google/protobuf/struct.proto";
message Line { string sku = 1; int32 count = 2; }
message Order {
  string id = 1; int64 amount = 2; bytes raw = 3; repeated string tags = 4; Line first = 5; repeated Line lines = 6;
  map<string, int32> counts = 7; google.protobuf.Struct input = 8; bool urgent = 9; string call_id = 10;
}
message Other { string text = 1; }
service S { rpc A(Order) returns (Other); rpc B(Other) returns (Order); }
"""


class Reader:
    def __init__(self, folder: Path, *fields: str) -> None:
        (folder / "v.binpb").write_bytes(compiled(PROTO))
        self.fields = FieldValues(folder / "v.binpb", fields, of(Mask, "{fields: [a], in: [logs]}").runtime)
        self.descriptors = parse_set(compiled(PROTO))

    def of(self, method: str = "/v.v1.S/A", **fields: Any) -> bytes | None:
        body = new(self.descriptors, "v.v1.Order", **fields).SerializeToString()
        return self.fields.read(method, message(body), None, 1000)


@pytest.mark.parametrize(
    ("fields", "sent", "key"),
    [
        (("id",), {"id": "o-1"}, b'[["o-1"]]'),
        (("id", "amount"), {"id": "o-1", "amount": 5}, b'[["o-1"],[5]]'),
        (("amount", "id"), {"id": "o-1", "amount": 5}, b'[[5],["o-1"]]'),
        (("raw",), {"raw": b"\x00\xff"}, b'[["00ff"]]'),
        (("tags",), {"tags": ["a", "b"]}, b'[[["a","b"]]]'),
        (("first.sku",), {"first": {"sku": "x"}}, b'[["x"]]'),
        (("lines.sku",), {"lines": [{"sku": "x"}, {"sku": "y"}]}, b'[["x","y"]]'),
        (("first",), {"first": {"sku": "x"}}, b'[["0a0178"]]'),
        (("counts",), {"counts": {"b": 2, "a": 1}}, b'[[{"a":1,"b":2}]]'),
        (("input.order",), {"input": {"order": "o-1", "other": 1}}, None),
        (("urgent",), {"urgent": True}, b"[[true]]"),
    ],
)
def test_what_is_read(tmp_path: Path, fields: tuple[str, ...], sent: dict[str, Any], key: bytes | None) -> None:
    found = Reader(tmp_path, *fields).of(**sent)
    if key is None:
        # A value of a Struct: some encoding of it, and the same each time.
        assert found is not None
        assert found == Reader(tmp_path, *fields).of(**sent)
    else:
        assert found == key


@pytest.mark.parametrize(
    "sent", [{}, {"id": "o-1"}, {"amount": 5}, {"id": "", "amount": 5}, {"id": "o-1", "amount": 0}]
)
def test_a_field_that_is_absent_or_empty_is_no_key(tmp_path: Path, sent: dict[str, Any]) -> None:
    assert Reader(tmp_path, "id", "amount").of(**sent) is None


def test_what_is_not_named_does_not_count(tmp_path: Path) -> None:
    reader = Reader(tmp_path, "id")
    assert reader.of(id="o-1", call_id="turn-1") == reader.of(id="o-1", call_id="turn-2")


def test_neighbours_do_not_run_together(tmp_path: Path) -> None:
    reader = Reader(tmp_path, "id", "call_id")
    assert reader.of(id="a", call_id="bc") != reader.of(id="ab", call_id="c")


def test_a_method_whose_request_has_no_such_field_has_no_key(tmp_path: Path) -> None:
    assert Reader(tmp_path, "id").of("/v.v1.S/B") is None


def test_a_message_that_does_not_parse_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not parse as v\.v1\.Order"):
        Reader(tmp_path, "id").fields.read("/v.v1.S/A", message(b"\xff\xff\xff"), None, 1000)


def test_a_field_of_no_request_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`ident` is no field"):
        Reader(tmp_path, "ident")
