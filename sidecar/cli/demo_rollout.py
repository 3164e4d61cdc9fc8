"""The part of `sidecar demo` about versions: a good one takes over by itself, a bad one is sent back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

_LIMIT = 20.0
_CALLERS = 6

_GOOD = """\
node: {{name: data}}
admin: {{bind: 127.0.0.1:0}}
listeners:
  - name: canary
    direction: inbound
    bind: 127.0.0.1:0
    routes: [{{name: agent, match: {{method: "/*"}}, to: agent}}]
clusters:
  agent:
    versions:
      v1: {{endpoints: ["{stable}"]}}
      v2: {{endpoints: ["{candidate}"]}}
    rollout:
      stable: v1
      candidate: v2
      steps: [10, 50, 100]          # by default 10, 25, 50, 100 %
      first_step_for: 2s            # by default 30m
      step_for: 1s                  # by default 10m
      analysis: {{interval: 300ms, min_rpcs: 20, success_rate: {{min: 99}}, compare_to_stable: {{success_rate_drop: 1}}}}
"""

# A version that answers its health checks and fails a third of all else: a sidecar that injects faults stands in for it.
_BAD_AGENT = """\
node: {{name: data-v3}}
admin: {{bind: 127.0.0.1:0}}
listeners:
  - name: v3
    direction: inbound
    bind: 127.0.0.1:0
    routes:
      - {{name: health, match: {{method: "/grpc.health.v1.Health/*"}}, to: agent}}
      - {{name: all, match: {{method: "/*"}}, to: agent, policies: {{fault: {{abort: {{percent: 33, status: INTERNAL}}}}}}}}
clusters:
  agent: {{endpoints: ["{agent}"]}}
"""


class Traffic:
    """Callers that ask one after the other, until `stop`; what they were told, by status."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._stopped = False
        self.codes: Counter[str] = Counter()

    async def _ask(self) -> None:
        from clients.python.client import AgentClient
        from clients.python.failure import CallFailure

        async with AgentClient(self._target, agent="data") as client:
            while not self._stopped:
                try:
                    await client.execute("query", {"sql": "SELECT 1"})
                    self.codes["OK"] += 1
                except CallFailure as failure:
                    self.codes[failure.code.name] += 1

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Traffic]:
        async with asyncio.TaskGroup() as group:
            for _ in range(_CALLERS):
                group.create_task(self._ask())
            try:
                yield self
            finally:
                self._stopped = True


async def show_rollouts(
    place: Path,
    agent: str,
    *,
    start_agent: Callable[[str, str], Awaitable[str]],
    start_sidecar: Callable[[str], Awaitable[tuple[str, str]]],
    step: Callable[[str], None],
    shown: Callable[[str], None],
    expect: Callable[[bool, str], None],
) -> None:
    """`start_agent(name, version)` gives its address; `start_sidecar(name)`, of NAME.yaml, those of its listener and of its admin."""
    step("A canary: version 2 gets 10 % of the RPCs, is judged by them, and takes over by itself")
    second = await start_agent("agent-v2", "v2")
    (place / "canary.yaml").write_text(_GOOD.format(stable=agent, candidate=second))
    codes, found = await _watch(*await start_sidecar("canary"), shown)
    expect(found["phase"] == "promoted", f"the good version is promoted; it was not: {found['reason']}")
    expect(set(codes) == {"OK"}, f"no RPC fails on the way; {dict(codes)}")
    shown(f"{codes.total()} RPCs, 0 failed")

    step("A bad canary: version 3 fails a third of its RPCs, and is gone before most callers meet it")
    (place / "v3.yaml").write_text(_BAD_AGENT.format(agent=second))
    third, _ = await start_sidecar("v3")
    text = _GOOD.replace("v2", "v3").replace("v1", "v2").replace("name: canary", "name: rollback")
    (place / "rollback.yaml").write_text(text.format(stable=second, candidate=third))
    codes, found = await _watch(*await start_sidecar("rollback"), shown)
    expect(found["phase"] == "rolled_back", f"the bad version is rolled back; it is {found['phase']}")
    expect(set(codes) <= {"OK", "INTERNAL"}, f"nothing fails but what version 3 fails; {dict(codes)}")
    expect(codes["INTERNAL"] < 60, f"it is gone after a few RPCs; {codes['INTERNAL']} failed")
    shown(f"{codes.total()} RPCs, {codes['INTERNAL']} failed before it was gone")


async def _watch(target: str, admin: str, shown: Callable[[str], None]) -> tuple[Counter[str], dict[str, Any]]:
    """Traffic until the rollout has ended, and a moment after; each change is shown."""
    last: tuple[Any, ...] = ()
    began = time.monotonic()
    async with Traffic(target).running() as traffic:
        while True:
            found = await asyncio.to_thread(_look, admin)
            now = (found["phase"], found["percent"])
            if now != last:
                last = now
                shown(
                    f"{time.monotonic() - began:4.1f} s  {found['phase']:12} {found['percent']:3.0f} %  {found['reason'][:90]}"
                )
            if found["phase"] in {"promoted", "rolled_back"} or time.monotonic() - began > _LIMIT:
                break
            await asyncio.sleep(0.05)
        seen = traffic.codes.total()
        while traffic.codes.total() < seen + 50 and time.monotonic() - began < _LIMIT:
            found = await asyncio.to_thread(_look, admin)
    return traffic.codes, found


def _look(admin: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{admin}/rollout?cluster=agent", timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def agent_command(version: str) -> list[str]:
    """An agent of this version, on a free port."""
    run = ["run", "--bind", "127.0.0.1:0", "--database", "demo.db", "--version", version]
    return [sys.executable, "-m", "agent_server", *run]
