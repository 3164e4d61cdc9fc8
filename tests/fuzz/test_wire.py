"""Arbitrary bytes from a peer raise nothing but what is documented. `FUZZ_EXAMPLES` says how many are tried."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.grpc_wire import details, timeout
from sidecar.http2 import frames
from sidecar.http2.connection import Connection
from sidecar.http2.hpack import Decoder, HeaderListTooLarge, HpackError
from sidecar.http2.stream import Stream
from sidecar.identity import spiffe

many = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "200")))


@st.composite
def frame(draw: st.DrawFn) -> bytes:
    payload = draw(st.binary(max_size=60))
    kind, flags = draw(st.integers(0, 11)), draw(st.integers(0, 255))
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + draw(st.integers(0, 5)).to_bytes(4, "big") + payload


@many
@given(st.lists(frame() | st.binary(max_size=40), max_size=12), st.booleans())
def test_no_exception_leaves_receive(parts: list[bytes], is_server: bool) -> None:
    connection = Connection(accept=(lambda _: Stream()) if is_server else None, wake=lambda: None)
    connection.start()
    if is_server:
        connection.receive(frames.PREFACE, 0.0)
    for now, part in enumerate(parts):
        if connection.closed:
            break
        connection.receive(part, float(now))
    connection.lost()
    assert not connection.streams


@many
@given(st.binary(max_size=300))
def test_header_blocks(block: bytes) -> None:
    try:
        fields = Decoder(max_list_size=4096).decode(block)
    except (HpackError, HeaderListTooLarge):
        return
    assert sum(len(each[0]) + len(each[1]) + 32 for each in fields) <= 4096


@many
@given(st.binary(max_size=12) | st.from_regex(rb"[0-9]{1,9}[HMSmun]", fullmatch=True))
def test_timeouts(value: bytes) -> None:
    try:
        seconds = timeout.parse(value)
    except ValueError:
        return
    # The last bit of a float is not a longer deadline.
    assert timeout.parse(timeout.encode(seconds)) <= seconds * (1 + 1e-12)


@many
@given(st.text(max_size=80) | st.text(max_size=80).map(lambda rest: "spiffe://" + rest))
def test_spiffe_ids(text: str) -> None:
    try:
        found = spiffe.parse(text)
    except ValueError:
        return
    assert str(found) == text


@many
@given(st.binary(max_size=200))
def test_status_details(data: bytes) -> None:
    try:
        found = details.decode_status(data)
    except ValueError:
        return
    assert isinstance(found, details.Status)
