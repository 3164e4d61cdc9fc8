"""A candidate gets real traffic, is judged, and goes to 100 % or back to 0: with real processes, and seconds in place of minutes.

Each test bounds how many RPCs its caller saw fail; nothing but what the candidate itself spoiled may be among them.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.journeys.rollout_stage import NOT_SERVING, Pace, Stage, Version, fail, fails_each, hang, slow

HALF = """
      steps: [50, 100]
      first_step_for: 20s
      step_for: 500ms
      ready_within: 500ms
      analysis: {interval: 250ms, min_rpcs: 20, max_failed_checks: 2, success_rate: {min: 99},
                 compare_to_stable: {success_rate_drop: 1, latency_p99_ratio: 2, latency_slack: 15ms}}
"""
ENDING = HALF + "      existing_streams: end\n"
TENTH = HALF.replace("[50, 100]", "[10, 100]")
INTERNAL, DEADLINE_EXCEEDED, UNAVAILABLE = 13, 4, 14


async def test_a_good_candidate_takes_over(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage, Pace(stage.address, 200) as pace:
        found = await stage.until(lambda each: each["percent"] == 10 and len(pace.calls) > 100)
        assert 5 < found["measured_percent"] < 15
        found = await stage.phase("promoted", "rolled_back")
        assert found["phase"] == "promoted", found["reason"]
        assert [each["percent"] for each in found["history"]] == [0, 10, 50, 100, 100]
        before = stage.stable.calls
        codes = await pace.stop()
        assert set(codes) == {0}
        assert stage.canary.calls > 0
        assert stage.stable.calls == before, "nothing goes to the old version any more"
        metrics = (await asyncio.to_thread(stage.sidecar.get, "/metrics"))[1]
        assert 'sidecar_rollout_percent{cluster="agent",version="canary"} 100.0' in metrics
        assert 'sidecar_rollout_transitions_total{cluster="agent",phase="promoted"} 1.0' in metrics


async def test_one_that_fails_a_twentieth_is_sent_back(tmp_path: Path) -> None:
    async with Stage(tmp_path, rollout=HALF, canary=Version(fails_each(20))) as stage, Pace(stage.address, 300) as pace:
        found = await stage.phase("promoted", "rolled_back")
        assert found["phase"] == "rolled_back"
        assert "success_rate" in found["reason"]
        decided = await asyncio.to_thread(
            stage.sidecar.wait_for_log,
            lambda each: each.get("event") == "rollout" and each["phase"] == "rolled_back",
        )
        assert decided["figures"]["candidate"]["codes"]["INTERNAL"] >= 1, "logged with what decided it"
        codes = await pace.stop()
        assert codes[INTERNAL] == stage.canary.calls // 20 < 40
        assert set(codes) == {0, INTERNAL}


async def test_one_that_is_three_times_slower_is_sent_back(tmp_path: Path) -> None:
    stable, canary = Version(slow(0.03)), Version(slow(0.09))
    async with Stage(tmp_path, rollout=ENDING, stable=stable, canary=canary) as stage, Pace(stage.address, 200) as pace:
        found = await stage.phase("promoted", "rolled_back")
        assert found["phase"] == "rolled_back"
        assert "latency_p99_ratio" in found["reason"]
        codes = await pace.stop()
        # What ran there when it was sent back was ended, as configured.
        assert set(codes) <= {0, UNAVAILABLE}
        assert codes[UNAVAILABLE] < 50


async def test_one_that_fails_everything_is_gone_after_its_first_rpcs(tmp_path: Path) -> None:
    async with Stage(tmp_path, rollout=TENTH, canary=Version(fail)) as stage, Pace(stage.address, 300) as pace:
        found = await stage.phase("promoted", "rolled_back")
        assert found["phase"] == "rolled_back"
        assert "of the first" in found["reason"]
        codes = await pace.stop()
        # 30 a second go there: of the first 20, and of less than a second more.
        assert codes[INTERNAL] == stage.canary.calls < 20 + 30
        assert set(codes) == {0, INTERNAL}


async def test_one_that_hangs_is_sent_back_before_its_callers_give_up(tmp_path: Path) -> None:
    stage = Stage(tmp_path, rollout=ENDING, canary=Version(hang))
    async with stage, Pace(stage.address, 200, ("grpc-timeout", "15S")) as pace:
        found = await stage.phase("promoted", "rolled_back")
        assert found["phase"] == "rolled_back"
        codes = await pace.stop()
        # Its streams were ended; nobody had to wait for a deadline.
        assert codes[UNAVAILABLE] == stage.canary.calls
        assert set(codes) == {0, UNAVAILABLE}


async def test_one_that_crashes_is_sent_back_at_once(tmp_path: Path) -> None:
    async with Stage(tmp_path, rollout=HALF) as stage, Pace(stage.address, 200) as pace:
        await stage.until(lambda each: each["percent"] == 50 and stage.canary.calls > 20)
        stage.canary.crash()
        found = await stage.phase("rolled_back")
        assert "does not serve" in found["reason"]
        codes = await pace.stop()
        assert sum(number for code, number in codes.items() if code != 0) <= 2, codes


async def test_one_that_says_it_does_not_serve_is_sent_back_at_once(tmp_path: Path) -> None:
    async with Stage(tmp_path, rollout=HALF) as stage, Pace(stage.address, 200) as pace:
        await stage.until(lambda each: each["percent"] == 50 and stage.canary.calls > 20)
        stage.canary.says(NOT_SERVING)
        found = await stage.phase("rolled_back")
        assert "NOT_SERVING" in found["reason"]
        assert set(await pace.stop()) == {0}


async def test_one_that_never_serves_gets_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, rollout=HALF, canary=Version(health=NOT_SERVING))
    async with stage, Pace(stage.address, 100) as pace:
        found = await stage.phase("rolled_back")
        assert "was not ready within" in found["reason"]
        assert stage.canary.calls == 0
        assert set(await pace.stop()) == {0}


async def test_without_traffic_nothing_is_promoted(tmp_path: Path) -> None:
    async with Stage(tmp_path, rollout=HALF.replace("first_step_for: 20s", "first_step_for: 500ms")) as stage:
        found = await stage.until(lambda each: each["step_served_seconds"] >= 1.5)
        assert (found["phase"], found["percent"]) == ("progressing", 50)
        assert found["last_check"]["verdict"] == "inconclusive"
        async with Pace(stage.address, 200) as pace:
            await stage.phase("promoted")
            assert set(await pace.stop()) == {0}


async def test_stable_dies_in_the_middle(tmp_path: Path) -> None:
    steps = HALF.replace("[50, 100]", "[20, 50, 100]").replace("first_step_for: 20s", "first_step_for: 500ms")
    async with (
        Stage(tmp_path, rollout=steps.replace("step_for: 500ms\n      ready", "step_for: 20s\n      ready")) as stage,
        Pace(stage.address, 200) as pace,
    ):
        await stage.until(lambda each: each["percent"] == 50)
        stage.stable.crash()
        found = await stage.until(lambda each: each["stable_is_down"])
        assert (found["phase"], found["percent"]) == ("progressing", 100)
        await stage.stable.start(stage.stable.address)
        found = await stage.until(lambda each: not each["stable_is_down"])
        assert (found["phase"], found["percent"]) == ("progressing", 50)
        codes = await pace.stop()
        assert sum(number for code, number in codes.items() if code != 0) <= 2, codes


BLUE_GREEN = """
      strategy: blue_green
      step_for: 1s
      smoke: [{method: /test.Service/Smoke}]
      manual_gates: [start]
      analysis: {interval: 250ms, min_rpcs: 20, compare_to_stable: {latency_p99_ratio: 3, latency_slack: 50ms}}
"""


async def test_blue_green_switches_and_goes_back_without_a_failed_rpc(tmp_path: Path) -> None:
    async with Stage(tmp_path, rollout=BLUE_GREEN) as stage, Pace(stage.address, 300) as pace:
        found = await stage.phase("paused")
        assert (found["waits_for"], found["percent"], stage.canary.calls) == ("start", 0, 0)
        assert (await stage.order("resume"))[0] == 200
        await stage.until(lambda each: each["percent"] == 100)
        calls = stage.stable.calls
        await stage.phase("promoted")
        assert stage.stable.calls - calls <= 1, "all at once"
        assert (await stage.order("abort"))[0] == 200
        before = stage.stable.calls
        await stage.until(lambda each: each["phase"] == "rolled_back" and stage.stable.calls > before + 100)
        status, body = await stage.order("pause")
        assert (status, body) == (409, "nothing runs (rolled_back)\n")
        codes = await pace.stop()
        assert set(codes) == {0}
        assert sum(codes.values()) > 500


async def test_what_moves_is_told_and_audited(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    rollout = (
        HALF
        + f"""
      on_promote: [["/bin/sh", "-c", "cat > {told}; echo $SIDECAR_ROLLOUT_PHASE >> {told}"], ["/bin/false"]]
"""
    )
    audit = tmp_path / "audit.jsonl"
    route = f', policies: {{audit: {{sink: "file://{audit}"}}}}'
    async with Stage(tmp_path, rollout=rollout, route=route) as stage:
        await stage.until(lambda each: each["percent"] == 50)
        assert (await stage.order("promote"))[0] == 200
        failed = await asyncio.to_thread(
            stage.sidecar.wait_for_log, lambda line: line.get("event") == "rollout action failed"
        )
        assert failed["cause"] == "/bin/false ended with 1"
        event, phase = told.read_text().rsplit("}", 1)
        assert json.loads(event + "}")["reason"] == "promoted by hand"
        assert phase.strip() == "promoted"
        assert json.loads((await asyncio.to_thread(stage.sidecar.get, "/rollout"))[1])[0]["phase"] == "promoted"
        status, body = await asyncio.to_thread(stage.sidecar.request, "POST", "/rollout/pause?cluster=other")
        assert (status, body) == (404, "no rollout is configured for cluster 'other'; known: agent\n")
    records = [json.loads(line) for line in audit.read_text().splitlines()]
    moves = [each for each in records if each.get("kind") == "rollout"]
    assert [each["phase"] for each in moves] == ["verifying", "progressing", "promoted"]
    assert moves[-1]["by"] == "test"


async def test_a_smoke_rpc_that_fails_keeps_the_candidate_out(tmp_path: Path) -> None:
    rollout = HALF + "      smoke: [{method: /test.Service/Check}]\n"
    stage = Stage(tmp_path, rollout=rollout, canary=Version(fail))
    async with stage:
        found = await stage.phase("rolled_back")
        assert "smoke RPC /test.Service/Check ended with INTERNAL" in found["reason"]
