"""Compressed messages: what can be read is read whole, within bounds; anything else is refused by name."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.grpc_wire.compression import CorruptMessage, UnknownEncoding, encoding_of, unpack
from sidecar.grpc_wire.messages import MessageTooLarge, frame
from sidecar.http2.hpack import encode_field

LIMIT = 1024


def packed(data: bytes) -> bytes:
    """Gzip with a fixed time in its header: the names of tests are the same in every process."""
    return gzip.compress(data, mtime=0)


def test_what_is_not_compressed_is_given_as_it_is_whatever_the_encoding() -> None:
    assert unpack(frame(b"plain"), b"br", 1) == b"plain"


@given(st.binary(max_size=LIMIT))
def test_gzip_and_deflate_are_read(body: bytes) -> None:
    assert unpack(frame(packed(body), compressed=True), b"gzip", LIMIT) == body
    assert unpack(frame(zlib.compress(body), compressed=True), b"deflate", LIMIT) == body


@pytest.mark.parametrize("encoding", [None, b"", b"identity", b"br", b"snappy", b"GZIP"])
def test_another_encoding_is_named(encoding: bytes | None) -> None:
    with pytest.raises(UnknownEncoding, match=(encoding or b"none").decode()):
        unpack(frame(b"x", compressed=True), encoding, LIMIT)


def test_all_members_of_gzip_are_read() -> None:
    data = packed(b"first ") + packed(b"second")
    assert unpack(frame(data, compressed=True), b"gzip", LIMIT) == b"first second"


@pytest.mark.parametrize("size", [LIMIT + 1, 50_000_000])
def test_a_bomb_is_not_inflated_beyond_the_limit(size: int) -> None:
    with pytest.raises(MessageTooLarge) as raised:
        unpack(frame(packed(bytes(size)), compressed=True), b"gzip", LIMIT)
    assert raised.value.size == LIMIT + 1


def test_a_bomb_of_many_members_is_not_either() -> None:
    data = packed(bytes(LIMIT)) * 3
    with pytest.raises(MessageTooLarge):
        unpack(frame(data, compressed=True), b"gzip", LIMIT)


def test_exactly_the_limit_passes() -> None:
    assert unpack(frame(packed(bytes(LIMIT)), compressed=True), b"gzip", LIMIT) == bytes(LIMIT)


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        (b"gzip", b""),
        (b"gzip", b"no gzip"),
        (b"gzip", packed(b"cut")[:-3]),
        (b"gzip", packed(b"more") + b"rest"),
        (b"deflate", zlib.compress(b"more") + b"rest"),
        (b"deflate", zlib.compress(b"cut")[:-1]),
        (b"deflate", packed(b"the other one")),
    ],
)
def test_what_does_not_decompress_is_corrupt(encoding: bytes, data: bytes) -> None:
    with pytest.raises(CorruptMessage):
        unpack(frame(data, compressed=True), encoding, LIMIT)


def test_the_encoding_of_a_header_block() -> None:
    assert encoding_of([encode_field(b"content-type", b"application/grpc")]) == b"identity"
    assert encoding_of([encode_field(b"grpc-encoding", b"gzip")]) == b"gzip"
