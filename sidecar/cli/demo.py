"""`sidecar demo`: the whole journey on this machine, with real processes; it fails if anything is not as announced."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from sidecar.cli.demo_rollout import agent_command, show_rollouts

_START_TIMEOUT = 20.0
_TRUST_DOMAIN = "mesh.local"
_CALLER = f"spiffe://{_TRUST_DOMAIN}/agent/orders"
_AGENT = f"spiffe://{_TRUST_DOMAIN}/agent/data"

_INBOUND = """\
node: {{name: data}}
admin: {{bind: 127.0.0.1:0}}
listeners:
  - name: inbound
    direction: inbound
    bind: 127.0.0.1:0
    tls: {{certificate: certs/data.crt, private_key: certs/data.key, trusted_ca: certs/ca.crt, client_certificate: require}}
    limits: {{max_message: 1MiB}}
    policies:
      deadline: {{default: 30s, max: 5m, idle: 1m}}
    routes:
      - {{name: agent, match: {{method: "/agent.v1.AgentService/*"}}, to: local}}
      - {{name: reflection, match: {{method: "/grpc.reflection.*"}}, to: local}}
      - {{name: health, match: {{method: "/grpc.health.v1.Health/*"}}, to: local}}
clusters:
  local: {{endpoints: ["{agent}"]}}
"""

_OUTBOUND = """\
node: {{name: orders}}
admin: {{bind: 127.0.0.1:0}}
listeners:
  - name: outbound
    direction: outbound
    bind: 127.0.0.1:0
    limits: {{max_message: 1MiB}}
    routes:
      - {{name: data-agent, match: {{method: "/*"}}, to: data-agent}}
clusters:
  data-agent:
    endpoints: ["{inbound}"]
    tls: {{certificate: certs/orders.crt, private_key: certs/orders.key, trusted_ca: certs/ca.crt,
          peer_identities: ["{identity}"]}}
"""


class NotAsAnnounced(Exception):
    """Something did not come out as the demo says it does."""


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  sidecar demo\n"
        "  sidecar demo --live          # stays up until Ctrl-C\n"
        "  sidecar demo --folder .demo  # keeps certificates, configuration and logs there\n\n"
        "Exit codes: 0 everything came out as announced, 1 something did not, 2 wrong usage."
    ),
)
@click.option("--live", is_flag=True, help="Stay up after the calls, until Ctrl-C.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Keep everything in this folder.")
def demo(*, live: bool, folder: Path | None) -> None:
    """An agent, two sidecars with mTLS, and real RPCs, allowed and refused, on this machine."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    temporary = None
    if folder is None:
        temporary = Path(tempfile.mkdtemp(prefix="sidecar-demo-"))
    place = folder or temporary
    assert place is not None
    place.mkdir(parents=True, exist_ok=True)
    try:
        asyncio.run(_run(place, live=live))
    except NotAsAnnounced as problem:
        click.echo(f"\nNOT AS ANNOUNCED: {problem}", err=True)
        for log in sorted(place.glob("*.log")):
            click.echo(f"--- {log.name}\n{log.read_text()[-3000:]}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("stopped")
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


async def _run(place: Path, *, live: bool) -> None:
    began = time.monotonic()
    stage = _Stage(place)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(stage.stop)
        await _set_up(stage)
        await _calls(stage)
        await _refusals(stage)
        await _rotation(stage)
        _numbers(stage)
        await _versions(stage)
        if live:
            await _stay(stage)
        else:
            await _leave(stage)
    click.echo(f"\nEverything came out as announced, in {time.monotonic() - began:.1f} s.")


# ── the stage ──


@dataclass
class _Process:
    name: str
    process: asyncio.subprocess.Process
    log: Path


class _Stage:
    """The processes of the demo and where they listen."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.processes: list[_Process] = []
        self.agent = ""
        self.inbound = ""
        self.outbound = ""
        self.admin: dict[str, str] = {}

    async def start(self, name: str, arguments: list[str], is_ready: Callable[[str], Any]) -> Any:
        """Start a process and wait until a line of its log makes `is_ready` give something."""
        log = self.place / f"{name}.log"
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(*arguments, cwd=self.place, stdout=out, stderr=out)
        self.processes.append(_Process(name, process, log))
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            for line in log.read_text().splitlines():
                found = is_ready(line)
                if found:
                    return found
            if process.returncode is not None:
                raise NotAsAnnounced(f"{name} ended with exit code {process.returncode}")
            await asyncio.sleep(0.02)
        raise NotAsAnnounced(f"{name} was not ready in {_START_TIMEOUT:.0f} s")

    async def stop(self) -> None:
        for each in reversed(self.processes):
            if each.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    each.process.send_signal(signal.SIGTERM)
        for each in self.processes:
            try:
                await asyncio.wait_for(each.process.wait(), 10)
            except TimeoutError:
                each.process.kill()
                await each.process.wait()


def _step(text: str) -> None:
    click.secho(f"\n▸ {text}", bold=True)


def _shown(text: str) -> None:
    click.echo(f"  {text}")


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise NotAsAnnounced(what)


async def _set_up(stage: _Stage) -> None:
    _step("A development CA, and a certificate for each of two agents")
    certs = stage.place / "certs"
    for arguments in (
        ["ca", "--out", "certs", "--trust-domain", _TRUST_DOMAIN, "--force"],
        ["issue", "orders", "--ca", "certs", "--out", "certs", "--id", _CALLER, "--force"],
        ["issue", "data", "--ca", "certs", "--out", "certs", "--id", _AGENT, "--force"],
    ):
        await _command(stage, ["certs", *arguments])
    _expect((certs / "data.key").stat().st_mode & 0o777 == 0o600, "private keys are not 0600")
    _shown(f"{_CALLER}")
    _shown(f"{_AGENT}")

    _step("The data agent, in clear text on loopback; its sidecar in front of it; the caller's sidecar")
    stage.agent = await _agent(stage, "agent", "v1")
    (stage.place / "inbound.yaml").write_text(_INBOUND.format(agent=stage.agent))
    stage.inbound = await _sidecar(stage, "inbound")
    (stage.place / "outbound.yaml").write_text(_OUTBOUND.format(inbound=stage.inbound, identity=_AGENT))
    stage.outbound = await _sidecar(stage, "outbound")
    _shown(f"caller ──▶ {stage.outbound} ══mTLS══▶ {stage.inbound} ──▶ {stage.agent}")


async def _agent(stage: _Stage, name: str, version: str) -> str:
    """Start an agent of this version; where it listens."""
    ready = "agent-server ready "
    address: str = await stage.start(
        name, agent_command(version), lambda line: line.removeprefix(ready) if line.startswith(ready) else None
    )
    return address


async def _sidecar(stage: _Stage, name: str) -> str:
    def ready(line: str) -> dict[str, Any] | None:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if entry.get("event") == "ready":
                return dict(entry)
        return None

    entry = await stage.start(name, [sys.executable, "-m", "sidecar", "run", "-c", f"{name}.yaml"], ready)
    stage.admin[name] = entry["admin"]
    return str(entry["listeners"][name])


async def _command(stage: _Stage, arguments: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sidecar",
        *arguments,
        cwd=stage.place,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    if process.returncode != 0:
        raise NotAsAnnounced(f"sidecar {' '.join(arguments)}: {errors.decode().strip()}")


# ── what is shown ──


async def _calls(stage: _Stage) -> None:
    from clients.python.client import AgentClient
    from clients.python.results import Result

    async with AgentClient(stage.outbound, agent="data") as client:
        _step("Unary: create a table and put two rows in")
        await client.execute("execute", {"sql": "CREATE TABLE invoices (id INTEGER PRIMARY KEY, amount REAL)"})
        done = await client.execute(
            "execute", {"sql": "INSERT INTO invoices (id, amount) VALUES (?, ?)", "many": [[1, 120.5], [2, 80.0]]}
        )
        _shown(json.dumps(done.output))

        _step("Client streaming: 2,000 records, one of them unusable")
        rows = ({"id": i, "amount": i / 10 if i != 500 else "much"} for i in range(3, 2003))
        summary = await client.ingest(rows, {"table": "invoices"}, id_field="id")
        _shown(f"received {summary.received}, written {summary.written}, rejected {summary.rejected}")
        for rejected in summary.rejected_records:
            _shown(f"  record {rejected.record_id}: {rejected.message}")
        _expect((summary.received, summary.rejected) == (2000, 1), "one record of 2,000 is rejected")

        _step("Server streaming: a query with its progress, page by page")
        events = [
            event
            async for event in client.stream(
                "query", {"sql": "SELECT * FROM invoices", "limit": 5000, "page_size": 500}
            )
        ]
        for kind in dict.fromkeys(type(event).__name__ for event in events):
            _shown(f"{sum(type(event).__name__ == kind for event in events)} × {kind}")
        _expect(isinstance(events[-1], Result), "the last event is the result")

        _step("Bidirectional: a conversation of three turns, answered in order")
        answers = [answer async for answer in client.converse(_turns())]
        for answer in answers:
            _shown(json.dumps(answer.result.rows() if answer.result is not None else str(answer.failure)))
        _expect(len(answers) == 3, "three turns get three answers")


async def _turns() -> AsyncIterator[Any]:
    from clients.python.results import Turn

    for sql in ("SELECT count(*) AS n FROM invoices", "SELECT max(amount) AS most FROM invoices", "SELECT 1 AS one"):
        yield Turn(operation="query", parameters={"sql": sql}, agent="data")


async def _refusals(stage: _Stage) -> None:
    import grpc

    from clients.python.client import AgentClient, TlsFiles
    from clients.python.failure import CallFailure

    certs = stage.place / "certs"

    async def refused(what: str, call: Callable[[], Any], code: grpc.StatusCode, reason: str) -> None:
        _step(what)
        try:
            await call()
        except CallFailure as failure:
            _shown(str(failure).splitlines()[0])
            _expect(failure.code is code, f"{code.name} was announced, {failure.code.name} came: {failure.message}")
            _expect(failure.reason == reason, f"reason {reason!r} was announced, {failure.reason!r} came")
        else:
            raise NotAsAnnounced("the call was allowed")

    _step("Refused: a caller without a certificate, straight at the inbound sidecar")
    channel = grpc.aio.secure_channel(stage.inbound, grpc.ssl_channel_credentials((certs / "ca.crt").read_bytes()))
    try:
        await asyncio.wait_for(_plain(channel, "/agent.v1.AgentService/Describe"), 10)
        raise NotAsAnnounced("a caller without a certificate was let in")
    except grpc.aio.AioRpcError as error:
        _shown(f"{error.code().name}: the TLS handshake was refused")
        _expect(error.code() is grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE was announced")
    finally:
        await channel.close(None)

    async with AgentClient(stage.outbound, agent="data") as client:
        await refused(
            "Refused: a method that no route is for",
            lambda: _raw(stage.outbound, "/admin.v1.Secrets/Dump"),
            grpc.StatusCode.UNIMPLEMENTED,
            "NO_ROUTE",
        )
        await refused(
            "Refused: a message over the limit of 1 MiB",
            lambda: client.execute("query", {"sql": "SELECT 1 -- " + "x" * 2_000_000}),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "MESSAGE_TOO_LARGE",
        )
        slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n"
        _step("Ended: an endless query, by its caller's deadline of 300 ms, which reached the agent")
        try:
            await client.execute("query", {"sql": slow}, timeout=0.3)
            raise NotAsAnnounced("the endless query ended")
        except CallFailure as failure:
            _shown(failure.code.name)
            _expect(failure.code is grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED was announced")

        _step("Not believed: a caller that says who it is in metadata")
        described = await client.describe(metadata=[("x-sidecar-identity", "spiffe://mesh.local/agent/admin")])
        _shown(f"the call passes as {_CALLER}; the agent never sees the claim")
        _expect(bool(described), "Describe answers")

    direct = TlsFiles(certs / "ca.crt", certs / "orders.crt", certs / "orders.key")
    async with AgentClient(stage.inbound, tls=direct, agent="data") as client:
        await client.describe()


async def _raw(target: str, method: str) -> None:
    import grpc

    from clients.python.ending import Ending

    async with grpc.aio.insecure_channel(target) as channel:
        with Ending():
            await _plain(channel, method)


async def _plain(channel: Any, method: str) -> None:
    """A call with an empty message, bytes as they are."""
    await channel.unary_unary(method)(b"", timeout=5)


async def _rotation(stage: _Stage) -> None:
    from clients.python.client import AgentClient

    _step("Certificates rotate while calls run: none fails")
    before = _admin(stage, "inbound", "/certs")
    calls = 0
    async with AgentClient(stage.outbound, agent="data") as client:
        for name, identity in (("data", _AGENT), ("orders", _CALLER)):
            await _command(
                stage, ["certs", "issue", name, "--ca", "certs", "--out", "certs", "--id", identity, "--force"]
            )
        deadline = time.monotonic() + 10
        while _admin(stage, "inbound", "/certs") == before and time.monotonic() < deadline:
            await client.execute("query", {"sql": "SELECT 1"})
            calls += 1
        for _ in range(50):
            await client.execute("query", {"sql": "SELECT 1"})
            calls += 1
    _expect(_admin(stage, "inbound", "/certs") != before, "the new certificate is in use")
    _shown(f"{calls} calls, 0 failed; /certs shows the new certificate")


def _admin(stage: _Stage, name: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{stage.admin[name]}{path}", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def _numbers(stage: _Stage) -> None:
    _step("What the inbound sidecar counted")
    lines = [
        line
        for line in _admin(stage, "inbound", "/metrics").splitlines()
        if line.startswith("sidecar_rpcs_total") and "AgentService" in line
    ]
    for line in lines:
        labels = dict(part.split("=", 1) for part in line[line.index("{") + 1 : line.index("}")].split(","))
        plain = {key: value.strip('"') for key, value in labels.items()}
        count = float(line.rsplit(" ", 1)[1])
        _shown(f"{plain['grpc_method']:14} {plain['grpc_code']:18} {count:5.0f}  {plain['reason']}")
    _expect(bool(lines), "the metrics show the calls")


async def _versions(stage: _Stage) -> None:
    async def start_sidecar(name: str) -> tuple[str, str]:
        return await _sidecar(stage, name), stage.admin[name]

    await show_rollouts(
        stage.place,
        stage.agent,
        start_agent=lambda name, version: _agent(stage, name, version),
        start_sidecar=start_sidecar,
        step=_step,
        shown=_shown,
        expect=_expect,
    )


async def _leave(stage: _Stage) -> None:
    _step("SIGTERM: both sidecars and the agent leave without losing a call")
    for each in reversed(stage.processes):
        each.process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(each.process.wait(), 15)
        _shown(f"{each.name}: exit code {code}")
        _expect(code == 0, f"{each.name} leaves with exit code 0")


async def _stay(stage: _Stage) -> None:
    python = Path(sys.executable).name
    _step("Live, until Ctrl-C")
    _shown(f'call:     {python} -m clients.python --target {stage.outbound} execute query \'{{"sql": "SELECT 42"}}\'')
    _shown(f"grpcurl:  grpcurl -plaintext {stage.outbound} list")
    for name, address in stage.admin.items():
        _shown(f"{name:9} dashboard http://{address}/   terminal: sidecar status --watch --admin {address}")
    _shown(f"folder:   {stage.place}")
    _shown("a little traffic of every kind runs, so that there is something to see")
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    traffic = asyncio.ensure_future(_traffic(stage))
    await stopped.wait()
    traffic.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await traffic


async def _traffic(stage: _Stage) -> None:
    """Until cancelled: reads and writes, a stream now and then, and what is refused or comes too late."""
    from clients.python.client import AgentClient
    from clients.python.failure import CallFailure

    chance = random.Random()
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 3000000) SELECT count(*) FROM n"

    async def stream(client: AgentClient) -> None:
        async for _ in client.stream("query", {"sql": "SELECT * FROM invoices", "limit": 500, "page_size": 100}):
            pass

    async with AgentClient(stage.outbound, agent="data") as client:
        kinds: list[tuple[float, Callable[[], Any]]] = [
            (70, lambda: client.execute("query", {"sql": "SELECT count(*) FROM invoices"})),
            (20, lambda: client.execute("query", {"sql": "SELECT * FROM invoices LIMIT 50"})),
            (6, lambda: stream(client)),
            (2, lambda: client.execute("query", {"sql": slow}, timeout=0.1)),
            (2, lambda: _raw(stage.outbound, "/admin.v1.Secrets/Dump")),
        ]
        while True:
            (kind,) = chance.choices([each for _, each in kinds], [weight for weight, _ in kinds])
            with contextlib.suppress(CallFailure):
                await kind()
            await asyncio.sleep(chance.expovariate(12))
