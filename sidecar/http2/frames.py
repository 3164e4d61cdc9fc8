"""The layout of each frame (RFC 9113 §4, §6): constants, one reader by offset, writers by struct."""

from __future__ import annotations

from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6

HEADER_LENGTH = 9
DEFAULT_WINDOW = 65_535
DEFAULT_MAX_FRAME = 16_384
LARGEST_MAX_FRAME = 16_777_215
LARGEST_WINDOW = 2**31 - 1
LARGEST_STREAM_ID = 2**31 - 1

# length is 24 bits: its upper 16 and lower 8 are read as two fields.
_HEADER = Struct(">HBBBL")
_LONG = Struct(">L")
_TWO_LONGS = Struct(">LL")
_SETTING = Struct(">HL")

unpack_header = _HEADER.unpack_from
"""`(length >> 8, length & 0xFF, type, flags, stream id with its reserved bit)` at an offset."""
unpack_long = _LONG.unpack_from
unpack_setting = _SETTING.unpack_from
pack_header = _HEADER.pack


def header(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The nine bytes before a payload of `length` bytes."""
    return pack_header(length >> 8, length & 0xFF, kind, flags, stream_id)


def settings(values: dict[int, int]) -> bytes:
    payload = b"".join([_SETTING.pack(key, value) for key, value in values.items()])
    return header(len(payload), SETTINGS, 0, 0) + payload


SETTINGS_ACK = header(0, SETTINGS, ACK, 0)


def window_update(stream_id: int, increment: int) -> bytes:
    return pack_header(0, 4, WINDOW_UPDATE, 0, stream_id) + _LONG.pack(increment)


def rst_stream(stream_id: int, code: int) -> bytes:
    return pack_header(0, 4, RST_STREAM, 0, stream_id) + _LONG.pack(code)


def ping(payload: bytes, *, ack: bool) -> bytes:
    return pack_header(0, 8, PING, ACK if ack else 0, 0) + payload


def goaway(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    return header(8 + len(debug), GOAWAY, 0, 0) + _TWO_LONGS.pack(last_stream_id, code) + debug


def headers(stream_id: int, block: bytes, *, end_stream: bool, max_frame: int) -> bytes:
    """HEADERS, and CONTINUATION where `block` exceeds the peer's frame size."""
    size = len(block)
    if size <= max_frame:
        return pack_header(size >> 8, size & 0xFF, HEADERS, 0x5 if end_stream else 0x4, stream_id) + block
    parts = [header(max_frame, HEADERS, END_STREAM if end_stream else 0, stream_id), block[:max_frame]]
    for start in range(max_frame, size, max_frame):
        chunk = block[start : start + max_frame]
        last = start + max_frame >= size
        parts += (header(len(chunk), CONTINUATION, END_HEADERS if last else 0, stream_id), chunk)
    return b"".join(parts)
