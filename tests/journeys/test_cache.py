"""Answers from memory, with a real sidecar: one question reaches the agent once, until somebody clears the cache."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.journeys.raw import RawCaller
from tests.journeys.rollout_stage import Version
from tests.support.processes import Sidecar

CONFIG = """
node: {{name: data}}
admin: {{bind: "127.0.0.1:0"}}
listeners:
  - name: inbound
    direction: inbound
    bind: "127.0.0.1:0"
    policies:
      cache:
        methods: ["/test.Service/Method"]
        ttl: 5m
        max_bytes: 64KiB
        max_answer: 32KiB
        key: {{metadata: [x-tenant]}}
        invalidate: [{{after: ["/test.Service/Put"], forget: ["/test.Service/*"]}}]
    routes: [{{name: all, match: {{method: "/*"}}, to: agent}}]
clusters:
  agent: {{endpoints: ["{agent}"]}}
"""


async def test_one_question_reaches_the_agent_once(tmp_path: Path) -> None:
    agent = Version()
    await agent.start()
    sidecar = Sidecar(CONFIG.format(agent=agent.address), tmp_path, name="data")
    await asyncio.to_thread(sidecar.start)
    caller = await RawCaller.connect(sidecar.addresses["inbound"])
    try:
        many = [caller.open(("x-tenant", str(i % 4)), body=b"x", end=True) for i in range(200)]
        for each in many:
            await each.over()
        assert {each.seen.status for each in many} == {0}
        assert agent.calls == 4, "one of each tenant, however many ask at a time"

        status, body = await asyncio.to_thread(sidecar.request, "POST", "/cache/clear")
        assert (status, json.loads(body)) == (200, {"forgotten": 4})
        again = caller.open(("x-tenant", "0"), body=b"x", end=True)
        await again.over()
        assert (again.seen.status, agent.calls) == (0, 5)
        metrics = (await asyncio.to_thread(sidecar.get, "/metrics"))[1]
        assert 'sidecar_cache_entries{listener="inbound",route="all"} 1.0' in metrics
        assert 'sidecar_cache_dropped_total{listener="inbound",reason="cleared"} 4.0' in metrics
        assert 'sidecar_cache_total{listener="inbound",outcome="miss",route="all"} 5.0' in metrics.replace(
            'route="all",outcome="miss"', 'outcome="miss",route="all"'
        )
    finally:
        caller.close()
        await asyncio.to_thread(sidecar.stop)
        agent.stop()
