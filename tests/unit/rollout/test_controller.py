from __future__ import annotations

from typing import Any

import pytest

from sidecar.rollout import progress
from sidecar.rollout.config import RolloutConfig
from sidecar.rollout.controller import Controller, split_of
from sidecar.rollout.progress import Refused
from sidecar.rollout.record import Record
from sidecar.rollout.state import Phase, State
from sidecar.store.interface import StoreUnavailable
from sidecar.store.memory import MemoryStore
from tests.support.clock import FakeClock
from tests.support.cluster import fails, stalls
from tests.support.versions import VersionsScene, rollout_config
from tests.support.wire import RESPONSE, block

COMPARING = {"interval": 0.2, "min_rpcs": 10, "compare_to_stable": {"refused_rise": 5.0}}


class Losable(MemoryStore):
    """A store that can be lost."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.lost = False

    def _check(self) -> None:
        if self.lost:
            raise StoreUnavailable("unreachable", "it is gone")

    async def read(self, key: str) -> bytes | None:
        self._check()
        return await super().read(key)

    async def swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        self._check()
        return await super().swap(key, expected, value)

    async def lead(self, key: str, owner: str, seconds: float) -> bool:
        self._check()
        return await super().lead(key, owner, seconds)


class Stage:
    """Controllers of one cluster, driven by hand; `looks` of all of them, a tenth of a second apart, between RPCs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **config: Any) -> None:
        self.config: RolloutConfig = rollout_config(**config)
        self.scene = VersionsScene(monkeypatch)
        self.store = Losable(self.scene.clock)
        self.moves: list[dict[str, Any]] = []
        self.controllers: list[Controller] = []
        self.first = self.add("one")

    def add(self, owner: str) -> Controller:
        """Of another sidecar before the same agents; the first one has all the traffic."""
        cluster = (
            self.scene.versions if not self.controllers else self.scene.make(split_of(self.config, State("r"), "x"))
        )
        self.scene.run()
        made = Controller(
            self.config,
            cluster,
            Record(self.store, "agent", "r", owner),
            state=State("r"),
            owner=owner,
            runtime=self.scene.runtime,
            moved=self.moves.append,
        )
        self.controllers.append(made)
        return made

    async def go(self, seconds: float, rpcs: int = 5) -> Controller:
        """So long, with so many RPCs in each tenth of a second."""
        for _ in range(round(seconds * 10)):
            if rpcs:
                self.scene.codes(rpcs)
            self.scene.advance(0.1)
            for each in self.controllers:
                await each.look()
        return self.first

    @property
    def way(self) -> list[tuple[str, float]]:
        return [(each["phase"], each["percent"]) for each in self.moves]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


async def test_a_good_candidate_gets_its_share_and_then_everything(stage: Stage) -> None:
    await stage.go(0.5)
    stage.scene.shares()
    await stage.go(0.5, 100)
    stable, candidate = stage.scene.shares()
    assert abs(candidate - stable) <= 5, "half of 500"
    found = (await stage.go(3.0)).describe()
    assert stage.way == [("verifying", 0), ("progressing", 50), ("progressing", 100), ("promoted", 100)]
    assert (found["phase"], found["percent"], found["measured_percent"]) == ("promoted", 100, 100)
    stage.scene.shares()
    stage.scene.codes(20)
    assert stage.scene.shares() == [0, 20]


async def test_one_that_fails_everything_is_gone_after_its_first_rpcs(stage: Stage) -> None:
    stage.scene.candidate.act = fails(13)
    await stage.go(3.0)
    assert stage.way[-1] == ("rolled_back", 0)
    assert "of the first" in stage.moves[-1]["reason"]
    assert stage.scene.candidate.calls < 20


async def test_checks_that_fail_send_it_back_with_their_figures(stage: Stage) -> None:
    counted = iter(range(100_000))
    stage.scene.candidate.act = lambda stream, event: (
        fails(13)(stream, event) if event != "end" or next(counted) % 8 == 0 else _ok(stream, event)
    )
    await stage.go(8.0, 10)
    assert stage.first.state.phase is Phase.ROLLED_BACK
    figures = stage.moves[-1]["figures"]
    assert figures["verdict"] == "fail"
    assert figures["candidate"]["codes"]["INTERNAL"] > 0


@pytest.mark.parametrize(("before", "compared"), [(30, True), (0, False)])
async def test_a_switch_of_everything_is_compared_with_what_stable_did_before(
    before: int, compared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(monkeypatch, strategy="blue_green", analysis=COMPARING)
    stage.scene.codes(before)
    # One is under way at stable when the switch comes: it alone is nothing to compare with.
    stage.scene.stable.act = stalls
    straggler = stage.scene.call()
    await stage.go(0.2, 0)
    assert stage.way[-1] == ("progressing", 100)
    stage.scene.candidate.act = fails(3)
    answer = stage.scene.stable.streams[-1]
    answer.send_headers(block(*RESPONSE, ("grpc-status", "0")), True)
    stage.scene.run()
    assert straggler.seen.status == 0
    found = (await stage.go(5.0)).describe()
    # That it refuses what stable took is seen by comparison only.
    assert found["phase"] == ("rolled_back" if compared else "promoted")


def _ok(stream: Any, event: str) -> None:
    from tests.support.cluster import serves

    serves(stream, event)


async def test_one_that_dies_is_sent_back_at_the_next_look(stage: Stage) -> None:
    await stage.go(0.5)
    stage.scene.candidate.kill()
    await stage.go(0.1, 0)
    assert stage.way[-1] == ("rolled_back", 0)
    assert "does not serve" in stage.moves[-1]["reason"]


async def test_without_traffic_it_waits(stage: Stage) -> None:
    found = (await stage.go(10.0, 0)).describe()
    assert (found["phase"], found["percent"]) == ("progressing", 50)
    assert found["last_check"]["verdict"] == "inconclusive"


async def test_of_two_one_leads_and_the_other_follows_within_a_second(stage: Stage) -> None:
    await stage.go(0.3)
    second = stage.add("two")
    await stage.go(0.5)
    assert (stage.first.leads, second.leads) == (True, False)
    assert (second.state.number, second.state.percent) == (stage.first.state.number, 50)
    await second.order(progress.paused, "test")
    await stage.go(0.5, 0)
    assert stage.first.state.phase is Phase.PAUSED
    assert stage.controllers[1].cluster.split.percent == 50


async def test_the_other_leads_when_the_leader_is_silent(stage: Stage) -> None:
    await stage.go(0.3)
    second = stage.add("two")
    stage.controllers = [second]
    await stage.go(1.5)
    assert not second.leads
    await stage.go(1.0)
    assert second.leads


async def test_a_leader_that_is_closed_lets_go(stage: Stage) -> None:
    await stage.go(0.3)
    second = stage.add("two")
    stage.first.close()
    await stage.first._resign()
    stage.controllers = [second]
    await stage.go(0.1)
    assert second.leads


async def test_without_its_store_it_advances_nothing_and_still_goes_back(stage: Stage) -> None:
    await stage.go(0.5)
    stage.store.lost = True
    await stage.go(5.0)
    assert (stage.first.state.percent, stage.first.store_problem) == (50, "it is gone")
    with pytest.raises(StoreUnavailable):
        await stage.first.order(progress.aborted, "test")
    stage.scene.candidate.kill()
    await stage.go(0.2, 0)
    assert stage.first.state.phase is Phase.ROLLED_BACK
    stage.store.lost = False
    await stage.go(1.0, 0)
    assert stage.first.store_problem is None
    kept = await Record(stage.store, "agent", "r", "other").read()
    assert kept.phase is Phase.ROLLED_BACK, "what was decided meanwhile is in the store now"


async def test_orders_are_done_noted_and_refused(stage: Stage) -> None:
    await stage.go(0.5)
    await stage.first.order(progress.promoted, "ada")
    assert stage.way[-1] == ("promoted", 100)
    assert stage.moves[-1]["by"] == "ada"
    with pytest.raises(Refused, match="already"):
        await stage.first.order(progress.promoted, "ada")


async def test_what_ended_there_is_ended_if_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, existing_streams="end")
    await stage.go(0.5)
    stage.scene.candidate.act = stage.scene.stable.act = lambda _stream, _event: None
    streams = [stage.scene.call() for _ in range(10)]
    await stage.first.order(progress.aborted, "ada")
    stage.scene.run()
    ended = [each for each in streams if each.seen.ended]
    assert {each.seen.status for each in ended} == {14}
    assert len(ended) == len(stage.scene.candidate.streams) - _answered(stage) > 0


async def test_long_streams_finish_where_they_are_unless_that_is_asked_for(stage: Stage) -> None:
    await stage.go(0.5)
    stage.scene.candidate.act = stage.scene.stable.act = lambda _stream, _event: None
    streams = [stage.scene.call() for _ in range(10)]
    await stage.first.order(progress.aborted, "ada")
    await stage.go(1.0, 0)
    assert not any(each.seen.ended for each in streams)
    for each in (*stage.scene.candidate.streams, *stage.scene.stable.streams):
        if not each.local_closed:
            _ok(each, "end")
    stage.scene.run()
    assert {each.seen.status for each in streams} == {0}


def _answered(stage: Stage) -> int:
    return sum(each.local_closed and each.seen.reset is None for each in stage.scene.candidate.streams)
