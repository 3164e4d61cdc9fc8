"""Keyed RPCs, scene by scene: executed once, replayed, joined, refused; whatever callers, agents and stores do meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from sidecar.grpc_wire.status import StatusCode
from sidecar.http2.errors import ErrorCode
from sidecar.policies.idempotency import Idempotency
from sidecar.policies.idempotency.policy import IdempotencyConfig
from sidecar.policies.retry import Retry, RetryConfig
from sidecar.proxy.policy import Policy
from sidecar.runtime import Runtime
from sidecar.store.interface import StoreUnavailable
from sidecar.store.memory import MemoryStore
from sidecar.store.records import Record
from sidecar.store.sealing import Sealing
from tests.scenes.script import OK, answers, echo, finish, hooked, only_trailers, reason, resets, silent, turns
from tests.support.clock import FakeClock
from tests.support.scene import Scene, refuse
from tests.support.wire import ScriptedStream, block, message

KEY = ("idempotency-key", "pay-1")
OnAgent = Callable[[ScriptedStream, str], None]


class Faulty(MemoryStore):
    """A store that can be lost, or forget to answer what it has done."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.lost = False
        self.forgets = 0

    async def put(self, key: str, expected: bytes | None, value: bytes, *, keep: float) -> Record | bool:
        if self.lost:
            raise StoreUnavailable("unreachable", "it is gone")
        done = await super().put(key, expected, value, keep=keep)
        if self.forgets and done is True:
            self.forgets -= 1
            raise StoreUnavailable("timeout", "the answer was lost")
        return done


class Stage:
    """Sidecars that share a store, each with an agent that counts what it executes."""

    def __init__(
        self,
        on_agent: OnAgent = echo,
        count: int = 1,
        config: dict[str, Any] | None = None,
        before: Iterable[Policy[Any]] = (),
        after: Callable[[Runtime], Iterable[Policy[Any]]] = lambda _: (),
        sealing: Sealing | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.store = Faulty(self.clock)
        self.config = IdempotencyConfig(**(config or {}))

        def policies(runtime: Runtime) -> list[Policy[Any]]:
            runtime = replace(runtime, store=self.store, sealing=sealing or Sealing())
            return [*before, Idempotency(self.config, runtime), *after(runtime)]

        self._make = lambda: Scene(policies=policies, on_agent=on_agent)
        self.scenes = [self._make() for _ in range(count)]
        self.scene = self.scenes[0]

    async def call(self, *metadata: tuple[str, str], scene: int = 0, body: bytes = b"hello") -> ScriptedStream:
        stream = self.scenes[scene].call(*(metadata or (KEY,)), body=body)
        await self.turns()
        return stream

    def replace(self, index: int) -> Scene:
        """A sidecar dies, another one starts in its place; the dead one is given no more time."""
        dead, self.scenes[index] = self.scenes[index], self._make()
        return dead

    async def turns(self, count: int = 12) -> None:
        for _ in range(count):
            for each in self.scenes:
                await turns(each, 1)

    async def advance(self, seconds: float) -> None:
        """In steps of leases' renewal, so that whatever is due in between happens."""
        while seconds > 0:
            step = min(seconds, 1.0)
            self.clock.advance(step)
            for each in self.scenes:
                each.advance(step)
            await self.turns(2)
            seconds -= step

    @property
    def executed(self) -> int:
        return sum(len(each.agent_streams) for each in self.scenes)


def replayed(stream: ScriptedStream) -> bool:
    return stream.seen.value("idempotency-replayed") == "true"


# ── once ──


async def test_a_key_is_executed_once_and_its_answer_given_again() -> None:
    stage = Stage(answers(("grpc-status", "0"), ("x-cost", "7"), data=message(b"paid")))
    first = await stage.call()
    again = await stage.call()
    assert stage.executed == 1
    assert first.seen.data == again.seen.data == message(b"paid")
    assert (first.seen.status, again.seen.status) == (0, 0)
    assert again.seen.value("x-cost") == "7"
    assert not replayed(first)
    assert replayed(again)
    assert stage.scene.leaks() == []


async def test_an_rpc_without_a_key_is_not_touched() -> None:
    stage = Stage()
    await stage.call(("x-other", "1"))
    again = await stage.call(("x-other", "1"))
    assert stage.executed == 2
    assert not replayed(again)


@pytest.mark.parametrize(
    ("other", "identity", "path"),
    [
        (("idempotency-key", "pay-2"), None, "/test.Service/Method"),
        (KEY, "spiffe://mesh.local/agent/other", "/test.Service/Method"),
        (KEY, None, "/test.Service/Other"),
    ],
)
async def test_keys_are_of_a_caller_and_a_method(other: tuple[str, str], identity: str | None, path: str) -> None:
    stage = Stage()
    await stage.call()
    if identity is not None:
        stage.scene.peer.identity = identity
    stage.scene.call(other, path=path)
    await stage.turns()
    assert stage.executed == 2


async def test_the_agent_gets_the_key_and_a_token() -> None:
    stage = Stage()
    await stage.call()
    seen = dict(stage.scene.agent.seen.headers)
    assert seen[b"idempotency-key"] == b"pay-1"
    assert seen[b"x-sidecar-fencing-token"] == b"1"


async def test_an_error_of_the_application_is_an_answer() -> None:
    stage = Stage(only_trailers(("grpc-status", "9"), ("grpc-message", "no money")))
    await stage.call()
    again = await stage.call()
    assert stage.executed == 1
    assert again.seen.status == StatusCode.FAILED_PRECONDITION
    assert again.seen.value("grpc-message") == "no money"
    assert replayed(again)


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED, StatusCode.ABORTED])
async def test_what_the_agent_did_not_do_is_done_by_the_next(code: StatusCode) -> None:
    stage = Stage(only_trailers(("grpc-status", str(int(code)))))
    assert (await stage.call()).seen.status == code
    stage.scene.on_agent = echo
    assert (await stage.call()).seen.status == 0
    assert dict(stage.scene.agent.seen.headers)[b"x-sidecar-fencing-token"] == b"2"
    assert stage.executed == 2


@pytest.mark.parametrize(
    "code", [StatusCode.CANCELLED, StatusCode.DEADLINE_EXCEEDED, StatusCode.UNKNOWN, StatusCode.INTERNAL]
)
async def test_what_nobody_knows_is_refused(code: StatusCode) -> None:
    stage = Stage(only_trailers(("grpc-status", str(int(code)))))
    assert (await stage.call()).seen.status == code
    again = await stage.call()
    assert (again.seen.status, reason(again)) == (StatusCode.ABORTED, "OUTCOME_UNKNOWN")
    assert stage.executed == 1


async def test_what_nobody_knows_is_executed_again_where_that_is_right() -> None:
    stage = Stage(only_trailers(("grpc-status", "13")), config={"unknown_outcome": "re_execute"})
    await stage.call()
    stage.scene.on_agent = echo
    assert (await stage.call()).seen.status == 0
    assert dict(stage.scene.agent.seen.headers)[b"x-sidecar-fencing-token"] == b"2"


@pytest.mark.parametrize("on_agent", [resets(ErrorCode.INTERNAL_ERROR), resets(ErrorCode.CANCEL, on="headers")])
async def test_a_reset_by_the_agent_is_unknown(on_agent: OnAgent) -> None:
    stage = Stage(on_agent)
    await stage.call()
    assert reason(await stage.call()) == "OUTCOME_UNKNOWN"


async def test_a_lost_agent_is_unknown() -> None:
    stage = Stage(silent)
    caller = await stage.call()
    wire = stage.scene.endpoint.wire
    assert wire is not None
    wire.client.lost()
    await stage.turns()
    assert caller.seen.status == StatusCode.UNAVAILABLE
    stage.scene.endpoint.connect()
    assert reason(await stage.call()) == "OUTCOME_UNKNOWN"


async def test_what_we_refuse_before_it_leaves_is_not_done() -> None:
    stage = Stage()
    stage.scene.cluster.refusal = refuse()
    assert reason(await stage.call()) == "OVERLOADED"
    stage.scene.cluster.refusal = None
    assert (await stage.call()).seen.status == 0
    assert stage.executed == 1


# ── keys ──


@pytest.mark.parametrize("key", ["with space", "x" * 256])
async def test_a_malformed_key_is_refused(key: str) -> None:
    stage = Stage()
    stream = stage.scene.call((b"idempotency-key", key.encode()))
    await stage.turns()
    assert (stream.seen.status, reason(stream)) == (StatusCode.INVALID_ARGUMENT, "KEY_MALFORMED")
    assert stage.executed == 0


async def test_two_keys_are_refused() -> None:
    stage = Stage()
    assert reason(await stage.call(KEY, ("idempotency-key", "pay-2"))) == "KEY_MALFORMED"


async def test_a_missing_key_is_refused_where_it_is_required() -> None:
    stage = Stage(config={"required": True})
    stream = await stage.call(("x-other", "1"))
    assert (stream.seen.status, reason(stream)) == (StatusCode.INVALID_ARGUMENT, "KEY_REQUIRED")
    assert (await stage.call()).seen.status == 0


async def test_a_key_stands_for_one_request() -> None:
    stage = Stage()
    await stage.call()
    other = await stage.call(body=b"more money")
    assert (other.seen.status, reason(other)) == (StatusCode.INVALID_ARGUMENT, "KEY_REUSED")
    assert stage.executed == 1


# ── at once ──


async def test_who_asks_meanwhile_joins_and_gets_the_same_bytes() -> None:
    stage = Stage(silent)
    callers = [await stage.call() for _ in range(5)]
    assert stage.executed == 1
    finish(stage.scene.agent, message(b"a") + message(b"b"))
    await stage.turns(40)
    assert [bytes(each.seen.data) for each in callers] == [message(b"a") + message(b"b")] * 5
    assert [replayed(each) for each in callers] == [False, True, True, True, True]
    assert stage.scene.leaks() == []


async def test_who_asks_meanwhile_may_be_refused() -> None:
    stage = Stage(silent, config={"duplicate_in_progress": "reject"})
    await stage.call()
    second = await stage.call()
    assert (second.seen.status, reason(second)) == (StatusCode.ABORTED, "KEY_IN_PROGRESS")


async def test_another_request_with_a_running_key_is_refused_at_once() -> None:
    stage = Stage(silent)
    await stage.call()
    assert reason(await stage.call(body=b"other")) == "KEY_REUSED"


async def test_joiners_execute_when_the_first_one_was_not_done() -> None:
    stage = Stage(silent)
    callers = [await stage.call() for _ in range(3)]
    stage.scene.agent.send_headers(
        block((":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "14")), True
    )
    stage.scene.on_agent = echo
    await stage.turns(60)
    assert stage.executed == 2
    assert [each.seen.status for each in callers] == [14, 0, 0]


async def test_two_sidecars_execute_a_key_once() -> None:
    stage = Stage(silent, count=2)
    first = await stage.call()
    second = await stage.call(scene=1)
    assert stage.executed == 1
    finish(stage.scene.agent, message(b"paid"))
    await stage.advance(2)
    assert first.seen.data == second.seen.data == message(b"paid")
    assert replayed(second)


async def test_a_joiner_waits_no_longer_than_it_said() -> None:
    stage = Stage(silent, count=2)
    await stage.call()
    late = stage.scenes[1].call(KEY, ("grpc-timeout", "1S"))
    await stage.advance(3)
    assert late.seen.status == StatusCode.DEADLINE_EXCEEDED
    assert stage.executed == 1


# ── leaving, dying ──


async def test_an_execution_outlives_its_caller() -> None:
    stage = Stage(silent)
    caller = await stage.call()
    caller.reset(ErrorCode.CANCEL)
    await stage.turns()
    assert stage.scene.agent.seen.reset is None, "the agent was told to stop"
    finish(stage.scene.agent, message(b"paid"))
    await stage.turns()
    again = await stage.call()
    assert again.seen.data == message(b"paid")
    assert stage.executed == 1
    assert stage.scene.leaks() == []


async def test_an_execution_outlives_its_callers_connection() -> None:
    stage = Stage(silent)
    await stage.call()
    stage.scene.listener.lost()
    finish(stage.scene.agent, message(b"x" * 100_000))
    await stage.turns()
    assert [each.code for each in stage.scene.outcomes] == [StatusCode.OK]
    assert not stage.scene.deadlines
    assert stage.scene.plan.active == 0


async def test_a_caller_that_leaves_before_the_claim_leaves_nothing() -> None:
    stage = Stage()
    caller = stage.scene.call(KEY, end=False)
    caller.reset(ErrorCode.CANCEL)
    await stage.turns()
    assert (await stage.call()).seen.status == 0
    assert stage.executed == 1


async def test_a_caller_that_leaves_during_the_claim_leaves_it_free() -> None:
    stage = Stage()
    caller = stage.scene.call(KEY)
    caller.reset(ErrorCode.CANCEL)
    await stage.turns()
    assert stage.executed == 0
    assert (await stage.call()).seen.status == 0
    assert stage.executed == 1


async def test_a_lease_is_renewed_while_the_execution_runs() -> None:
    stage = Stage(silent, count=2, config={"lease": 3})
    first = await stage.call()
    await stage.advance(10)
    second = await stage.call(scene=1)
    assert not second.seen.ended
    finish(stage.scene.agent, message(b"paid"))
    await stage.advance(2)
    assert first.seen.data == second.seen.data == message(b"paid")
    assert stage.executed == 1


async def test_what_a_dead_sidecar_ran_is_unknown_after_its_lease() -> None:
    stage = Stage(silent, count=2, config={"lease": 3})
    await stage.call()
    # The first sidecar is not given any more time: it is dead.
    dead = stage.scenes.pop(0)
    stage.scene = stage.scenes[0]
    early = stage.scene.call(KEY)
    await stage.turns()
    assert not early.seen.ended
    await stage.advance(4)
    assert reason(early) == "OUTCOME_UNKNOWN"
    assert reason(await stage.call()) == "OUTCOME_UNKNOWN"
    assert (len(dead.agent_streams), stage.executed) == (1, 0)


async def test_one_who_was_dead_and_comes_back_does_not_overwrite() -> None:
    stage = Stage(silent, count=2, config={"lease": 3, "unknown_outcome": "re_execute"})
    first = await stage.call()
    slow, stage.scenes[:] = stage.scenes[0], stage.scenes[1:]
    stage.scene = stage.scenes[0]
    stage.clock.advance(4)
    second = await stage.call()
    finish(stage.scene.agent, message(b"second"))
    await stage.turns()
    stage.scenes.insert(0, slow)
    finish(slow.agent, message(b"first"))
    await stage.turns()
    assert second.seen.data == message(b"second")
    assert reason(first) == "OUTCOME_UNKNOWN"
    assert (await stage.call()).seen.data == message(b"second")


# ── the store ──


async def test_without_its_store_no_keyed_rpc_is_executed() -> None:
    stage = Stage()
    stage.store.lost = True
    keyed = await stage.call()
    assert (keyed.seen.status, reason(keyed)) == (StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert (await stage.call(("x-other", "1"))).seen.status == 0
    assert stage.executed == 1
    stage.store.lost = False
    assert (await stage.call()).seen.status == 0


async def test_an_answer_is_recorded_before_its_caller_hears_it() -> None:
    stage = Stage(silent)
    caller = await stage.call()
    stage.store.lost = True
    finish(stage.scene.agent, message(b"paid"))
    await stage.turns()
    assert reason(caller) == "STORE_UNAVAILABLE"
    waiting = await stage.call()
    assert not waiting.seen.ended, "it joins whoever tries to record the answer"
    stage.store.lost = False
    await stage.advance(3)
    assert waiting.seen.data == message(b"paid")
    assert stage.executed == 1


async def test_a_claim_whose_answer_was_lost_is_not_executed_twice() -> None:
    stage = Stage(config={"lease": 3})
    stage.store.forgets = 1
    assert reason(await stage.call()) == "STORE_UNAVAILABLE"
    await stage.advance(4)
    assert reason(await stage.call()) == "OUTCOME_UNKNOWN"
    assert stage.executed == 0


async def test_a_record_whose_answer_was_lost_is_a_record() -> None:
    stage = Stage(silent)
    caller = await stage.call()
    stage.store.forgets = 1
    finish(stage.scene.agent, message(b"paid"))
    await stage.turns()
    assert reason(caller) == "STORE_UNAVAILABLE"
    await stage.advance(2)
    assert (await stage.call()).seen.data == message(b"paid")


async def test_an_answer_is_kept_for_its_time_from_its_end() -> None:
    stage = Stage(config={"ttl": 10})
    await stage.call()
    await stage.advance(9)
    assert replayed(await stage.call())
    await stage.advance(2)
    assert not replayed(await stage.call())
    assert stage.executed == 2


async def test_what_is_kept_is_encrypted_and_old_keys_open_it() -> None:
    from cryptography.fernet import Fernet

    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    stage = Stage(answers(data=message(b"secret answer")), sealing=Sealing([old]))
    await stage.call()
    kept = b"".join(record.value for _, record in await stage.store.scan("", "", 10))
    assert b"secret answer" not in kept
    stranger = Stage(sealing=Sealing([new]))
    stranger.store._records = stage.store._records
    assert reason(await stranger.call()) == "STORE_UNAVAILABLE"
    rotated = Stage(sealing=Sealing([new, old]))
    rotated.store._records = stage.store._records
    assert (await rotated.call()).seen.data == message(b"secret answer")
    # Read with the old key, it was sealed again with the new one; the old one can go.
    assert (await stranger.call()).seen.data == message(b"secret answer")


async def test_what_is_sealed_again_is_kept_no_longer() -> None:
    from cryptography.fernet import Fernet

    stage = Stage(config={"ttl": 10})
    await stage.call()
    rotated = Stage(config={"ttl": 10}, sealing=Sealing([Fernet.generate_key().decode()]))
    rotated.store._records = stage.store._records
    await rotated.advance(9)
    assert replayed(await rotated.call())
    await rotated.advance(2)
    assert not replayed(await rotated.call())


# ── kinds, sizes, and other policies ──


async def test_all_messages_of_a_client_stream_are_held_and_count() -> None:
    stage = Stage()
    stream = stage.scene.call(KEY, body=b"one", end=False)
    await stage.turns()
    assert stage.executed == 0
    stream.send_data(message(b"two"), True)
    await stage.turns()
    assert stage.scene.agent.seen.data == message(b"one") + message(b"two")
    assert stream.seen.status == 0
    other = stage.scene.call(KEY, body=b"one", end=False)
    other.send_data(message(b"three"), True)
    await stage.turns()
    assert reason(other) == "KEY_REUSED"


async def test_messages_of_a_server_stream_go_on_at_once_and_are_recorded() -> None:
    stage = Stage(silent)
    caller = await stage.call()
    stage.scene.agent.send_headers(block((":status", "200"), ("content-type", "application/grpc")))
    stage.scene.agent.send_data(message(b"a"), False)
    await stage.turns()
    assert caller.seen.data == message(b"a")
    stage.scene.agent.send_data(message(b"b"), False)
    stage.scene.agent.send_trailers(block(*OK))
    await stage.turns()
    assert (await stage.call()).seen.data == message(b"a") + message(b"b")


async def test_an_answer_that_is_too_large_is_passed_on_and_not_kept() -> None:
    large = message(b"x" * 5000)
    stage = Stage(answers(data=large), config={"max_recorded": 1024})
    assert (await stage.call()).seen.data == large
    again = await stage.call()
    assert (again.seen.status, reason(again)) == (StatusCode.FAILED_PRECONDITION, "NOT_REPLAYABLE")
    assert stage.executed == 1


async def test_a_request_that_is_too_large_is_refused() -> None:
    stage = Stage(config={"max_request": 1024})
    assert reason(await stage.call(body=b"x" * 2000)) == "MESSAGE_TOO_LARGE"
    assert stage.executed == 0


async def test_an_empty_request_has_a_key_like_any_other() -> None:
    stage = Stage()
    for _ in range(2):
        stage.scene.call(KEY, body=None)
        await stage.turns()
    assert stage.executed == 1


async def test_a_keyed_rpc_may_be_retried() -> None:
    def flaky(stream: ScriptedStream, event: str) -> None:
        if event == "end" and len(stage.scene.agent_streams) == 1:
            stream.send_headers(
                block((":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "14")), True
            )
        else:
            echo(stream, event)

    config = RetryConfig(max_attempts=3, on=("UNAVAILABLE",), initial_backoff=0.1)
    stage = Stage(flaky, after=lambda runtime: [Retry(config, runtime)])
    caller = await stage.call()
    await stage.advance(1)
    await stage.turns()
    assert caller.seen.status == 0
    assert stage.executed == 2
    assert [dict(each.seen.headers)[b"x-sidecar-fencing-token"] for each in stage.scene.agent_streams] == [b"1", b"1"]
    assert replayed(await stage.call())


async def test_a_replay_passes_the_masks_of_policies_before_it() -> None:
    def hide(call: Any, data: bytes) -> bytes:
        return message(b"*" * (len(data) - 5))

    stage = Stage(answers(data=message(b"secret") + message(b"s")), before=[hooked(on_response_message=hide)])
    first, again = await stage.call(), await stage.call()
    assert first.seen.data == again.seen.data == message(b"******") + message(b"*")
    assert again.seen.status == 0
    assert stage.scene.leaks() == []


async def test_a_replay_asks_those_before_it_first() -> None:
    refusals = [None, None]

    def decide(_: Any) -> Any:
        return refusals.pop(0) if refusals else refuse()

    stage = Stage(before=[hooked(on_request=decide)])
    await stage.call()
    assert replayed(await stage.call())
    assert reason(await stage.call()) == "OVERLOADED"


async def test_the_deadline_of_a_running_execution_leaves_it_unknown() -> None:
    stage = Stage(silent)
    stream = stage.scene.call(KEY, ("grpc-timeout", "1S"))
    await stage.turns()
    await stage.advance(2)
    assert stream.seen.status == StatusCode.DEADLINE_EXCEEDED
    assert reason(await stage.call()) == "OUTCOME_UNKNOWN"
    assert stage.scene.leaks() == []
