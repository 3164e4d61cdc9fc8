"""Commands of the pages that need a stage of their own: run in their order and as they stand, but for addresses, files and times."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import grpc

from tests.docs.test_commands import pages
from tests.journeys.pair import Pair
from tests.journeys.raw import RawAgent
from tests.journeys.records_office import Office
from tests.journeys.rollout_stage import Pace, Stage
from tests.journeys.test_drill import AGENT, RETRY, serve, traffic
from tests.support.processes import ROOT, Sidecar
from tests.support.receivers import WebReceiver

LIMIT = 60.0


def documented(beginning: str, page: str = "") -> list[str]:
    """What the pages (or one of them) say that begins so, each once."""
    found = [line for block, line in pages() if line.startswith(beginning) and str(block.page).endswith(page)]
    assert found, f"no page has {beginning!r} any more"
    return list(dict.fromkeys(found))


def ours(line: str) -> str:
    """`line` with the programs of this environment."""
    line = re.sub(r"(^|\n)sidecar ", rf"\1{sys.executable} -m sidecar.cli.main ", line)
    line = re.sub(r"(^|\n)agent-server ", rf"\1exec {sys.executable} -m agent_server ", line)
    return re.sub(r"(^|\n)python ", rf"\1{sys.executable} ", line)


def run(line: str, admin: str = "", folder: Path = ROOT) -> str:
    """What it printed; it must succeed."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "SIDECAR_ADMIN": admin}
    done = subprocess.run(
        ["bash", "-c", ours(line)],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


class DataAgent(Stage):
    """Two versions, in a cluster that is named as in the page."""

    def config(self, node: str) -> str:
        return super().config(node).replace("to: agent", "to: data-agent").replace("\n  agent:\n", "\n  data-agent:\n")


async def test_rollout(tmp_path: Path) -> None:
    rollout = """
      begin: manual
      steps: [50, 100]
      first_step_for: 10m
      step_for: 10m
      ready_within: 10s
"""
    orders = documented("sidecar rollout ", "docs/rollouts.md")
    async with DataAgent(tmp_path, rollout=rollout) as stage, Pace(stage.address, 50) as pace:
        said = {line.split()[2]: await asyncio.to_thread(run, line, stage.sidecar.admin) for line in orders}
        assert set(await pace.stop()) == {0}
    assert list(said) == ["status", "start", "pause", "resume", "promote", "abort"]
    assert "promoted" in said["promote"]
    assert "rolled_back" in said["abort"]


def test_idempotency(tmp_path: Path) -> None:
    office = Office(tmp_path)
    try:
        shown, executed, not_executed = documented("sidecar idempotency show") + documented(
            "sidecar idempotency resolve"
        )
        admin = office.sidecar.admin
        assert "unknown" in run(shown.replace("RECORD", "a1"), admin)
        assert "done" in run(executed.replace("RECORD", "a1"), admin)
        assert "released" in run(not_executed.replace("RECORD", "a2"), admin)
    finally:
        office.stop()


async def test_audit(tmp_path: Path) -> None:
    [line] = documented("sidecar audit verify")
    policies = (
        f"audit: {{sink: file://{tmp_path}/audit.jsonl, checkpoint: {{key: {tmp_path}/audit.key, interval: 10s}}}}"
    )
    async with RawAgent(serve) as agent:
        text = f"""
admin: {{bind: "127.0.0.1:0"}}
listeners:
  - {{name: inbound, direction: inbound, bind: "127.0.0.1:0", policies: {{{policies}}},
     routes: [{{name: all, match: {{method: "/*"}}, to: local}}]}}
clusters: {{local: {{endpoints: ["{agent.address}"]}}}}
"""
        with Sidecar(text, tmp_path) as sidecar:
            async with Pace(sidecar.addresses["inbound"], 50) as pace:
                while len(pace.calls) < 10:
                    await asyncio.to_thread(sidecar.get, "/livez")
                assert set(await pace.stop()) == {0}
    assert "intact" in await asyncio.to_thread(run, line.replace("/var/log/sidecar/", ""), "", tmp_path)


def test_alerts(tmp_path: Path) -> None:
    lines = documented("sidecar alerts test")
    with WebReceiver() as web:
        text = f"""
admin: {{bind: "127.0.0.1:0"}}
listeners:
  - {{name: inbound, direction: inbound, bind: "127.0.0.1:0", routes: [{{name: all, match: {{method: "/*"}}, to: local}}]}}
clusters: {{local: {{endpoints: ["127.0.0.1:1"]}}}}
alerts: {{rules: [], send: [{{name: oncall, webhook: "{web.url}/oncall"}}, {{name: chat, webhook: "{web.url}/chat"}}]}}
"""
        with Sidecar(text, tmp_path) as sidecar:
            for line in lines:
                assert "√ oncall" in run(line, sidecar.admin)
        assert sorted(each.path for each in web.kept.all) == ["/chat", "/oncall", "/oncall"]


class Drilled(Pair):
    """The caller's sidecar repeats; the agent's keeps its agent, and counts in its store."""

    def inbound_config(self, extra: str = "") -> str:
        limit = "rate_limit: [{name: all, rate: 100000/1s, scope: shared, per: [method], on_store_error: deny}]"
        text = super().inbound_config(extra).replace("to: local}", f"to: local, policies: {{{limit}}}}}")
        command = json.dumps([sys.executable, str(self.folder / "agent.py"), self.agent])
        recovery = "{crash: {backoff: {initial: 100ms, max: 1s}}}"
        return f'{text}\nstore: {{url: "memory://"}}\nagent: {{command: {command}, recovery: {recovery}}}\n'

    def outbound_config(self, extra: str = "") -> str:
        text = (
            super()
            .outbound_config(extra)
            .replace("to: mesh", f"to: data-agent, idempotent: true, policies: {{{RETRY}}}")
        )
        return text.replace("\n  mesh:\n", "\n  data-agent:\n")


async def test_drills(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(AGENT)
    lines = documented("sidecar drill ")
    assert {line.split()[2] for line in lines} == {
        "latency", "errors", "agent-crash", "store-loss", "cert-expiry", "partition"
    }  # fmt: skip
    async with Drilled(tmp_path, f"unix:{tmp_path}/agent.sock") as pair, traffic(pair.address):
        for line in lines:
            shorter = re.sub(r" --for \S+", "", line).replace("10.0.0.5:8443", pair.direct)
            shorter = shorter.replace("127.0.0.1:9901", pair.inbound.admin).replace(
                "127.0.0.1:9902", pair.outbound.admin
            )
            shorter += " --before 600ms --for 800ms --recover 30s --min-rpcs 1 --max-latency 1m"
            # Where the connection is lost there must be a cluster.
            admin = pair.outbound.admin if "partition" in line else pair.inbound.admin
            assert "passed" in await asyncio.to_thread(run, shorter, admin)


def test_agent_server_with_telemetry(tmp_path: Path) -> None:
    [line] = documented("agent-server run --otlp")
    line = line.replace("127.0.0.1:9464", "127.0.0.1:0") + " --bind 127.0.0.1:0"
    with _running(line, tmp_path) as address, grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(LIMIT)


def test_the_employee_of_the_readme(tmp_path: Path) -> None:
    [server] = documented("agent-server run --agents", "README.md")
    [client] = documented("python -m clients.python", "README.md")
    with _running(server.removesuffix(" &") + " --bind 127.0.0.1:0", tmp_path) as address:
        assert "reconcile" in run(client.replace("127.0.0.1:50051", address), folder=tmp_path)


@contextlib.contextmanager
def _running(line: str, folder: Path):
    """What an agent server that `line` starts listens at."""
    process = subprocess.Popen(
        ["bash", "-c", ours(line)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("agent-server ready "), said
        yield said.split()[-1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
