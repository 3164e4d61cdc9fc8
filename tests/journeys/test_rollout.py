"""A candidate gets real traffic, is judged, and goes to 100 % or back to 0: with real processes, and seconds in place of minutes.

Each test says how many RPCs its caller saw fail; nothing but what the candidate itself spoiled may be among them.
"""

from __future__ import annotations

from pathlib import Path

from tests.journeys.rollout_stage import Pace, Stage


async def test_a_good_candidate_takes_over(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage, Pace(stage.address, 200) as pace:
        found = await stage.until(lambda each: each["percent"] == 10 and len(pace.calls) > 200)
        assert 5 < found["measured_percent"] < 15
        found = await stage.phase("promoted", "rolled_back")
        assert found["phase"] == "promoted", found["reason"]
        assert [each["percent"] for each in found["history"]] == [0, 10, 50, 100, 100]
        before = stage.stable.calls
        codes = await pace.stop()
        assert set(codes) == {0}
        assert stage.canary.calls > 0
        assert stage.stable.calls == before, "nothing goes to the old version any more"
