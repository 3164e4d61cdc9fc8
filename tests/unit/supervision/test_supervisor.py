"""What a supervisor does about its surroundings: a store that gives no answer. A clock that the test moves, a store that fails as told."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from sidecar.store.interface import Store, StoreUnavailable
from sidecar.store.memory import MemoryStore
from sidecar.supervision.child import Launch
from sidecar.supervision.config import AgentConfig
from sidecar.supervision.supervisor import Supervisor
from sidecar.supervision.surroundings import Surroundings
from sidecar.telemetry import names
from tests.support.alerts import fake_runtime
from tests.support.clock import FakeClock


class FailingStore(MemoryStore):
    """Answers, or does not; `answers_from`: it answers again at this question of an outage."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.kind: str | None = None
        self.answers_from = 0
        self.asked = 0

    def lose(self, kind: str, answers_from: int = 0) -> None:
        self.kind, self.answers_from, self.asked = kind, answers_from, 0

    async def ping(self) -> None:
        self.asked += 1
        if self.kind is not None and not (self.answers_from and self.asked >= self.answers_from):
            raise StoreUnavailable(self.kind, "redis://user:password@host")


class Around:
    """All that `_look_around` asks for."""

    def __init__(self, store: Store | None) -> None:
        self.store = store

    def unreachable(self) -> list[str]:
        return []

    def hold(self, why: str | None) -> None:
        """There is nothing to be held."""


class Stage:
    def __init__(self, *, length: str = "10s", store: bool = True) -> None:
        self.clock = FakeClock()
        self.store = FailingStore(self.clock)
        self.runtime = fake_runtime(self.clock)
        config = AgentConfig.model_validate(
            {"command": ["agent"], "recovery": {"store_lost": {"when": {"for": length}}}}, strict=False
        )
        around = cast("Surroundings", Around(self.store if store else None))
        self.supervisor = Supervisor(
            config, cast("Launch", None), around, self.runtime, drain_timeout=1.0, make=cast("Any", None)
        )
        self.looking = asyncio.get_running_loop().create_task(self.supervisor._look_around())

    async def past(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            for _ in range(4):
                await asyncio.sleep(0)

    async def end(self) -> None:
        await asyncio.sleep(0)
        self.looking.cancel()
        await asyncio.gather(self.looking, return_exceptions=True)

    @property
    def recoveries(self) -> list[tuple[str, str, str, str]]:
        """Oldest first: symptom, action, result, cause."""
        return [
            (each["symptom"], each["action"], each["result"], each["cause"])
            for each in reversed(self.supervisor.history.view())
        ]


async def test_a_store_that_answers_is_left_alone() -> None:
    stage = Stage()
    await stage.past(60)
    assert stage.recoveries == []
    await stage.end()


async def test_a_store_that_is_lost_for_long_enough_is_connected_to_anew() -> None:
    stage = Stage()
    await stage.past(5)
    # At the look after ten seconds of loss, the second question of that look is answered.
    stage.store.lose("unreachable", answers_from=12)
    await stage.past(10)
    assert stage.recoveries == [], "not yet"
    await stage.past(1)
    assert stage.recoveries == [("store_lost", "reconnect", "done", "unreachable")]
    assert stage.runtime.metrics.samples(names.RECOVERIES) == {("store_lost", "reconnect", "done"): 1.0}
    await stage.past(60)
    assert len(stage.recoveries) == 1, "it is back"
    await stage.end()


async def test_as_long_as_it_is_lost_it_is_tried_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.store.lose("timeout")
    await stage.past(34)
    assert stage.recoveries == [("store_lost", "reconnect", "failed", "timeout")] * 3
    assert stage.runtime.metrics.samples(names.RECOVERIES) == {("store_lost", "reconnect", "failed"): 3.0}
    assert "password" not in caplog.text
    await stage.end()


async def test_a_short_loss_is_no_symptom_and_breaks_do_not_add_up() -> None:
    stage = Stage()
    for _ in range(5):
        stage.store.lose("unreachable")
        await stage.past(9)
        stage.store.kind = None
        await stage.past(1)
    assert stage.recoveries == []
    await stage.end()


async def test_where_there_is_no_store_none_is_lost() -> None:
    stage = Stage(length="100ms", store=False)
    await stage.past(10)
    assert stage.recoveries == []
    await stage.end()
