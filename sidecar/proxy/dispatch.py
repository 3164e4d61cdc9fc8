"""Attempts of a call: pick an endpoint, start, judge what came back, give up (steps 6 and 8).

Every way in which an attempt can end comes through `_ended`, which asks the one policy that may repeat it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.grpc_wire.status import StatusCode, from_rst_code
from sidecar.http2.errors import ErrorCode
from sidecar.proxy.policy import Origin, Outcome
from sidecar.proxy.rejection import Reason, Rejection

if TYPE_CHECKING:
    from sidecar.proxy.attempt import Attempt, ResponseFacts
    from sidecar.proxy.call import Call


def start(call: Call, now: float) -> None:
    """Begin an attempt of `call` at whatever endpoint its cluster picks; `now` in monotonic seconds."""
    cluster = call.plan.cluster
    assert cluster is not None
    endpoint = cluster.pick(call) if call.tried is None else cluster.pick(call, call.tried)
    if isinstance(endpoint, Rejection):
        call.reject(endpoint)
        return
    attempt = endpoint.attempt_type(call, endpoint)
    call.attempt = attempt
    connection = endpoint.connection()
    if connection is not None:
        attempt.launch(connection, now)
        return
    refused = endpoint.enqueue(attempt)
    if refused is not None:
        attempt.leave()
        call.reject(refused)


def repeat_after(call: Call, seconds: float) -> None:
    """Begin another attempt of `call` after a pause; the caller's bytes wait meanwhile."""
    call.straight = False
    call.attempt = None
    clock = call.plan.runtime.clock

    def begin() -> None:
        call.timer = None
        if not call.ended:
            start(call, clock.monotonic())

    if seconds > 0:
        call.timer = clock.call_later(seconds, begin)
    else:
        begin()


def hedge(call: Call) -> bool:
    """Begin one more attempt beside those that run; False = there is no other endpoint that could take it at once."""
    cluster = call.plan.cluster
    assert cluster is not None
    endpoint = cluster.pick(call, call.tried or ())
    if isinstance(endpoint, Rejection) or (connection := endpoint.connection()) is None:
        return False
    attempt = endpoint.attempt_type(call, endpoint)
    if call.attempt is None:
        call.attempt = attempt
    else:
        call.straight = False
        call.hedges = [*(call.hedges or ()), attempt]
    attempt.launch(connection, call.plan.runtime.clock.monotonic())
    return True


def answered(attempt: Attempt, facts: ResponseFacts) -> None:
    """Response headers, while another attempt may still be made: they wait for the first message, the trailers, or 1 ms.

    gRFC A6 commits a call at its response headers. An agent that fails at once may send headers before its failure in
    trailers; held for a moment, those count as Trailers-Only, and a caller's own retry policy sees no difference.
    """
    attempt.held = facts
    attempt.call.plan.runtime.holding.add(attempt)


def commit(attempt: Attempt) -> None:
    """This attempt's answer is the call's: all others end, nothing is kept to be sent again."""
    call = attempt.call
    facts, attempt.held = attempt.held, None
    if call.timer is not None or call.hedges is not None or call.attempt is not attempt:
        win(attempt)
    if facts is not None and not call.responded:
        call.start_response(facts)


def win(attempt: Attempt) -> None:
    """Of several attempts, this one goes on."""
    call = attempt.call
    call.replay = None
    if call.timer is not None:
        call.timer.cancel()
        call.timer = None
    others = [each for each in (call.attempt, *(call.hedges or ())) if each is not None and each is not attempt]
    if others:
        call.hedges = None
        call.attempt = attempt
        for each in others:
            each.abandon()
        call.straight = call.request_pipe is None and not attempt.over and not attempt.local_closed
        if attempt.replays and call.request_pipe is None and not call.remote_closed:
            # Until now the first attempt's window was the caller's.
            call.credit(attempt)


def judge(attempt: Attempt, facts: ResponseFacts) -> None:
    """The agent's status has come, in trailers or as Trailers-Only."""
    call = attempt.call
    if not facts.is_final:
        if facts.protocol_problem() is not None:
            broke_protocol(attempt, facts)
        else:
            no_status(attempt)
        return
    held = attempt.held
    attempt.leave()
    attempt.endpoint.finished(attempt, facts.outcome)
    if call.plan.on_attempt_over is not None:
        call.plan.on_attempt_over(call, attempt, facts.outcome)
    if not attempt.local_closed:
        # It answered before it had read everything; the rest of the request has nowhere to go.
        attempt.reset(ErrorCode.CANCEL)
    # Once an answer has been committed to, nothing is kept to be sent again, and nobody needs to be asked.
    if call.replay is not None and call.plan.on_attempt_end is not None:
        attempt.facts = facts
        if _repeats(call, attempt, facts.outcome):
            return
        win(attempt)
        if held is not None and not call.responded:
            call.start_response(held)
    call.finish(facts)


def finished(attempt: Attempt, outcome: Outcome) -> None:
    """An attempt that had started has ended: tell its endpoint, and whoever watches attempts. (`judge` has this in line.)"""
    attempt.endpoint.finished(attempt, outcome)
    watch = attempt.call.plan.on_attempt_over
    if watch is not None:
        watch(attempt.call, attempt, outcome)


def broke_protocol(attempt: Attempt, facts: ResponseFacts) -> None:
    code, text = facts.protocol_problem() or (StatusCode.INTERNAL, "the agent sent headers that end nothing")
    _failed(attempt, Reason.UPSTREAM_PROTOCOL.reject(text, code=code, httpStatus=facts.http_status))


def no_status(attempt: Attempt) -> None:
    _failed(attempt, Reason.UPSTREAM_PROTOCOL.reject("the agent ended the stream without a grpc-status"))


def malformed(attempt: Attempt) -> None:
    _failed(attempt, Reason.UPSTREAM_PROTOCOL.reject("the agent's answer breaks HTTP/2"))


def too_large(attempt: Attempt, size: int) -> None:
    _failed(attempt, Reason.METADATA_TOO_LARGE.reject(f"the answer's metadata has {size} bytes", size=size))


def too_slow(attempt: Attempt) -> None:
    """An attempt has used up the time that its route gives to one."""
    route = attempt.call.route
    _failed(attempt, Reason.TRY_TIMEOUT.reject(f"route {route} gives one attempt no more time", route=route))


def withdraw(attempt: Attempt, rejection: Rejection) -> None:
    """It runs where nothing shall run any more: `rejection` is the call's end, unless it may be repeated elsewhere."""
    _failed(attempt, rejection)


def lost(attempt: Attempt) -> None:
    """The connection ended under the attempt."""
    address = attempt.endpoint.address
    _failed(attempt, Reason.UPSTREAM_LOST.reject(f"the connection to {address} was lost", endpoint=address))


def not_processed(attempt: Attempt) -> None:
    """GOAWAY or REFUSED_STREAM: the agent never looked at it, so it is repeated once at once, uncounted (gRFC A6)."""
    call = attempt.call
    attempt.leave()
    finished(attempt, REFUSED)
    if not call.responded and call.replay is not None and not call.repeated_unseen and call.attempt is attempt:
        call.repeated_unseen = True
        call.attempts -= 1
        repeat_after(call, 0)
        return
    address = attempt.endpoint.address
    reject(attempt, Reason.UPSTREAM_LOST.reject(f"{address} refused the stream", endpoint=address))


def reset_by_agent(attempt: Attempt, code: int) -> None:
    """RST_STREAM: the agent's own word, which goes on unchanged; its caller's library knows what it means."""
    if code == ErrorCode.REFUSED_STREAM and not attempt.responded:
        not_processed(attempt)
        return
    call = attempt.call
    attempt.leave()
    outcome = Outcome(from_rst_code(code), f"the agent reset the stream ({code})", Origin.AGENT)
    finished(attempt, outcome)
    if _repeats(call, attempt, outcome):
        return
    win(attempt)
    call.reset(code)
    call.end(outcome)


def reject(attempt: Attempt, rejection: Rejection) -> None:
    """An attempt ended by our own finding; it is the call's end unless it is repeated."""
    outcome = Outcome(rejection.code, rejection.message, Origin.SIDECAR, rejection.reason)
    if not _repeats(attempt.call, attempt, outcome):
        win(attempt)
        attempt.call.reject(rejection)


def _failed(attempt: Attempt, rejection: Rejection) -> None:
    if attempt.over:
        return
    attempt.leave()
    attempt.reset(ErrorCode.CANCEL)
    finished(attempt, Outcome(rejection.code, rejection.message, Origin.SIDECAR, rejection.reason))
    reject(attempt, rejection)


def _repeats(call: Call, attempt: Attempt, outcome: Outcome) -> bool:
    owner = call.plan.on_attempt_end
    if owner is None or call.responded or call.ended or call.replay is None:
        return False
    call.tried = [*(call.tried or ()), attempt.endpoint]
    running = [each for each in (call.attempt, *(call.hedges or ())) if each is not None and not each.over]
    call.attempt = running[0] if running else None
    call.hedges = running[1:] or None
    return owner(call, attempt, outcome)


REFUSED = Outcome(StatusCode.UNAVAILABLE, "refused before it was looked at", Origin.AGENT)
