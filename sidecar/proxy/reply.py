"""Answers that the sidecar gives itself: refusals and replays, as Trailers-Only or as trailers, and plain HTTP for others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.grpc_wire.details import ErrorInfo, RetryInfo, encode_status
from sidecar.grpc_wire.metadata import encode_binary, percent_encode
from sidecar.grpc_wire.status import StatusCode
from sidecar.http2.errors import ErrorCode
from sidecar.http2.hpack import encode_field
from sidecar.proxy.policy import Origin, Outcome
from sidecar.proxy.rejection import DOMAIN
from sidecar.proxy.relay import MessagePipe

if TYPE_CHECKING:
    from sidecar.proxy.call import Call
    from sidecar.proxy.policy import Answer
    from sidecar.proxy.rejection import Rejection, Written

_OK = encode_field(b":status", b"200")
_GRPC = encode_field(b"content-type", b"application/grpc")
_ORIGIN = encode_field(b"x-sidecar-origin", b"sidecar")
_OPENING = _OK[2] + _GRPC[2]
_KEPT = 256
_LONGEST = 2048
"""Bytes of trailers; longer ones repeat what a caller chose (a method's name), and must not be kept for it."""
_known: dict[tuple[object, ...], Written] = {}
"""Refusals as they went out. Who is refused is refused again, mostly for the same reason and in the same millisecond: that must
cost less than serving."""


def reject(call: Call, rejection: Rejection) -> None:
    """End `call` with `rejection`: Trailers-Only, or trailers when initial metadata went out already."""
    block, outcome = written(rejection)
    call.plan.runtime.refusals.note(call, rejection)
    if call.pending is not None:
        # The caller does not read; trailers would wait behind half a message. It learns of the end at once.
        call.reset(ErrorCode.CANCEL)
        call.end(outcome)
        return
    if not call.responded:
        block = _OPENING + block + call.request_id[2]
    call.send_end(block)
    call.end(outcome)


def written(rejection: Rejection) -> Written:
    """The trailers of a refusal: status, message, whose it is, when to come back, and the details (AIP-193).

    Times are whole milliseconds, rounded up: a caller that comes back a fraction early is refused again.
    """
    if rejection.written:
        return rejection.written[0]
    code, message, wait = rejection.code, rejection.message, rejection.retry_after
    milliseconds = None if wait is None else -int(-wait * 1000 // 1)
    key = (rejection.reason, code, message, milliseconds, tuple(rejection.metadata.items()), rejection.details)
    found = _known.get(key)
    if found is None:
        found = _block(rejection, milliseconds), Outcome(code, message, Origin.SIDECAR, rejection.reason)
        if len(found[0]) <= _LONGEST:
            if len(_known) >= _KEPT:
                _known.clear()
            _known[key] = found
    rejection.written.append(found)
    return found


def _block(rejection: Rejection, milliseconds: int | None) -> bytes:
    code, message = rejection.code, rejection.message
    details = [ErrorInfo(rejection.reason.name, DOMAIN, rejection.metadata), *rejection.details]
    fields = [
        encode_field(b"grpc-status", b"%d" % code),
        encode_field(b"grpc-message", percent_encode(message)),
        _ORIGIN,
    ]
    if milliseconds is not None:
        details.append(RetryInfo(milliseconds / 1000))
        fields.append(encode_field(b"grpc-retry-pushback-ms", b"%d" % milliseconds))
    fields.append(encode_field(b"grpc-status-details-bin", encode_binary(encode_status(code, message, details))))
    return b"".join([field[2] for field in fields])


def answer(call: Call, recorded: Answer, before: int) -> None:
    """Give a recorded response; it passes the response hooks of the policies `before` the one that knew it."""
    plan = call.plan
    headers = list(recorded.headers)
    for position, hook in zip(plan.positions["on_response_headers"], plan.on_response_headers, strict=True):
        if position < before:
            hook(call, headers)
    trailers = list(recorded.trailers)
    code = StatusCode(int(next((field[1] for field in trailers if field[0] == b"grpc-status"), b"2")))
    outcome = Outcome(code, "", Origin.AGENT)
    block = b"".join([field[2] for field in trailers])
    if not recorded.messages and not headers:
        call.send_end(_OPENING + block + call.request_id[2])
        call.end(outcome)
        return
    call.responded = True
    call.send_headers(b"".join([field[2] for field in headers]) + call.request_id[2])
    found = zip(plan.positions["on_response_message"], plan.on_response_message, strict=True)
    hooks = tuple([hook for position, hook in found if position < before])
    if not hooks or not recorded.messages:
        if recorded.messages:
            call.send_data(recorded.messages, False)
        call.send_trailers(block)
        call.end(outcome)
        return

    def ended() -> None:
        call.send_trailers(block)
        call.end(outcome)

    pipe = MessagePipe(
        call,
        hooks,
        on_end=ended,
        send=lambda message: call.send_data(message, False),
        is_clear=lambda: call.pending is None,
        credit=_nobody,
    )
    call.response_pipe = pipe
    pipe.feed(recorded.messages, end=True)


def _nobody(size: int) -> None:
    """What comes from memory has no sender that would wait for credit."""


def plain_http(call: Call, method: bytes) -> None:
    """What a browser or a misguided client gets: HTTP 405 for another method than POST, 415 for another content-type."""
    if method == b"POST":
        status, text, extra = b"415", b"This is a gRPC endpoint: content-type must be application/grpc.\n", b""
    else:
        status, text = b"405", b"This is a gRPC endpoint: the method must be POST.\n"
        extra = encode_field(b"allow", b"POST")[2]
    block = b"".join(
        [
            encode_field(b":status", status)[2],
            encode_field(b"content-type", b"text/plain")[2],
            encode_field(b"content-length", b"%d" % len(text))[2],
            extra,
        ]
    )
    call.responded = True
    if method == b"HEAD":
        call.send_headers(block, True)
    else:
        call.send_headers(block)
        call.send_data(text, True)
    call.end(Outcome(StatusCode.UNKNOWN, f"HTTP {status.decode()}", Origin.SIDECAR))
