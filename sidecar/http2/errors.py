"""HTTP/2 error codes (RFC 9113 §7) and the two exceptions that exist inside the engine.

`ConnectionFault` is raised while a peer's frame is handled and caught once, in `Connection.receive`: it becomes GOAWAY.
A fault of a single stream is never raised; it becomes RST_STREAM where it is found.
"""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """RFC 9113 §7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


# What `Stream.on_reset` is told besides a peer's RST_STREAM code.
CONNECTION_LOST = -1
"""The connection ended while the stream was open."""
NOT_PROCESSED = -2
"""The peer's GOAWAY says that it never looked at this stream; repeating is safe (RFC 9113 §6.8)."""
MALFORMED = -3
"""The peer's message broke RFC 9113 §8.1.1 and we reset the stream."""


class ConnectionFault(Exception):
    """The peer broke the protocol in a way that ends the connection (RFC 9113 §5.4.1)."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(f"{code.name}: {reason}")
        self.code = code
        self.reason = reason


class LocalError(RuntimeError):
    """We misused the engine, for example by sending on a stream that is closed. A defect of ours, never of the peer."""
