"""A rollout outlives its sidecar, and several sidecars that share a store act as one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.rollout_stage import Pace, Stage, Version, fails_each
from tests.support.processes import Sidecar
from tests.support.redis import RedisServer

STEPS = """
      steps: [20, 50, 100]
      first_step_for: 700ms
      step_for: 700ms
      manual_gates: [start, 50]
      analysis: {interval: 200ms, min_rpcs: 10, compare_to_stable: {latency_p99_ratio: 3, latency_slack: 50ms}}
"""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


async def test_killed_in_every_state_it_goes_on_from_there(tmp_path: Path) -> None:
    top = f"store: {{url: 'sqlite:///{tmp_path}/state.db'}}"
    async with Stage(tmp_path, rollout=STEPS, top=top) as stage:
        await stage.phase("paused")
        await stage.restart()
        found = await stage.look()
        assert (found["phase"], found["percent"], found["waits_for"]) == ("paused", 0, "start")
        assert stage.canary.calls == 0
        assert (await stage.order("resume"))[0] == 200

        await stage.until(lambda each: each["percent"] == 20)
        await stage.restart()
        found = await stage.look()
        assert (found["phase"], found["percent"], found["step"]) == ("progressing", 20, 1)

        async with Pace(stage.address, 200) as pace:
            await stage.phase("paused")
            assert set(await pace.stop()) == {0}
        await stage.restart()
        found = await stage.look()
        assert (found["phase"], found["percent"], found["waits_for"]) == ("paused", 20, "50.0")
        assert (await stage.order("resume"))[0] == 200

        async with Pace(stage.address, 200) as pace:
            await stage.until(lambda each: each["percent"] == 100)
            assert set(await pace.stop()) == {0}
        await stage.restart()
        found = await stage.look()
        assert found["percent"] == 100

        # The very first RPC after a restart goes where it should: nobody saw the old version again.
        before = stage.stable.calls
        async with Pace(stage.address, 200) as pace:
            await stage.phase("promoted")
            assert set(await pace.stop()) == {0}
        await stage.restart()
        async with Pace(stage.address, 200) as pace:
            await stage.until(lambda _: len(pace.calls) > 20)
            assert set(await pace.stop()) == {0}
        assert stage.stable.calls == before

        assert (await stage.order("abort"))[0] == 200
        await stage.restart()
        assert (await stage.look())["phase"] == "rolled_back"
        calls = stage.canary.calls
        async with Pace(stage.address, 200) as pace:
            await stage.until(lambda _: len(pace.calls) > 50)
            assert set(await pace.stop()) == {0}
        assert stage.canary.calls == calls
        history = [(each["phase"], each["percent"]) for each in (await stage.look())["history"]]
        assert history[0] == ("verifying", 0)
        assert history[-1] == ("rolled_back", 0)


async def test_two_sidecars_agree_and_the_other_leads_when_one_is_killed(tmp_path: Path, redis: RedisServer) -> None:
    rollout = STEPS.replace("manual_gates: [start, 50]", "manual_gates: [50, promote]")
    async with Stage(tmp_path, rollout=rollout, top=f"store: {{url: '{redis.url}'}}") as stage:
        first = stage.sidecar
        await stage.until(lambda each: each["leads"] and each["percent"] == 20)
        second = await stage.another()
        found = await stage.look(second)
        assert (found["percent"], found["leads"]) == (20, False)

        # All traffic goes through the follower: the leader judges by what it tells.
        async with Pace(second.addresses["inbound"], 200) as pace:
            await stage.phase("paused", sidecar=second)
            assert set(await pace.stop()) == {0}

        # An order to the follower is followed by the leader, within a second.
        assert (await stage.order("resume", second))[0] == 200
        await stage.until(lambda each: each["percent"] == 50, first, limit=1.5)

        await asyncio.to_thread(first.kill)
        async with Pace(second.addresses["inbound"], 200) as pace:
            await stage.until(lambda each: each["leads"], second, limit=5)
            await stage.until(lambda each: each["percent"] == 100, second)
            assert set(await pace.stop()) == {0}


async def test_both_send_a_bad_candidate_back(tmp_path: Path, redis: RedisServer) -> None:
    rollout = STEPS.replace("manual_gates: [start, 50]", "keep_old_for: 1h")
    canary = Version(fails_each(2))
    async with Stage(tmp_path, rollout=rollout, top=f"store: {{url: '{redis.url}'}}", canary=canary) as stage:
        second = await stage.another()
        async with Pace(second.addresses["inbound"], 200) as pace:
            await stage.phase("rolled_back", sidecar=second)
            await stage.phase("rolled_back", limit=1.5)
            codes = await pace.stop()
        assert codes[13] < 30
        assert _decided(stage.sidecar) + _decided(second) == 1


def _decided(sidecar: Sidecar) -> int:
    return sum(
        each.get("event") == "rollout" and each["phase"] == "rolled_back" and each["leads"] for each in sidecar.log()
    )


async def test_without_its_store_it_stays_where_it_is_and_still_goes_back(tmp_path: Path, redis: RedisServer) -> None:
    rollout = STEPS.replace("manual_gates: [start, 50]", "manual_gates: [50]")
    async with Stage(tmp_path, rollout=rollout, top=f"store: {{url: '{redis.url}'}}") as stage:
        await stage.until(lambda each: each["percent"] == 20)
        await asyncio.to_thread(redis.stop)
        found = await stage.until(lambda each: each["store_problem"] is not None)
        assert found["percent"] == 20
        status, body = await stage.order("abort")
        assert status == 503
        assert "nothing was done" in body
        stage.canary.crash()
        async with Pace(stage.address, 200) as pace:
            await stage.phase("rolled_back")
            assert set(await pace.stop()) == {0}
        await asyncio.to_thread(redis.start)
        await stage.until(lambda each: each["store_problem"] is None)
        await stage.restart()
        assert (await stage.look())["phase"] == "rolled_back", "what was decided meanwhile is in the store now"
