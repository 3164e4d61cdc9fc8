from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.grpc_wire import metadata


@pytest.mark.parametrize("path", [b"/a.B/C", b"/B/C", b"/a.b_c.D1/E_f", b"/_x/_y"])
def test_method_names(path: bytes) -> None:
    assert metadata.is_valid_path(path)


@pytest.mark.parametrize(
    "path",
    [b"", b"/", b"//", b"a.B/C", b"/a.B", b"/a.B/", b"/a.B/C/", b"//a.B/C", b"/a.B//C", b"/a.B/C?x", b"/a.B/C%2F", b"/.B/C",
     b"/a..B/C", b"/a./C", b"/1a/C", b"/a.B/1", b"/a.B/C\n", b"/a.B/C ", "/ä.B/C".encode(), b"/../C", b"/a.B/*"],
)
def test_what_is_no_method_name(path: bytes) -> None:
    assert not metadata.is_valid_path(path)


@pytest.mark.parametrize(
    ("value", "is_grpc"),
    [(b"application/grpc", True), (b"application/grpc+proto", True), (b"application/grpc+json", True),
     (b"application/grpc;charset=utf-8", True), (b"Application/GRPC", True), (b"application/grpc-web", False),
     (b"application/grpc-web+proto", False), (b"application/json", False), (b"", False), (b"application/grpcx", False)],
)
def test_content_types(value: bytes, is_grpc: bool) -> None:
    assert metadata.is_grpc_content_type(value) is is_grpc


@given(st.text())
def test_messages_survive_percent_encoding(text: str) -> None:
    encoded = metadata.percent_encode(text)
    assert metadata.is_valid_value(encoded)
    assert metadata.percent_decode(encoded) == text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(
    ("value", "text"),
    [(b"100%", "100%"), (b"%zz", "%zz"), (b"%41%", "A%"), (b"%FF", "\ufffd"), (b"a%20b", "a b"), (b"%e2%82%ac", "€")],
)
def test_odd_messages_are_read_as_far_as_possible(value: bytes, text: str) -> None:
    assert metadata.percent_decode(value) == text


@given(st.binary())
def test_binary_values(data: bytes) -> None:
    encoded = metadata.encode_binary(data)
    assert b"=" not in encoded
    assert metadata.decode_binary(encoded) == [data]


def test_binary_values_padded_or_joined() -> None:
    assert metadata.decode_binary(b"YQ==,YmI=,Y2Nj") == [b"a", b"bb", b"ccc"]
    with pytest.raises(ValueError, match="base64"):
        metadata.decode_binary(b"!")


def test_names_that_end_here() -> None:
    assert metadata.is_hop_by_hop(b"connection")
    assert metadata.is_hop_by_hop(b"host")
    assert not metadata.is_hop_by_hop(b"te")
    assert metadata.is_own(b"x-sidecar-identity")
    assert not metadata.is_own(b"x-side")


@given(st.text(max_size=3000), st.integers(16, 1024))
def test_truncated_messages_fit(text: str, limit: int) -> None:
    short = metadata.truncate_message(text, limit)
    assert len(short.encode("utf-8", "replace")) <= limit
    if len(text.encode("utf-8", "replace")) <= limit:
        assert short == text
