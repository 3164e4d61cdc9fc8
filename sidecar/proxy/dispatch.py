"""Attempts of a call: pick an endpoint, start, judge what came back, give up (steps 6 and 8).

Every way in which an attempt can end comes through `_ended`, which asks the one policy that may repeat it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.grpc_wire.status import StatusCode, from_rst_code
from sidecar.http2.errors import ErrorCode
from sidecar.proxy import attempt as attempts
from sidecar.proxy.policy import Origin, Outcome
from sidecar.proxy.rejection import Reason, Rejection

if TYPE_CHECKING:
    from sidecar.proxy.attempt import Attempt, ResponseFacts
    from sidecar.proxy.call import Call


def start(call: Call, now: float) -> None:
    """Begin an attempt of `call` at whatever endpoint its cluster picks; `now` in monotonic seconds."""
    cluster = call.plan.cluster
    assert cluster is not None
    endpoint = cluster.pick(call)
    if isinstance(endpoint, Rejection):
        call.reject(endpoint)
        return
    attempt = attempts.Attempt(call, endpoint)
    call.attempt = attempt
    connection = endpoint.connection()
    if connection is not None:
        attempt.launch(connection, now)
        return
    refused = endpoint.enqueue(attempt)
    if refused is not None:
        attempt.over = True
        call.reject(refused)


def answered(attempt: Attempt, facts: ResponseFacts) -> None:
    """Response headers: the call is committed to this attempt."""
    attempt.call.start_response(facts)


def judge(attempt: Attempt, facts: ResponseFacts) -> None:
    """The agent's status has come, in trailers or as Trailers-Only."""
    call = attempt.call
    if not facts.is_final:
        if facts.protocol_problem() is not None:
            broke_protocol(attempt, facts)
        else:
            no_status(attempt)
        return
    attempt.over = True
    attempt.endpoint.finished(attempt, facts.outcome)
    if not attempt.local_closed:
        # It answered before it had read everything; the rest of the request has nowhere to go.
        attempt.reset(ErrorCode.CANCEL)
    if call.plan.on_attempt_end is not None and _repeats(call, attempt, facts.outcome):
        return
    call.finish(facts)


def broke_protocol(attempt: Attempt, facts: ResponseFacts) -> None:
    code, text = facts.protocol_problem() or (StatusCode.INTERNAL, "the agent sent headers that end nothing")
    _failed(attempt, Reason.UPSTREAM_PROTOCOL.reject(text, code=code, httpStatus=facts.http_status))


def no_status(attempt: Attempt) -> None:
    _failed(attempt, Reason.UPSTREAM_PROTOCOL.reject("the agent ended the stream without a grpc-status"))


def malformed(attempt: Attempt) -> None:
    _failed(attempt, Reason.UPSTREAM_PROTOCOL.reject("the agent's answer breaks HTTP/2"))


def too_large(attempt: Attempt, size: int) -> None:
    _failed(attempt, Reason.METADATA_TOO_LARGE.reject(f"the answer's metadata has {size} bytes", size=size))


def lost(attempt: Attempt) -> None:
    """The connection ended under the attempt."""
    _failed(
        attempt,
        Reason.UPSTREAM_LOST.reject(
            f"the connection to {attempt.endpoint.address} was lost", endpoint=attempt.endpoint.address
        ),
    )


def not_processed(attempt: Attempt) -> None:
    """GOAWAY or REFUSED_STREAM: the agent never looked at it, so it is repeated once at once, uncounted (gRFC A6)."""
    call = attempt.call
    attempt.over = True
    attempt.endpoint.finished(attempt, REFUSED)
    if call.attempts == 1 and relay_is_untouched(call):
        call.attempts = 0
        start(call, call.plan.runtime.clock.monotonic())
        return
    reject(
        attempt,
        Reason.UPSTREAM_LOST.reject(
            f"{attempt.endpoint.address} refused the stream", endpoint=attempt.endpoint.address
        ),
    )


def reset_by_agent(attempt: Attempt, code: int) -> None:
    """RST_STREAM: the agent's own word, which goes on unchanged; its caller's library knows what it means."""
    if code == ErrorCode.REFUSED_STREAM and not attempt.responded:
        not_processed(attempt)
        return
    call = attempt.call
    attempt.over = True
    outcome = Outcome(from_rst_code(code), f"the agent reset the stream ({code})", Origin.AGENT)
    attempt.endpoint.finished(attempt, outcome)
    if _repeats(call, attempt, outcome):
        return
    call.reset(code)
    call.end(outcome)


def relay_is_untouched(call: Call) -> bool:
    """Can the request be sent again? Until a replay buffer is kept: only if none of it has gone out."""
    return not call.responded and call.bytes_in == 0


def reject(attempt: Attempt, rejection: Rejection) -> None:
    outcome = Outcome(rejection.code, rejection.message, Origin.SIDECAR, rejection.reason)
    if not _repeats(attempt.call, attempt, outcome):
        attempt.call.reject(rejection)


def _failed(attempt: Attempt, rejection: Rejection) -> None:
    if attempt.over:
        return
    attempt.over = True
    attempt.reset(ErrorCode.CANCEL)
    attempt.endpoint.finished(attempt, Outcome(rejection.code, rejection.message, Origin.SIDECAR, rejection.reason))
    reject(attempt, rejection)


def _repeats(call: Call, attempt: Attempt, outcome: Outcome) -> bool:
    owner = call.plan.on_attempt_end
    return owner is not None and not call.responded and not call.ended and owner(call, attempt, outcome)


REFUSED = Outcome(StatusCode.UNAVAILABLE, "refused before it was looked at", Origin.AGENT)
