"""One copied RPC at the other cluster: a stream of its own, of which nobody waits for anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.grpc_wire.metadata import percent_decode
from sidecar.grpc_wire.status import StatusCode, from_http_status, from_rst_code, parse_status
from sidecar.http2.errors import ErrorCode
from sidecar.http2.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clock import Timer
    from sidecar.http2.blocks import HeaderBlock


class AnswerSeen:
    """What came of an RPC: its status, the bytes of its messages with their prefixes, and the messages unless they are too many."""

    __slots__ = ("code", "encoding", "message", "messages", "size")

    def __init__(self) -> None:
        self.code: StatusCode | None = None
        self.message = ""
        self.size = 0
        self.encoding: bytes | None = None
        self.messages: bytearray | None = bytearray()

    def add(self, payload: bytes, limit: int) -> None:
        self.size += len(payload)
        if self.messages is not None:
            self.messages += payload
            if len(self.messages) > limit:
                self.messages = None


class MirroredRpc(Stream):
    """`ended` is called once, with whatever has come; `answer.code` None = nothing did in time."""

    __slots__ = ("_ended", "_limit", "_timer", "answer")

    def __init__(self, limit: int, ended: Callable[[AnswerSeen], None]) -> None:
        self.answer = AnswerSeen()
        self._limit = limit
        self._ended: Callable[[AnswerSeen], None] | None = ended
        self._timer: Timer | None = None

    def watch(self, timer: Timer) -> None:
        """`timer` calls `expire`."""
        self._timer = timer

    def expire(self) -> None:
        self._timer = None
        if self._ended is not None:
            self.reset(ErrorCode.CANCEL)
            self._end(None)

    def _end(self, code: StatusCode | None, message: str = "") -> None:
        ended, self._ended = self._ended, None
        if ended is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.answer.code = code
        self.answer.message = message
        ended(self.answer)

    def on_headers(self, headers: HeaderBlock, end_stream: bool) -> None:
        status = headers.index.get(b":status", b"")
        if status != b"200":
            self._end(from_http_status(int(status) if status.isdigit() else 0))
            if not end_stream:
                self.reset(ErrorCode.CANCEL)
        elif end_stream:
            self.on_trailers(headers)
        else:
            self.answer.encoding = headers.index.get(b"grpc-encoding")

    def on_data(self, payload: bytes, end_stream: bool) -> None:
        self.consume(len(payload))
        self.answer.add(payload, self._limit)
        if end_stream:
            self._end(StatusCode.INTERNAL)

    def on_trailers(self, headers: HeaderBlock) -> None:
        value = headers.index.get(b"grpc-status")
        message = percent_decode(headers.index.get(b"grpc-message", b""))
        self._end(StatusCode.UNKNOWN if value is None else parse_status(value), message)
        if not self.local_closed:
            # It answered before it had read everything.
            self.reset(ErrorCode.CANCEL)

    def on_reset(self, code: int) -> None:
        self._end(from_rst_code(code) if code >= 0 else StatusCode.UNAVAILABLE)

    def on_drained(self, size: int) -> None:
        """The request was complete before it began; nobody waits for window."""

    def on_headers_too_large(self, size: int) -> None:
        self._end(StatusCode.INTERNAL)
        self.reset(ErrorCode.CANCEL)
