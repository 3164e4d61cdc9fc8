"""Runs the hooks of a plan, waits where one says so, and unwinds (steps 5, 9 and 10).

Waiting is the only case that makes a task. The chain stops at the hook that waits, the direction is paused, because nothing
is consumed meanwhile, and goes on where it stopped. If the call ends first, the task is cancelled.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from sidecar.proxy import dispatch, relay, reply
from sidecar.proxy.policy import Answer
from sidecar.proxy.rejection import Rejection

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sidecar.http2.hpack import Field
    from sidecar.proxy.attempt import ResponseFacts
    from sidecar.proxy.call import Call
    from sidecar.proxy.policy import Verdict


def stopped(call: Call, verdict: Verdict) -> None:
    """The request hook at `call.entered` did not just pass: refuse, answer, or wait."""
    if inspect.iscoroutine(verdict):
        _wait(call, verdict, lambda ticket: _admit_later(call, ticket, verdict))
        if call.deadline is not None:
            # No hook may wait longer than the caller does.
            call.watch_time(call.connection.now)
    else:
        _settle_request(call, verdict)


def admitted(call: Call) -> None:
    """All request hooks have passed."""
    plan = call.plan
    now = call.connection.now
    if call.deadline is not None or call.idle is not None:
        if call.bucket is not None:
            # While a hook waited; it may have shortened the deadline.
            call.leave_bucket()
        call.watch_time(now)
    if not plan.wants_messages:
        # The deliberate fast path: nobody looks at messages, and nothing has been waited for.
        if call.remote_closed:
            call.held_end = True
        dispatch.start(call, now if not call.has_waited else plan.runtime.clock.monotonic())
        return
    if plan.wants_request:
        call.request_pipe = relay.MessagePipe(
            call,
            plan.on_request_message,
            on_end=lambda: _request_ended(call),
            send=lambda message: _send_to_agent(call, message),
            is_clear=lambda: _is_agent_ready(call),
            credit=call.consume,
        )
    if plan.wants_response:
        call.response_pipe = relay.MessagePipe(
            call,
            plan.on_response_message,
            on_end=lambda: None,
            send=lambda message: _send_to_caller(call, message),
            is_clear=lambda: call.pending is None,
            credit=lambda size: _credit_agent(call, size),
        )
    held: list[bytes] = []
    if call.request_pipe is not None:
        # What came while a request hook waited goes the way of what comes after: no message hook is passed by.
        held, call.held, call.held_end = call.held or held, None, False
        call.request_messages = call.request_left = 0
        call.request_prefix = b""
    if not plan.starts_late and not call.is_late:
        _start(call, held)
    else:
        _feed_held(call, held)


def message_stopped(
    call: Call,
    pipe: relay.MessagePipe,
    verdict: Verdict,
    hooks: tuple[Callable[[Call, bytes], Verdict], ...],
    index: int,
    message: bytes,
) -> None:
    """A message hook did not just pass."""
    if inspect.iscoroutine(verdict):
        _wait(call, verdict, lambda ticket: _message_later(call, ticket, pipe, verdict, hooks, index, message))
    else:
        _settle_request(call, verdict)


def trailers(call: Call, facts: ResponseFacts) -> None:
    """The agent's status is here; the caller learns it after the hooks had their say."""
    fields = list(facts.fields)
    for i, hook in enumerate(call.plan.on_trailers):
        verdict = hook(call, fields)
        if verdict is not None:
            if inspect.iscoroutine(verdict):
                # The agent has had its say; what the caller still sends has nowhere to go.
                call.straight = False
                _trailers_wait(call, facts, fields, verdict, i)
            else:
                _settle_request(call, verdict)
            return
    _finish(call, facts, fields)


# ── waiting ──


def _wait(
    call: Call, pending: Coroutine[Any, Any, Any], later: Callable[[list[Any]], Coroutine[Any, Any, None]]
) -> None:
    """Run `later` as a task of the call; what it is given, holds that task, for `_resumed`."""
    ticket: list[Any] = []
    call.has_waited = True
    task = call.plan.runtime.spawn(later(ticket), f"call {call.path}")
    task.add_done_callback(lambda _: _waited(pending, ticket))
    ticket.append(task)
    if call.waits is None:
        call.waits = ticket[:]
    else:
        call.waits.append(task)


def _waited(pending: Coroutine[Any, Any, Any], ticket: list[Any]) -> None:
    # A task that is cancelled before its first step never gets to what it was to await.
    pending.close()
    # It keeps the exception that ended it, whose frames hold the ticket: a cycle, and all of the call in it.
    ticket.clear()


def _resumed(call: Call, ticket: list[Any]) -> None:
    """The hook has given its verdict: the end of the call is no reason any more to cancel its task."""
    if call.waits is not None:
        call.waits.remove(ticket[0])


def _trailers_wait(
    call: Call, facts: ResponseFacts, fields: list[Field], verdict: Coroutine[Any, Any, Any], index: int
) -> None:
    _wait(call, verdict, lambda ticket: _trailers_later(call, ticket, facts, fields, verdict, index))


def _end_waits(call: Call, verdict: Coroutine[Any, Any, Any], index: int) -> None:
    _wait(call, verdict, lambda ticket: _end_later(call, ticket, verdict, index))


async def _admit_later(call: Call, ticket: list[Any], pending: Verdict) -> None:
    hooks = call.plan.on_request
    try:
        verdict = await _value(pending)
        while verdict is None:
            call.entered += 1
            if call.entered == len(hooks):
                break
            verdict = await _value(hooks[call.entered](call))
    except Exception as error:
        _resumed(call, ticket)
        call.on_defect("on_request", error)
        return
    _resumed(call, ticket)
    if call.ended:
        return
    try:
        if verdict is None:
            admitted(call)
        else:
            _settle_request(call, verdict)
    except Exception as error:
        call.on_defect("admitted", error)


async def _message_later(
    call: Call,
    ticket: list[Any],
    pipe: relay.MessagePipe,
    pending: Verdict,
    hooks: tuple[Callable[[Call, bytes], Verdict], ...],
    index: int,
    message: bytes,
) -> None:
    try:
        verdict = await _value(pending)
        while verdict is None or isinstance(verdict, bytes):
            if verdict is not None:
                message = verdict
            index += 1
            if index == len(hooks):
                break
            verdict = await _value(hooks[index](call, message))
        _resumed(call, ticket)
        if call.ended:
            return
        if verdict is None or isinstance(verdict, bytes):
            pipe.passed(message)
        else:
            _settle_request(call, verdict)
    except Exception as error:
        _resumed(call, ticket)
        call.on_defect("on_message", error)


async def _trailers_later(
    call: Call, ticket: list[Any], facts: ResponseFacts, fields: list[Field], pending: Verdict, index: int
) -> None:
    hooks = call.plan.on_trailers
    try:
        verdict = await _value(pending)
        while verdict is None and index + 1 < len(hooks):
            index += 1
            verdict = await _value(hooks[index](call, fields))
        _resumed(call, ticket)
        if call.ended:
            return
        if verdict is None:
            _finish(call, facts, fields)
        else:
            _settle_request(call, verdict)
    except Exception as error:
        _resumed(call, ticket)
        call.on_defect("on_trailers", error)


async def _value(verdict: Verdict) -> Any:
    return await verdict if inspect.iscoroutine(verdict) else verdict


# ── going on ──


def _settle_request(call: Call, verdict: Verdict, position: int = -1) -> None:
    """`position`: of the hook's policy, where that is not the one that `call.entered` has stopped at."""
    if isinstance(verdict, Rejection):
        call.reject(verdict)
    elif isinstance(verdict, Answer):
        call.abandon_attempts()
        if position < 0:
            plan = call.plan
            entered = call.entered
            position = plan.positions["on_request"][entered] if entered < len(plan.on_request) else len(plan.policies)
        reply.answer(call, verdict, position)
    else:
        raise TypeError(f"a hook of route {call.route} gave {type(verdict).__name__}, which is no verdict")


def _finish(call: Call, facts: ResponseFacts, fields: list[Field]) -> None:
    block = b"".join([field[2] for field in fields])
    if not call.responded and not facts.has_request_id:
        block += call.request_id[2]
    call.send_end(block)
    call.end(facts.outcome)


def _start(call: Call, held: list[bytes]) -> None:
    if call.remote_closed and call.request_pipe is None:
        call.held_end = True
    dispatch.start(call, call.plan.runtime.clock.monotonic())
    _feed_held(call, held)


def _feed_held(call: Call, held: list[bytes]) -> None:
    pipe = call.request_pipe
    if pipe is None:
        return
    for payload in held:
        if call.ended:
            return
        pipe.feed(payload, end=False)
    if call.remote_closed and not call.ended:
        pipe.feed(b"", end=True)


def _send_to_agent(call: Call, message: bytes) -> None:
    call.request_messages += 1
    attempt = call.attempt
    if call.hedges is not None:
        relay.fan_out(call, message, False)
        return
    if attempt is not None and attempt.started:
        if not attempt.over:
            relay.keep(call, message)
            attempt.send_data(message, False)
        return
    relay.hold(call, message, end=False)
    if attempt is None and not call.is_late:
        # The route starts late: this is the first message that has passed.
        dispatch.start(call, call.plan.runtime.clock.monotonic())


def _is_agent_ready(call: Call) -> bool:
    attempt = call.attempt
    # Before the first message has passed, what has come of it waits in the reader, which holds one message at most.
    return attempt is None or (attempt.started and attempt.pending is None)


def _send_to_caller(call: Call, message: bytes) -> None:
    call.response_messages += 1
    if not call.gone:
        call.send_data(message, False)


def _request_ended(call: Call) -> None:
    hooks = call.plan.on_request_end
    for i, hook in enumerate(hooks):
        verdict = hook(call)
        if verdict is not None:
            if inspect.iscoroutine(verdict):
                _end_waits(call, verdict, i)
            else:
                _settle_request(call, verdict, call.plan.positions["on_request_end"][i])
            return
    _half_close(call)


async def _end_later(call: Call, ticket: list[Any], pending: Verdict, index: int) -> None:
    hooks = call.plan.on_request_end
    try:
        verdict = await _value(pending)
        while verdict is None and index + 1 < len(hooks):
            index += 1
            verdict = await _value(hooks[index](call))
        _resumed(call, ticket)
        if call.ended:
            return
        if verdict is None:
            _half_close(call)
        else:
            _settle_request(call, verdict, call.plan.positions["on_request_end"][index])
    except Exception as error:
        _resumed(call, ticket)
        call.on_defect("on_request_end", error)


def _half_close(call: Call) -> None:
    attempt = call.attempt
    call.held_end = True
    if attempt is None:
        dispatch.start(call, call.plan.runtime.clock.monotonic())
    elif attempt.started and not attempt.over and not attempt.local_closed:
        attempt.send_data(b"", True)


def _credit_agent(call: Call, size: int) -> None:
    if call.attempt is not None and call.attempt.started:
        call.attempt.consume(size)
