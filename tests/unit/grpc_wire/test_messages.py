from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.grpc_wire.messages import MalformedMessage, MessageReader, MessageTooLarge, frame


@given(st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=20), st.lists(st.integers(0, 2000)))
def test_any_cut_gives_the_same_messages(messages: list[tuple[bytes, bool]], cuts: list[int]) -> None:
    data = b"".join(frame(body, compressed=flag) for body, flag in messages)
    reader = MessageReader(300)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut <= len(data))})
    found = [each for start, stop in zip(edges, edges[1:], strict=False) for each in reader.feed(data[start:stop])]
    assert found == [(int(flag), body) for body, flag in messages]
    assert reader.is_between_messages


def test_a_large_message_is_refused_by_its_prefix_alone() -> None:
    with pytest.raises(MessageTooLarge) as refused:
        MessageReader(10).feed(b"\0" + (11).to_bytes(4, "big"))
    assert (refused.value.size, refused.value.limit) == (11, 10)
    assert MessageReader(10).feed(b"\0" + (10).to_bytes(4, "big") + b"x" * 10) == [(0, b"x" * 10)]


def test_an_unknown_flag_is_malformed() -> None:
    with pytest.raises(MalformedMessage, match="flag 2"):
        MessageReader(10).feed(b"\2\0\0\0\0")


def test_a_cut_message_shows() -> None:
    reader = MessageReader(10)
    assert reader.feed(b"\0\0\0\0\3ab") == []
    assert not reader.is_between_messages
