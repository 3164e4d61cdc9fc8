"""Frames between a call and its attempt (steps 7 and 9): headers re-joined, DATA passed on, and nothing kept that need not be.

Back-pressure, as a chain of names, request direction: the agent's window closes → `attempt.send_data` keeps the payload and
says False → `call.consume` is not called → the caller's window is not renewed → the caller stops. Reopened: WINDOW_UPDATE →
`attempt.on_drained` → `call.consume` → WINDOW_UPDATE to the caller. The answer's direction is the mirror image.

Where a policy wants messages, a `MessagePipe` takes a direction apart and stops it while a verdict is awaited.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from sidecar.grpc_wire import timeout as grpc_timeout
from sidecar.grpc_wire.messages import MalformedMessage, MessageReader, MessageTooLarge, frame
from sidecar.http2.hpack import encode_field
from sidecar.proxy import dispatch
from sidecar.proxy.rejection import Reason, Rejection

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.proxy.attempt import Attempt
    from sidecar.proxy.call import Call
    from sidecar.proxy.policy import Verdict

_PREVIOUS = b"grpc-previous-rpc-attempts"
# A literal field with a new name, without indexing, up to the length of its value (RFC 7541 §6.2.2).
_TIMEOUT = b"\x00" + bytes([len(b"grpc-timeout")]) + b"grpc-timeout"


def to_agent(call: Call, attempt: Attempt, now: float) -> None:
    """Send the request's headers on `attempt` at `now` (monotonic seconds), and what was held of its messages."""
    number = attempt.number
    if number and (former := call.metadata(_PREVIOUS)) is not None:
        # Its caller repeats as well (gRFC A6): the agent is told of all attempts, once.
        call.remove_metadata(_PREVIOUS)
        number += int(former) if former.isdigit() and len(former) < 5 else 0
    block = call.block if call.changed is None else b"".join([field[2] for field in call.changed])
    block += call.peer.to_agent
    if call.deadline is not None:
        value = call.timeout
        if value is None or call.deadline_is_ours or now != call.started:
            value = grpc_timeout.encode(call.deadline - now)
        block += _TIMEOUT + bytes([len(value)]) + value
    if number:
        block += encode_field(_PREVIOUS, b"%d" % number)[2]
    held = call.held
    if held is None and not call.replay:
        attempt.send_headers(block, call.held_end)
        call.straight = call.request_pipe is None and not call.held_end
        if call.request_pipe is not None:
            call.request_pipe.settle()
        return
    _send_kept(call, attempt, block)


def _send_kept(call: Call, attempt: Attempt, block: bytes) -> None:
    """Headers, then what a former attempt has sent already, then what has been held since."""
    held, call.held = call.held or [], None
    sent = list(call.replay or ())
    ends = call.held_end or (call.remote_closed and call.request_pipe is None)
    attempt.send_headers(block, ends and not sent and not held)
    call.straight = call.request_pipe is None and call.hedges is None and not ends
    last = len(sent) + len(held) - 1
    attempt.replays = bool(sent)
    for i, payload in enumerate(sent):
        attempt.send_data(payload, ends and i == last)
    for i, payload in enumerate(held, len(sent)):
        keep(call, payload)
        if attempt.send_data(payload, ends and i == last) and call.request_pipe is None and not sent:
            call.consume(len(payload))
    if call.request_pipe is not None:
        call.request_pipe.settle()
    elif sent and call.attempt is attempt:
        call.credit(attempt)


def keep(call: Call, payload: bytes) -> None:
    """Keep what goes to an attempt, for the next one; a request that outgrows its buffer is committed (gRFC A6)."""
    replay = call.replay
    if replay is not None:
        replay.append(payload)
        call.replay_left -= len(payload)
        if call.replay_left < 0:
            call.replay = None
            if call.hedges is not None and call.attempt is not None:
                dispatch.win(call.attempt)


def fan_out(call: Call, payload: bytes, end: bool) -> None:
    """The caller's DATA to every attempt that runs (hedging); the first one's window is the caller's."""
    keep(call, payload)
    if end:
        call.held_end = True
    for each in call.hedges or ():
        if each.started and not each.over:
            each.send_data(payload, end)
    first = call.attempt
    if first is None or not first.started:
        hold(call, payload, end=end)
    elif first.send_data(payload, end):
        call.consume(len(payload))


def request_data(call: Call, payload: bytes, end: bool) -> None:
    """The caller's DATA when it cannot go straight on: nobody to send it to yet, or a policy wants the messages."""
    if call.request_pipe is not None:
        call.request_pipe.feed(payload, end=end)
    elif count_request(call, payload):
        if call.hedges is not None:
            fan_out(call, payload, end)
        else:
            hold(call, payload, end=end)


def hold(call: Call, payload: bytes, *, end: bool) -> None:
    """Keep request bytes until an attempt runs; the caller's window bounds them."""
    call.held_end = end
    if payload:
        if call.held is None:
            call.held = [payload]
        else:
            call.held.append(payload)


def response_data(call: Call, attempt: Attempt, payload: bytes) -> None:
    """The agent's DATA on a route where a policy wants the messages."""
    pipe = call.response_pipe
    assert pipe is not None
    pipe.feed(payload, end=False)


# ── message boundaries, followed without copying ──


def count_request(call: Call, payload: bytes) -> bool:
    """Count the caller's messages in `payload`; False = one is too large, and the call has been refused."""
    left, prefix, count, too_large = _walk(payload, call.request_left, call.request_prefix, call.plan.max_message)
    if too_large:
        call.reject(message_too_large(call, too_large, "request"))
        return False
    call.request_left, call.request_prefix = left, prefix
    call.request_messages += count
    return True


def count_response(call: Call, payload: bytes) -> bool:
    """The same for the agent's messages."""
    left, prefix, count, too_large = _walk(payload, call.response_left, call.response_prefix, call.plan.max_message)
    if too_large:
        call.reject(message_too_large(call, too_large, "response"))
        return False
    call.response_left, call.response_prefix = left, prefix
    call.response_messages += count
    return True


def _walk(payload: bytes, left: int, prefix: bytes, limit: int) -> tuple[int, bytes, int, int]:
    """Follow the five-byte prefixes: (bytes left of the last message, its cut prefix, messages begun, size if too large).

    `left` = -1 stands for a prefix that was cut; what came of it is `prefix`.
    """
    count = 0
    if left < 0:
        payload = prefix + payload
        left, prefix = 0, b""
    size = len(payload)
    position = left
    left = 0
    while position < size:
        if size - position < 5:
            return -1, payload[position:], count, 0
        length = int.from_bytes(payload[position + 1 : position + 5], "big")
        if length > limit:
            return 0, b"", count, length
        count += 1
        position += 5 + length
    return position - size, prefix, count, 0


def message_too_large(call: Call, size: int, direction: str) -> Rejection:
    limit = call.plan.max_message
    return Reason.MESSAGE_TOO_LARGE.reject(
        f"a {direction} message of {size} bytes; listener {call.edge.name} allows {limit}",
        direction=direction,
        size=size,
        limit=limit,
    )


# ── messages for policies ──


class MessagePipe:
    """One direction of a call, message by message, through the hooks of its plan."""

    __slots__ = (
        "_call",
        "_credit",
        "_end",
        "_ended",
        "_hooks",
        "_is_clear",
        "_on_end",
        "_owed",
        "_queue",
        "_reader",
        "_send",
        "_waits",
    )

    def __init__(
        self,
        call: Call,
        hooks: tuple[Callable[[Call, bytes], Verdict], ...],
        *,
        on_end: Callable[[], None],
        send: Callable[[bytes], object],
        is_clear: Callable[[], bool],
        credit: Callable[[int], None],
    ) -> None:
        """`send` passes a message on; while it has kept some for lack of window, `is_clear` says False. `credit` gives
        window back to the sender; `on_end` follows the last message."""
        self._call = call
        self._hooks = hooks
        self._on_end = on_end
        self._send = send
        self._is_clear = is_clear
        self._credit = credit
        self._reader = MessageReader(call.plan.max_message)
        self._queue: deque[bytes] = deque()
        self._end = False
        self._ended = False
        self._waits = False
        # Bytes received and not yet credited to the sender: it may not run ahead of a verdict or of a slow reader.
        self._owed = 0

    def feed(self, payload: bytes, *, end: bool) -> None:
        """Take a DATA payload; complete messages go through the hooks at once, unless an earlier one still waits."""
        self._owed += len(payload)
        self._end = self._end or end
        try:
            messages = self._reader.feed(payload)
        except MessageTooLarge as error:
            self._call.reject(message_too_large(self._call, error.size, "single"))
            return
        except MalformedMessage as error:
            self._call.reject(Reason.MALFORMED_REQUEST.reject(str(error)))
            return
        for flags, body in messages:
            self._queue.append(frame(body, compressed=bool(flags)))
        self.run()

    def run(self) -> None:
        """Pass on what may go, until a hook waits or refuses."""
        from sidecar.proxy import chain

        call = self._call
        while self._queue and not self._waits and not call.ended:
            message = self._queue.popleft()
            for i, hook in enumerate(self._hooks):
                verdict = hook(call, message)
                if verdict is None:
                    continue
                if isinstance(verdict, bytes):
                    message = verdict
                    continue
                self._waits = True
                chain.message_stopped(call, self, verdict, self._hooks, i, message)
                return
            self._send(message)
        if self._waits or call.ended:
            return
        self.settle()
        if self._end and not self._ended:
            self._ended = True
            if self.is_cut:
                call.reject(Reason.MALFORMED_REQUEST.reject("the stream ended within a message"))
            else:
                self._on_end()

    def passed(self, message: bytes) -> None:
        """A message that had to wait may go on."""
        self._waits = False
        self._send(message)
        self.run()

    def then(self, on_end: Callable[[], None]) -> None:
        """Call `on_end` when all that is in here has moved on."""
        self._on_end = on_end
        self._end = True

    def settle(self) -> None:
        """Credit the sender for what has moved on."""
        if self._owed and not self._waits and self._is_clear():
            owed, self._owed = self._owed, 0
            self._credit(owed)

    @property
    def is_cut(self) -> bool:
        """Has a message begun, and not ended?"""
        return not self._reader.is_between_messages

    @property
    def is_idle(self) -> bool:
        """Nothing waits in here."""
        return not self._waits and not self._queue
