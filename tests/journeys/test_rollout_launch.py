"""Versions whose agents the sidecar starts: on a free port, before they get traffic, and ended when nobody needs them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.journeys.rollout_stage import Pace
from tests.support.processes import Sidecar

COMMAND = '["{python}", "-m", "agent_server", "run", "--bind", "{{address}}", "--database", "{folder}/{version}.db", "--version", "{version}"]'
CONFIG = """
node: {{name: data}}
admin: {{bind: "127.0.0.1:0"}}
listeners:
  - name: inbound
    direction: inbound
    bind: "127.0.0.1:0"
    routes: [{{name: all, match: {{method: "/*"}}, to: agent}}]
clusters:
  agent:
    versions:
      v1: {{agent: {{command: {v1}, drain_timeout: 5s}}}}
      v2: {{agent: {{command: {v2}, drain_timeout: 5s}}}}
    rollout:
      stable: v1
      candidate: v2
      begin: manual
      steps: [50, 100]
      first_step_for: 500ms
      step_for: 500ms
      keep_old_for: 1s
      analysis: {{interval: 200ms, min_rpcs: 10, failure_codes: [UNAVAILABLE, INTERNAL], compare_to_stable: {{success_rate_drop: 50}}}}
"""
UNIMPLEMENTED = 12
"""The agent's own word on a method it does not have: an answer of a real one."""


def command(version: str, folder: Path) -> str:
    return COMMAND.format(python=sys.executable, folder=folder, version=version)


async def said(sidecar: Sidecar, event: str, version: str, count: int = 1) -> dict[str, Any]:
    """The log line, when it has been written so often."""

    def is_it(line: dict[str, Any]) -> bool:
        return line.get("event") == event and line.get("version") == version

    async with asyncio.timeout(30):
        while len(found := [line for line in sidecar.log() if is_it(line)]) < count:
            await asyncio.to_thread(sidecar.get, "/livez")
    return found[-1]


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_versions_are_started_take_over_and_are_retired(tmp_path: Path) -> None:
    sidecar = Sidecar(CONFIG.format(v1=command("v1", tmp_path), v2=command("v2", tmp_path)), tmp_path, name="data")
    await asyncio.to_thread(sidecar.start)
    try:
        first = await said(sidecar, "agent of a version serves", "v1")
        assert not [line for line in sidecar.log() if line.get("version") == "v2"], "not needed yet"
        async with Pace(sidecar.addresses["inbound"], 100) as pace:
            status, _ = await asyncio.to_thread(sidecar.request, "POST", "/rollout/start?cluster=agent&by=test")
            assert status == 200
            second = await said(sidecar, "agent of a version serves", "v2")
            await said(sidecar, "agent of a version is retired", "v1")
            found = json.loads((await asyncio.to_thread(sidecar.get, "/rollout?cluster=agent"))[1])
            assert (found["phase"], found["measured_percent"]) == ("promoted", 100)
            codes = await pace.stop()
        assert set(codes) == {UNIMPLEMENTED}, "no RPC failed for a process that was started or ended"
        assert not lives(first["pid"])

        os.kill(second["pid"], signal.SIGKILL)
        third = await said(sidecar, "agent of a version serves", "v2", 2)
        assert third["pid"] != second["pid"]
        assert third["address"] == second["address"]
    finally:
        await asyncio.to_thread(sidecar.stop)
    assert not lives(third["pid"])
