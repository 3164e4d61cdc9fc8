"""One RPC, of whatever kind, as its caller sees it: from request headers to the end (steps 3 to 10 of ARCHITECTURE.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.grpc_wire.status import StatusCode
from sidecar.http2.blocks import HeaderBlock
from sidecar.http2.errors import ErrorCode
from sidecar.http2.hpack import encode_field
from sidecar.http2.stream import Stream
from sidecar.proxy import chain, relay, reply
from sidecar.proxy.policy import Origin, Outcome
from sidecar.proxy.rejection import Reason, Rejection
from sidecar.proxy.request import REWRITTEN, RequestFacts, is_grpc, parse_timeout
from sidecar.request_id import is_valid_request_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.clock import Expiring, Timer
    from sidecar.http2.hpack import Field
    from sidecar.proxy.attempt import Attempt, ResponseFacts
    from sidecar.proxy.edge import Edge, Peer
    from sidecar.proxy.plan import Endpoint, Plan
    from sidecar.proxy.relay import MessagePipe
    from sidecar.proxy.routing import Method

_LINGER = 1.0
"""Seconds that a caller has to end its side after the call has ended."""

CANCELLED_BY_CALLER = Outcome(StatusCode.CANCELLED, "the caller went away", Origin.CALLER)


class Call(Stream):
    """A caller's stream. Policies read its attributes and use the methods under "for policies"."""

    __slots__ = (
        "active",
        "attempt",
        "attempts",
        "block",
        "bucket",
        "bytes_in",
        "bytes_out",
        "changed",
        "deadline",
        "deadline_is_ours",
        "edge",
        "ended",
        "entered",
        "gone",
        "has_waited",
        "headers",
        "hedges",
        "held",
        "held_end",
        "identity",
        "idle",
        "is_late",
        "method",
        "notes",
        "outlives",
        "path",
        "peek",
        "peer",
        "plan",
        "repeated_unseen",
        "replay",
        "replay_left",
        "request_id",
        "request_left",
        "request_messages",
        "request_pipe",
        "request_prefix",
        "responded",
        "response_left",
        "response_messages",
        "response_pipe",
        "response_prefix",
        "sent",
        "started",
        "straight",
        "timeout",
        "timer",
        "tried",
        "waits",
    )

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.edge: Edge = peer.edge
        self.plan: Plan = self.edge.routes.unrouted
        self.identity: str | None = peer.identity
        self.attempt: Attempt | None = None
        self.attempts = 0
        # Hedging: attempts beside the first. Endpoints where one has failed. The timer of the next one.
        self.hedges: list[Attempt] | None = None
        self.tried: list[Endpoint] | None = None
        self.timer: Timer | None = None
        # What attempts have been sent so far, while another may be made; None once the call is committed.
        self.replay: list[bytes] | None = []
        self.replay_left = 0
        self.repeated_unseen = False
        self.bucket: set[Expiring] | None = None
        self.entered = 0
        self.ended = False
        self.responded = False
        # True while DATA goes straight on: an attempt runs, nothing is held, no policy wants messages.
        self.straight = False
        # The caller's DATA that has nowhere to go yet; bounded by the stream's window, as it is not consumed.
        self.held: list[bytes] | None = None
        self.held_end = False
        # What goes upstream: the encoded fields, or, once a policy has touched them, the list of them.
        self.block = b""
        self.changed: list[Field] | None = None
        # The caller's grpc-timeout as it came.
        self.timeout: bytes | None = None
        self.deadline: float | None = None
        self.deadline_is_ours = False
        self.idle: float | None = None
        # The tasks of hooks that wait, oldest first; both directions of a call may wait at a time.
        self.waits: list[Any] | None = None
        self.has_waited = False
        self.request_pipe: MessagePipe | None = None
        self.response_pipe: MessagePipe | None = None
        # Bytes of the current message still to come, per direction; -1: its five-byte prefix was cut, this is its beginning.
        self.request_left = 0
        self.response_left = 0
        self.request_prefix = b""
        self.response_prefix = b""
        self.request_messages = 0
        self.response_messages = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.notes: dict[str, Any] | None = None
        self.path: str = ""
        self.method: Method | None = None
        self.peek = False
        # The agent hears nothing before the caller has half-closed, and the request hooks of that have passed.
        self.is_late = False
        # Its execution goes on when the caller goes away; `gone`: it has.
        self.outlives = False
        self.gone = False
        # An attempt has left for an agent.
        self.sent = False

    # ── for policies ──

    @property
    def route(self) -> str:
        return self.plan.route

    @property
    def authority(self) -> str:
        return self.metadata_text(b":authority") or ""

    @property
    def request_id_text(self) -> str:
        return self.request_id[1].decode("ascii")

    def metadata(self, name: bytes) -> bytes | None:
        """The last value of `name` as the caller sent it, or None."""
        return self.headers.get(name)

    def metadata_text(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def metadata_values(self, name: bytes) -> Iterator[bytes]:
        """All values of `name`, in their order."""
        return (field[1] for field in self.headers.fields if field[0] == name)

    @property
    def fields(self) -> list[Field]:
        """What goes upstream, to be changed; the same list each time."""
        if self.changed is None:
            passes = self.edge.passes
            self.changed = [each for each in self.headers.fields if each[0] not in REWRITTEN and passes(each[0])]
            self.changed.append(self.request_id)
        return self.changed

    @fields.setter
    def fields(self, fields: list[Field]) -> None:
        self.changed = fields

    def set_metadata(self, name: bytes, value: bytes) -> None:
        """What goes upstream: exactly one `name` with `value`."""
        self.remove_metadata(name)
        self.fields.append(encode_field(name, value))

    def remove_metadata(self, name: bytes) -> None:
        """What goes upstream: no `name`."""
        self.fields = [field for field in self.fields if field[0] != name]

    @property
    def waiting(self) -> Any:
        """The task of the hook that began to wait last; None = nothing waits."""
        return self.waits[-1] if self.waits else None

    @property
    def is_known_method(self) -> bool:
        """Does a route name this very method?"""
        return self.method is not None and self.method.is_known

    def note(self, policy: str, value: Any) -> None:
        """Keep something of `policy` until the call ends."""
        if self.notes is None:
            self.notes = {}
        self.notes[policy] = value

    def limit_deadline(self, when: float) -> None:
        """Shorten the deadline to `when` (monotonic seconds); a later one changes nothing (gRFC A31)."""
        if self.deadline is None or when < self.deadline:
            self.deadline = when
            self.deadline_is_ours = True

    def reject(self, rejection: Rejection) -> None:
        """End the call with a status of ours, at any point of its life."""
        if not self.ended:
            self.abandon_attempts()
            reply.reject(self, rejection)

    def abandon_attempts(self) -> None:
        """Whatever runs for this call has no reader any more."""
        if self.attempt is not None:
            self.attempt.abandon()
        for each in self.hedges or ():
            each.abandon()

    # ── step 3: request headers ──

    def on_headers(self, headers: HeaderBlock, end_stream: bool) -> None:
        self.started = self.active = self.connection.now
        self.headers = headers
        self.request_id = _NO_REQUEST_ID
        try:
            problem = self._begin(headers)
            if problem is not None:
                reply.reject(self, problem)
        except Exception as error:
            self.on_defect("call", error)

    def _begin(self, headers: HeaderBlock) -> Rejection | None:
        edge = self.edge
        beginning = headers.beginning
        plan = None
        if beginning is not None:
            facts = beginning.note
            if type(facts) is not RequestFacts or facts.routes is not edge.routes:
                facts = beginning.note = RequestFacts(beginning.fields, beginning.index, edge)
            if facts.usable:
                # The deliberate fast path: all but a few fields were understood when a former call began with them.
                method = facts.method
                block, seconds, request_id = facts.block, facts.seconds, facts.request_id
                self.timeout = facts.timeout
                clean = edge.clean
                for field in headers.rest:
                    name = field[0]
                    if name in clean:
                        block += field[2]
                    elif name == b"x-request-id":
                        request_id = field
                    elif name == b"grpc-timeout":
                        self.timeout = field[1]
                        seconds = parse_timeout(field[1])
                    elif name not in REWRITTEN and edge.passes(name):
                        block += field[2]
                if request_id is None or is_valid_request_id(request_id[1]) is None:
                    request_id = encode_field(b"x-request-id", edge.runtime.new_request_id())
                self.request_id = request_id
                self.block = block + request_id[2]
                assert method is not None
                self.method = method
                self.path = method.path
                plan = method.plan or method.match(headers.index, self.plan)
                self.plan = plan
                plan.active += 1
        if plan is None:
            self.timeout = headers.get(b"grpc-timeout")
            seconds = None if self.timeout is None else parse_timeout(self.timeout)
            problem = self._begin_slowly(headers)
            if problem is not None or self.ended:
                return problem
            plan = self.plan
        peer = self.peer
        if peer.refused is not None or self.started >= peer.ends:
            return peer.refusal(self.started)
        if seconds is not None:
            if isinstance(seconds, Rejection):
                return seconds
            self.deadline = self.started + seconds
        if plan.cluster is None:
            return no_route(self, closed=edge.routes.is_closed)
        if edge.draining:
            return draining()
        self.replay_left = plan.replay
        # Step 5, in line: this loop is the fast path of every RPC (chain.py has the rest).
        for hook in plan.on_request:
            verdict = hook(self)
            if verdict is not None:
                chain.stopped(self, verdict)
                return None
            self.entered += 1
        chain.admitted(self)
        return None

    def _begin_slowly(self, headers: HeaderBlock) -> Rejection | None:
        """The same for headers that begin like no former ones; ends calls that are not gRPC."""
        edge, index = self.edge, headers.index
        unrouted = self.plan
        unrouted.active += 1
        if not is_grpc(index):
            reply.plain_http(self, index[b":method"])
            return None
        request_id = next((each for each in reversed(headers.fields) if each[0] == b"x-request-id"), None)
        if request_id is None or is_valid_request_id(request_id[1]) is None:
            request_id = encode_field(b"x-request-id", edge.runtime.new_request_id())
        self.request_id = request_id
        self.block = b"".join([each[2] for each in self.fields])
        self.changed = None
        method = edge.routes.method(index[b":path"])
        if method is None:
            return Reason.METHOD_UNKNOWN.reject("the path is not the name of a method, /package.Service/Method")
        self.method = method
        self.path = method.path
        plan = method.plan or method.match(index, unrouted)
        unrouted.active -= 1
        plan.active += 1
        self.plan = plan
        if index.get(b"te") != b"trailers":
            return Reason.MALFORMED_REQUEST.reject(
                "the request lacks `te: trailers`; something between us is no gRPC peer"
            )
        return None

    def on_headers_too_large(self, size: int) -> None:
        if self.ended:
            return
        if self.path:
            # These are trailers; the call runs.
            self.reject(Reason.METADATA_TOO_LARGE.reject(f"the request's trailers have {size} bytes", size=size))
            return
        self.started = self.active = self.connection.now
        self.headers = _NO_HEADERS
        self.request_id = encode_field(b"x-request-id", self.plan.runtime.new_request_id())
        self.plan.active += 1
        reply.reject(self, Reason.METADATA_TOO_LARGE.reject(f"the request's metadata has {size} bytes", size=size))

    # ── step 7: the caller's messages ──

    def on_data(self, payload: bytes, end_stream: bool) -> None:
        size = len(payload)
        self.bytes_in += size
        self.active = self.connection.now
        if self.straight:
            left = self.request_left
            # The deliberate fast path: a frame that is one message, or lies within one.
            if left == 0 and size >= 5 and int.from_bytes(payload[1:5], "big") + 5 == size <= self.plan.max_message:
                self.request_messages += 1
            elif size <= left:
                self.request_left = left - size
            elif not relay.count_request(self, payload):
                return
            replay = self.replay
            if replay is not None:
                replay.append(payload)
                self.replay_left -= size
                if self.replay_left < 0:
                    self.replay = None
            attempt = self.attempt
            if attempt is not None and attempt.send_data(payload, end_stream):
                if self.unacked + size < self.connection.stream_credit_at:
                    self.unacked += size
                else:
                    self.consume(size)
        elif self.ended:
            self.consume(size)
            if end_stream:
                self.leave_bucket()
        else:
            try:
                relay.request_data(self, payload, end_stream)
            except Exception as error:
                self.on_defect("relay", error)

    def credit(self, attempt: Attempt) -> None:
        """Renew the caller's window after bytes left on `attempt`, some of which another one may have been sent before.

        What the caller has not been credited yet is at most what waits here; a former attempt may have left more, or less.
        """
        owed = self.connection.stream_window - self.recv_window - self.unacked
        for payload, _ in attempt.pending or ():
            owed -= len(payload)
        for held in self.held or ():
            owed -= len(held)
        if owed > 0:
            self.consume(owed)

    def on_trailers(self, headers: HeaderBlock) -> None:
        """gRPC has no request trailers; their end of the stream counts, their fields do not."""
        self.on_data(b"", True)

    def on_drained(self, size: int) -> None:
        if self.response_pipe is not None:
            self.response_pipe.settle()
            return
        attempt = self.attempt
        if attempt is not None and not attempt.remote_closed:
            attempt.consume(size)

    # ── step 9: the answer ──

    def start_response(self, facts: ResponseFacts) -> None:
        """Send initial metadata on as it came."""
        hooks = self.plan.on_response_headers
        self.replay = None
        if hooks:
            fields = list(facts.fields)
            for hook in hooks:
                hook(self, fields)
            block = b"".join([field[2] for field in fields])
        else:
            block = facts.block
        if not facts.has_request_id:
            block += self.request_id[2]
        self.responded = True
        if not self.gone:
            self.send_headers(block)

    def finish(self, facts: ResponseFacts) -> None:
        """The agent's status, in trailers or as Trailers-Only; hooks may look, change, or wait."""
        pipe = self.response_pipe
        if pipe is not None and not pipe.is_idle:
            # Messages before it still wait for their verdict.
            pipe.then(lambda: self.finish(facts))
            return
        if pipe is not None and pipe.is_cut:
            self.reject(Reason.UPSTREAM_PROTOCOL.reject("the agent ended the stream within a message"))
            return
        if self.plan.on_trailers:
            chain.trailers(self, facts)
        else:
            if self.responded and self.pending is None and not self.gone:
                self.send_headers(facts.block, True)
            else:
                self.send_end(
                    facts.block if self.responded or facts.has_request_id else facts.block + self.request_id[2]
                )
            self.end(facts.outcome)

    def send_end(self, block: bytes) -> None:
        """The last header block: trailers, or Trailers-Only when nothing was sent before."""
        if self.gone:
            return
        if self.responded:
            self.send_trailers(block)
        else:
            self.responded = True
            self.send_headers(block, True)

    # ── step 10: the end ──

    def end(self, outcome: Outcome) -> None:
        """Once, however the call ended: unwind in reverse, leave no timer and no task."""
        if self.ended:
            return
        self.ended = True
        # The caller may have been silent since it asked: its connection does not know how late it is.
        self.connection.now = self.plan.runtime.clock.monotonic()
        self.straight = False
        self.held = self.replay = self.tried = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.plan.active -= 1
        if self.bucket is not None:
            self.bucket.discard(self)
            self.bucket = None
        if self.waits is not None:
            waits, self.waits = self.waits, None
            for task in waits:
                task.cancel()
        for hook in self.plan.unwind[self.entered]:
            try:
                hook(self, outcome)
            except Exception as error:
                self.plan.runtime.defect("on_end", error)
        self.attempt = None
        self.request_pipe = self.response_pipe = None
        if not self.remote_closed:
            self.bucket = self.plan.runtime.deadlines.add(self.connection.now + _LINGER, self.connection.now, self)

    def leave_bucket(self) -> None:
        """No limit is watched any more."""
        if self.bucket is not None:
            self.bucket.discard(self)
            self.bucket = None

    def on_reset(self, code: int) -> None:
        if self.outlives and not self.ended:
            # Nobody reads on, and what was begun is finished all the same; the deadline goes on counting.
            self.gone = True
            if self.response_pipe is not None:
                self.response_pipe.settle()
            return
        self.leave_bucket()
        if self.ended:
            return
        self.abandon_attempts()
        self.end(CANCELLED_BY_CALLER)
        self.leave_bucket()

    def on_deadline(self, now: float) -> None:
        self.bucket = None
        if self.ended:
            if self.pending is not None:
                # It has not read all of its answer yet; the rest of that must not be cut off.
                self.bucket = self.plan.runtime.deadlines.add(now + _LINGER, now, self)
            else:
                # The caller never ended its side: it has had its answer (RFC 9113 §8.1, NO_ERROR).
                self.reset(ErrorCode.NO_ERROR)
            return
        if self.deadline is not None and now >= self.deadline:
            self.reject(deadline_passed(self))
        elif self.idle is not None and now - self.active >= self.idle:
            self.reject(idle_too_long(self))
        else:
            self.watch_time(now)

    def watch_time(self, now: float) -> None:
        """Enter the bucket of whatever limit comes first."""
        when = self.deadline
        if self.idle is not None and (when is None or self.active + self.idle < when):
            when = self.active + self.idle
        if when is not None:
            self.bucket = self.plan.runtime.deadlines.add(when, now, self)

    def on_defect(self, where: str, error: Exception) -> None:
        """An exception that should not be: fail closed, say nothing of it to the caller."""
        self.plan.runtime.defect(where, error)
        self.reject(Reason.DEFECT.reject("the sidecar failed internally; its log has the request id"))
        if not self.ended:
            self.reset(ErrorCode.INTERNAL_ERROR)
            self.on_reset(ErrorCode.INTERNAL_ERROR)


def no_route(call: Call, *, closed: bool) -> Rejection:
    if closed:
        return Reason.NO_ROUTE.reject(
            f"no route of listener {call.edge.name} is for {call.path}",
            code=StatusCode.UNIMPLEMENTED,
            listener=call.edge.name,
            method=call.path,
        )
    return Reason.NO_ROUTE.reject(
        f"no route of listener {call.edge.name} matches {call.path}", listener=call.edge.name, method=call.path
    )


def draining() -> Rejection:
    return Reason.DRAINING.reject("this sidecar is shutting down; another one may answer", retry_after=1.0)


def deadline_passed(call: Call) -> Rejection:
    assert call.deadline is not None
    seconds = f"{call.deadline - call.started:.3f}"
    if call.deadline_is_ours:
        return Reason.ROUTE_TIMEOUT.reject(
            f"route {call.route} allows {seconds} s", route=call.route, timeoutSeconds=seconds
        )
    return Reason.DEADLINE.reject(f"the caller's deadline of {seconds} s has passed", timeoutSeconds=seconds)


def idle_too_long(call: Call) -> Rejection:
    return Reason.IDLE_TIMEOUT.reject(
        f"no message in either direction for {call.idle:g} s", route=call.route, idleSeconds=f"{call.idle:g}"
    )


_NO_HEADERS = HeaderBlock(None, ())
_NO_REQUEST_ID: Field = (b"x-request-id", b"", b"")
