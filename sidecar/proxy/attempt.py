"""One try of a call at one endpoint: the stream towards the agent, and what its answer means (step 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from sidecar.grpc_wire.metadata import is_hop_by_hop, is_own, percent_decode
from sidecar.grpc_wire.status import StatusCode, from_http_status, parse_status
from sidecar.http2.errors import CONNECTION_LOST, MALFORMED, NOT_PROCESSED, ErrorCode
from sidecar.http2.stream import Stream
from sidecar.proxy import dispatch, relay
from sidecar.proxy.policy import Origin, Outcome

if TYPE_CHECKING:
    from sidecar.clock import Expiring
    from sidecar.http2.blocks import HeaderBlock
    from sidecar.http2.connection import Connection
    from sidecar.http2.hpack import Field
    from sidecar.proxy.call import Call
    from sidecar.proxy.plan import Endpoint

OK_BY_AGENT = Outcome(StatusCode.OK, "", Origin.AGENT)
"""Shared: nearly every RPC ends like this."""


class ResponseFacts:
    """What a header block of an agent says, found once per distinct block."""

    __slots__ = (
        "block",
        "code",
        "fields",
        "has_request_id",
        "http_status",
        "is_final",
        "is_grpc",
        "outcome",
        "strips_ours",
    )

    def __init__(self, headers: HeaderBlock, *, strips_ours: bool) -> None:
        index = headers.index
        self.strips_ours = strips_ours
        self.fields: tuple[Field, ...] = tuple(
            field for field in headers.fields if not is_hop_by_hop(field[0]) and not (strips_ours and is_own(field[0]))
        )
        self.block = b"".join([field[2] for field in self.fields])
        self.has_request_id = b"x-request-id" in index
        self.http_status = int(index.get(b":status", b"0"))
        self.is_grpc = self.http_status in {0, 200} and (
            b":status" not in index or index.get(b"content-type", b"").startswith(b"application/grpc")
        )
        value = index.get(b"grpc-status")
        self.code: StatusCode | None = None if value is None else parse_status(value)
        self.is_final = self.is_grpc and self.code is not None
        self.outcome = OK_BY_AGENT
        if self.code is not None and self.code is not StatusCode.OK:
            message = percent_decode(index.get(b"grpc-message", b""))
            # Towards the mesh it may be a sidecar that refused; an agent beside us cannot say so.
            origin = Origin.AGENT if strips_ours or b"x-sidecar-origin" not in index else Origin.SIDECAR
            self.outcome = Outcome(self.code, message, origin)

    def value(self, name: bytes) -> bytes | None:
        """The last value of a field, or None."""
        return next((field[1] for field in reversed(self.fields) if field[0] == name), None)

    def protocol_problem(self) -> tuple[StatusCode, str] | None:
        """Why this is no answer of a gRPC server (http-grpc-status-mapping.md), or None."""
        if self.http_status not in {0, 200}:
            return from_http_status(self.http_status), f"the agent answered with HTTP status {self.http_status}"
        if not self.is_grpc:
            return StatusCode.UNKNOWN, "the agent's content-type is not application/grpc"
        return None


@mypyc_attr(allow_interpreted_subclasses=True)
class Attempt(Stream):
    """A stream towards an endpoint, on behalf of one call."""

    __slots__ = ("bucket", "call", "endpoint", "facts", "held", "number", "over", "replays", "responded", "started")

    def __init__(self, call: Call, endpoint: Endpoint) -> None:
        self.call = call
        self.endpoint = endpoint
        self.number = call.attempts
        call.attempts += 1
        self.started = False
        self.responded = False
        self.over = False
        # It began with bytes that another attempt has been sent as well.
        self.replays = False
        # The last header block of the agent, as far as a policy may ask for it.
        self.facts: ResponseFacts | None = None
        # Response headers that wait for the first message, while another attempt may still be made.
        self.held: ResponseFacts | None = None
        self.bucket: set[Expiring] | None = None

    def launch(self, connection: Connection, now: float) -> None:
        """Send the call's headers, and whatever the caller sent since, on `connection` (which is open)."""
        call = self.call
        connection.open(self)
        self.started = call.sent = True
        self.endpoint.started(self)
        if call.plan.on_attempt_start is not None:
            call.plan.on_attempt_start(call, self, now)
        relay.to_agent(call, self, now)

    def leave(self) -> None:
        """It is over, in whatever way: no timer keeps it."""
        self.over = True
        self.held = None
        if self.bucket is not None:
            self.bucket.discard(self)
            self.bucket = None

    def on_deadline(self, now: float) -> None:
        """The time that one attempt may take is over."""
        self.bucket = None
        if not self.over:
            dispatch.too_slow(self)

    def abandon(self, code: int = ErrorCode.CANCEL) -> None:
        """Nobody wants the answer any more: RST_STREAM, never a half-close."""
        if self.over:
            return
        self.leave()
        if self.started:
            self.reset(code)
            dispatch.finished(self, ABANDONED)

    # ── what comes back ──

    def on_headers(self, headers: HeaderBlock, end_stream: bool) -> None:
        call = self.call
        if self.over:
            return
        facts = headers.note
        # One connection may serve both directions, which do not read an answer alike.
        if type(facts) is not ResponseFacts or facts.strips_ours is not call.edge.strips_ours:
            facts = headers.note = ResponseFacts(headers, strips_ours=call.edge.strips_ours)
        call.active = self.connection.now
        try:
            if end_stream:
                dispatch.judge(self, facts)
            elif not facts.is_grpc:
                dispatch.broke_protocol(self, facts)
            else:
                self.responded = True
                if call.plan.on_attempt_end is None or call.replay is None:
                    call.start_response(facts)
                else:
                    dispatch.answered(self, facts)
        except Exception as error:
            call.on_defect("response headers", error)

    def on_data(self, payload: bytes, end_stream: bool) -> None:
        call = self.call
        if self.over:
            return
        if self.held is not None:
            dispatch.commit(self)
        size = len(payload)
        call.bytes_out += size
        call.active = self.connection.now
        if call.response_pipe is not None:
            try:
                relay.response_data(call, self, payload)
            except Exception as error:
                call.on_defect("relay", error)
        else:
            left = call.response_left
            if left == 0 and size >= 5 and int.from_bytes(payload[1:5], "big") + 5 == size <= call.plan.max_message:
                call.response_messages += 1
            elif size <= left:
                call.response_left = left - size
            elif not relay.count_response(call, payload):
                return
            if call.send_data(payload, False):
                if self.unacked + size < self.connection.stream_credit_at:
                    self.unacked += size
                else:
                    self.consume(size)
        if end_stream:
            dispatch.no_status(self)

    def on_trailers(self, headers: HeaderBlock) -> None:
        if self.over:
            return
        call = self.call
        facts = headers.note
        if type(facts) is not ResponseFacts or facts.strips_ours is not call.edge.strips_ours:
            facts = headers.note = ResponseFacts(headers, strips_ours=call.edge.strips_ours)
        try:
            dispatch.judge(self, facts)
        except Exception as error:
            call.on_defect("trailers", error)

    def on_drained(self, size: int) -> None:
        call = self.call
        if call.request_pipe is not None:
            call.request_pipe.settle()
        elif not call.remote_closed:
            if not self.replays:
                call.consume(size)
            elif call.attempt is self:
                call.credit(self)

    def on_headers_too_large(self, size: int) -> None:
        if not self.over:
            dispatch.too_large(self, size)

    def on_reset(self, code: int) -> None:
        if self.over:
            return
        if code == CONNECTION_LOST:
            dispatch.lost(self)
        elif code == NOT_PROCESSED:
            dispatch.not_processed(self)
        elif code == MALFORMED:
            dispatch.malformed(self)
        else:
            dispatch.reset_by_agent(self, code)


ABANDONED = Outcome(StatusCode.CANCELLED, "nobody waits for this attempt", Origin.CALLER)
