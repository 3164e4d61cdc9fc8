"""The disk under the log is full: lines are lost and counted, and no RPC notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import urllib.request
from pathlib import Path

import pytest

from sidecar.clock import LoopClock, sleep
from tests.journeys.raw import RawAgent, RawCaller
from tests.journeys.test_drill import serve
from tests.support.crash import free_port
from tests.support.processes import ROOT

CONFIG = """
admin: {{bind: "127.0.0.1:{admin}"}}
listeners:
  - name: inbound
    direction: inbound
    bind: "127.0.0.1:{port}"
    policies: {{access_log: {{sample: 100}}}}
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
clusters:
  local: {{endpoints: ["{agent}"]}}
"""


async def test_lines_are_lost_and_counted_and_no_rpc_notices(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    clock = LoopClock(asyncio.get_running_loop())
    admin, port = free_port(), free_port()
    async with RawAgent(serve) as agent:
        config = tmp_path / "sidecar.yaml"
        config.write_text(CONFIG.format(admin=admin, port=port, agent=agent.address))
        command = [sys.executable, "-m", "sidecar", "run", "-c", str(config)]
        full = os.open("/dev/full", os.O_WRONLY)
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=full, stderr=full)
        os.close(full)
        try:
            async with asyncio.timeout(30):
                while await asyncio.to_thread(_page, admin, "readyz") is None:
                    await sleep(clock, 0.05)
                async with await RawCaller.connect(f"127.0.0.1:{port}") as caller:
                    for _ in range(20):
                        assert (await caller.call()).seen.status == 0
                while (page := await asyncio.to_thread(_page, admin, "metrics")) is None or _dropped(page) < 20:
                    await sleep(clock, 0.05)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 20) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _page(admin: int, name: str) -> str | None:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{admin}/{name}", timeout=5) as answer:
        return str(answer.read().decode())
    return None


def _dropped(page: str) -> float:
    found = re.search(r"^sidecar_log_lines_dropped_total (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else 0.0
