"""Keyed RPCs against a model: any interleaving of callers, answers, deaths, silence and lost stores executes a key once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sidecar.http2.errors import ErrorCode
from tests.scenes.script import finish, silent
from tests.scenes.test_idempotency import Stage
from tests.support.wire import ScriptedStream, block, message

KEYS = st.sampled_from(["a", "b"])
SIDECARS = st.integers(0, 1)
PICK = st.integers(0, 9)


class Keyed(RuleBasedStateMachine):
    """Two sidecars, one store, agents that answer when they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stage = self.loop.run_until_complete(self._begin())
        self.serial = 0
        # What callers hold: (key, stream).
        self.calls: list[tuple[str, ScriptedStream]] = []
        # Executions that agents have seen, by key; those they said they had not done may be repeated.
        self.executed: Counter[str] = Counter()
        self.not_done: Counter[str] = Counter()
        self.seen: dict[int, tuple[str, ScriptedStream]] = {}
        self.over: set[int] = set()

    async def _begin(self) -> Stage:
        return Stage(silent, count=2, config={"lease": 3, "ttl": 2_000_000})

    def teardown(self) -> None:
        async def end() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.loop.run_until_complete(end())
        self.loop.close()

    def _turn(self, act: Callable[[], object] = lambda: None, seconds: float = 0) -> None:
        async def turn() -> None:
            act()
            await self.stage.turns()
            await self.stage.advance(seconds)

        self.loop.run_until_complete(turn())
        for scene in self.stage.scenes:
            for stream in scene.agent_streams:
                if id(stream) not in self.seen and stream.seen.ended:
                    key = dict(stream.seen.headers)[b"idempotency-key"].decode()
                    self.seen[id(stream)] = (key, stream)
                    self.executed[key] += 1

    def _running(self) -> list[tuple[int, str, ScriptedStream]]:
        alive = {id(stream) for scene in self.stage.scenes for stream in scene.agent_streams}
        return [
            (number, key, stream)
            for number, (key, stream) in self.seen.items()
            if number in alive and number not in self.over and stream.seen.reset is None
        ]

    @rule(key=KEYS, sidecar=SIDECARS)
    def call(self, key: str, sidecar: int) -> None:
        scene = self.stage.scenes[sidecar]
        self._turn(lambda: self.calls.append((key, scene.call(("idempotency-key", key), body=key.encode()))))

    @rule(pick=PICK)
    def answer(self, pick: int) -> None:
        running = self._running()
        if running:
            number, key, stream = running[pick % len(running)]
            self.over.add(number)
            self.serial += 1
            self._turn(lambda: finish(stream, message(f"{key} {self.serial}".encode())))

    @rule(pick=PICK)
    def say_it_was_not_done(self, pick: int) -> None:
        running = self._running()
        if running:
            number, key, stream = running[pick % len(running)]
            self.over.add(number)
            self.not_done[key] += 1
            not_done = block((":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "14"))
            self._turn(lambda: stream.send_headers(not_done, True))

    @rule(pick=PICK)
    def leave(self, pick: int) -> None:
        waiting = [stream for _, stream in self.calls if not stream.seen.ended and stream.seen.reset is None]
        if waiting:
            self._turn(lambda: waiting[pick % len(waiting)].reset(ErrorCode.CANCEL))

    @rule(sidecar=SIDECARS)
    def kill(self, sidecar: int) -> None:
        dead = self.stage.replace(sidecar)
        for _, stream in self.calls:
            if stream.connection is dead.caller.client and not stream.seen.ended:
                stream.seen.reset = -1
        self._turn()

    @rule(seconds=st.sampled_from([0.5, 2.0, 4.0]))
    def wait(self, seconds: float) -> None:
        self._turn(seconds=seconds)

    @rule(is_lost=st.booleans())
    def lose_or_mend_the_store(self, is_lost: bool) -> None:
        self.stage.store.lost = is_lost
        self._turn()

    @rule()
    def forget_an_answer_of_the_store(self) -> None:
        self.stage.store.forgets = 1

    @invariant()
    def nothing_is_executed_twice(self) -> None:
        for key, count in self.executed.items():
            assert count <= 1 + self.not_done[key], f"{key} was executed {count} times"

    @invariant()
    def every_answer_is_the_first_one(self) -> None:
        answers: dict[str, set[bytes]] = {}
        for key, stream in self.calls:
            if stream.seen.ended and stream.seen.status == 0:
                answers.setdefault(key, set()).add(bytes(stream.seen.data))
        assert all(len(each) == 1 for each in answers.values()), answers


TestKeyed = Keyed.TestCase
TestKeyed.settings = settings(
    max_examples=100, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
