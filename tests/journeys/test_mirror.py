"""Copies of real traffic: the caller never notices, whatever the other cluster does."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from tests.journeys.rollout_stage import Pace, Version, fails_each, hang
from tests.support.processes import Sidecar

CONFIG = """
node: {{name: data}}
admin: {{bind: "127.0.0.1:0"}}
listeners:
  - name: inbound
    direction: inbound
    bind: "127.0.0.1:0"
    routes:
      - name: all
        match: {{method: "/*"}}
        to: agent
        policies: {{mirror: {{to: next, percent: {percent}, timeout: 1s, samples: {{file: differences.jsonl}}}}}}
clusters:
  agent: {{endpoints: ["{agent}"]}}
  next: {{endpoints: ["{next}"]}}
"""


class Stage:
    """An agent, the next one, and a sidecar that copies."""

    def __init__(self, folder: Path, next_agent: Version, percent: int = 100) -> None:
        self.agent, self.next = Version(), next_agent
        self.folder = folder
        self.percent = percent

    async def __aenter__(self) -> Stage:
        await self.agent.start()
        await self.next.start()
        config = CONFIG.format(agent=self.agent.address, next=self.next.address, percent=self.percent)
        self.sidecar = Sidecar(config, self.folder, name="data")
        await asyncio.to_thread(self.sidecar.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.sidecar.stop)
        self.agent.stop()
        self.next.stop()

    @property
    def address(self) -> str:
        return self.sidecar.addresses["inbound"]

    async def counts(self) -> dict[str, float]:
        text = (await asyncio.to_thread(self.sidecar.get, "/metrics"))[1]
        found = re.findall(r'^sidecar_mirrored_total\{.*outcome="(\w+)".*\} (\S+)$', text, re.MULTILINE)
        return {outcome: float(value) for outcome, value in found if float(value)}


async def test_differences_are_counted_and_sampled(tmp_path: Path) -> None:
    async with Stage(tmp_path, Version(fails_each(10))) as stage, Pace(stage.address, 200) as pace:
        async with asyncio.timeout(20):
            while (await stage.counts()).get("different", 0) < 20:
                assert pace.failed == 0
        codes = await pace.stop()
        assert set(codes) == {0}
        async with asyncio.timeout(5):
            while (counts := await stage.counts()).get("same", 0) + counts["different"] < codes[0]:
                assert counts["sent"] == codes[0]
        assert counts == {"sent": codes[0], "different": codes[0] // 10, "same": codes[0] - codes[0] // 10}
        assert stage.next.calls == stage.agent.calls == codes[0]
    lines = [json.loads(each) for each in (tmp_path / "differences.jsonl").read_text().splitlines()]
    assert {tuple(each["status"]) for each in lines} == {("OK", "INTERNAL")}
    assert len(lines) >= 20


async def test_one_that_hangs_or_dies_costs_callers_nothing(tmp_path: Path) -> None:
    async with Stage(tmp_path, Version(hang)) as stage, Pace(stage.address, 300) as pace:
        async with asyncio.timeout(20):
            while not {"busy", "no_answer"} <= (await stage.counts()).keys():
                assert pace.failed == 0
        stage.next.crash()
        async with asyncio.timeout(20):
            while "unreachable" not in await stage.counts():
                assert pace.failed == 0
        assert set(await pace.stop()) == {0}
