from __future__ import annotations

import h2.settings
import hyperframe.frame as hf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.http2 import frames


def parsed(data: bytes) -> hf.Frame:
    frame, length = hf.Frame.parse_frame_header(memoryview(data[:9]))
    frame.parse_body(memoryview(data[9 : 9 + length]))
    assert len(data) == 9 + length
    return frame


@given(st.integers(0, 2**24 - 1), st.integers(0, 9), st.integers(0, 255), st.integers(0, 2**31 - 1))
def test_headers_are_read_as_they_are_written(length: int, kind: int, flags: int, stream_id: int) -> None:
    high, low, *rest = frames.unpack_header(frames.header(length, kind, flags, stream_id), 0)
    assert [high << 8 | low, *rest] == [length, kind, flags, stream_id]


def test_others_read_what_we_write() -> None:
    assert parsed(frames.window_update(3, 77)).window_increment == 77
    assert parsed(frames.rst_stream(5, 8)).error_code == 8
    ping = parsed(frames.ping(b"12345678", ack=True))
    assert (ping.opaque_data, set(ping.flags)) == (b"12345678", {"ACK"})
    goaway = parsed(frames.goaway(9, 11, b"calm"))
    assert (goaway.last_stream_id, goaway.error_code, goaway.additional_data) == (9, 11, b"calm")
    settings = parsed(frames.settings({frames.INITIAL_WINDOW_SIZE: 5, frames.ENABLE_PUSH: 0}))
    codes = h2.settings.SettingCodes
    assert settings.settings == {codes.INITIAL_WINDOW_SIZE: 5, codes.ENABLE_PUSH: 0}


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 40_000])
@pytest.mark.parametrize("end", [True, False])
def test_long_blocks_go_on_in_continuations(size: int, end: bool) -> None:
    data = frames.headers(1, b"h" * size, end_stream=end, max_frame=16_384)
    found, kinds = b"", []
    while data:
        frame, length = hf.Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        found += frame.data
        kinds.append((type(frame).__name__, "END_HEADERS" in frame.flags, "END_STREAM" in frame.flags))
        data = data[9 + length :]
    assert found == b"h" * size
    assert [kind for kind, _, _ in kinds] == ["HeadersFrame"] + ["ContinuationFrame"] * (len(kinds) - 1)
    assert [last for _, last, _ in kinds] == [False] * (len(kinds) - 1) + [True]
    assert kinds[0][2] is end
