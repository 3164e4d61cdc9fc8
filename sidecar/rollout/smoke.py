"""One RPC of our own to a candidate, before it gets anybody else's: it passes when the agent answers OK."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from sidecar import __version__
from sidecar.clock import Turn
from sidecar.grpc_wire.messages import frame
from sidecar.grpc_wire.status import StatusCode, from_http_status, from_rst_code, parse_status
from sidecar.grpc_wire.timeout import encode as format_timeout
from sidecar.http2.errors import ErrorCode
from sidecar.http2.hpack import encode_field
from sidecar.http2.stream import Stream

if TYPE_CHECKING:
    from sidecar.clock import Clock
    from sidecar.http2.blocks import HeaderBlock
    from sidecar.http2.connection import Connection
    from sidecar.rollout.config import SmokeConfig


class SmokeRpc(Stream):
    """A unary RPC whose answer is not looked at, only its status."""

    __slots__ = ("_turn", "code")

    def __init__(self) -> None:
        self._turn = Turn()
        self.code: StatusCode | None = None

    def _end(self, code: StatusCode) -> None:
        if self.code is None:
            self.code = code
            self._turn.give()

    def on_headers(self, headers: HeaderBlock, end_stream: bool) -> None:
        status = headers.index.get(b":status")
        if status != b"200":
            self._end(from_http_status(int(status) if status is not None and status.isdigit() else 0))
        elif end_stream:
            self.on_trailers(headers)

    def on_data(self, payload: bytes, end_stream: bool) -> None:
        self.consume(len(payload))
        if end_stream:
            self._end(StatusCode.INTERNAL)

    def on_trailers(self, headers: HeaderBlock) -> None:
        value = headers.index.get(b"grpc-status")
        self._end(StatusCode.UNKNOWN if value is None else parse_status(value))

    def on_reset(self, code: int) -> None:
        self._end(from_rst_code(code))

    def on_drained(self, size: int) -> None:
        """Small enough not to matter."""

    def on_headers_too_large(self, size: int) -> None:
        self._end(StatusCode.INTERNAL)

    async def outcome(self, clock: Clock, seconds: float) -> StatusCode:
        """How it ended; DEADLINE_EXCEEDED when it has not, within `seconds`."""
        if not await self._turn.wait(clock, seconds) and self.code is None:
            self.code = StatusCode.DEADLINE_EXCEEDED
            self.reset(ErrorCode.CANCEL)
        assert self.code is not None
        return self.code


async def smoke(config: SmokeConfig, connection: Connection, authority: str, scheme: str, clock: Clock) -> str | None:
    """Make the RPC; None = it went well, else what went wrong."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", scheme.encode()),
        (b":authority", authority.encode()),
        (b":path", config.method.encode()),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", f"grpc-sidecar/{__version__}".encode()),
        (b"grpc-timeout", format_timeout(config.timeout)),
    ]
    rpc = SmokeRpc()
    connection.open(rpc)
    rpc.send_headers(b"".join(encode_field(*each)[2] for each in fields))
    rpc.send_data(frame(base64.b64decode(config.message)), True)
    code = await rpc.outcome(clock, config.timeout)
    return None if code is StatusCode.OK else f"smoke RPC {config.method} ended with {code.name}"
