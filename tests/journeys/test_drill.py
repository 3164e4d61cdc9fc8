"""`sidecar drill`: every drill against a running sidecar, judged by what its callers saw; and it ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.journeys.pair import Pair
from tests.journeys.raw import LIMIT, RawAgent, RawCaller
from tests.support.pki import Leaf
from tests.support.processes import ROOT, Sidecar
from tests.support.wire import RESPONSE, ScriptedStream, block

CONFIG = """
admin: {{bind: 127.0.0.1:0{token}}}
{top}
listeners:
  - name: inbound
    direction: inbound
    bind: 127.0.0.1:0
    routes: [{{name: all, match: {{method: "/*"}}, to: local, idempotent: true, policies: {{{policies}}}}}]
clusters:
  local: {{endpoints: [{endpoints}]}}
"""
AGENT = """
import sys
from concurrent import futures

import grpc

server = grpc.server(futures.ThreadPoolExecutor(4))
echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Service", {"Method": echo})])
server.add_insecure_port(sys.argv[1])
server.start()
server.wait_for_termination()
"""
RETRY = (
    "retry: {max_attempts: 5, initial_backoff: 10ms, max_backoff: 20ms, budget: {percent: 100, min_per_second: 100}}"
)


def config(*endpoints: str, policies: str = "", top: str = "", token: str = "") -> str:
    quoted = ", ".join(f'"{each}"' for each in endpoints)
    return CONFIG.format(endpoints=quoted, policies=policies, top=top, token=token)


def serve(stream: ScriptedStream, event: str) -> None:
    if event == "end":
        stream.send_headers(block(*RESPONSE))
        stream.send_data(bytes(stream.seen.data), False)
        stream.send_trailers(block(("grpc-status", "0")))


@contextlib.asynccontextmanager
async def traffic(address: str, leaf: Leaf | None = None) -> AsyncIterator[Counter[int | None]]:
    """Callers that call one after the other all the time, about 100 RPCs a second; what became of them."""
    seen: Counter[int | None] = Counter()
    stopping = asyncio.Event()

    async def call_on() -> None:
        async with await RawCaller.connect(address, leaf=leaf) as caller:
            while not stopping.is_set():
                seen[(await caller.call()).seen.status] += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), 0.02)

    callers = [asyncio.create_task(call_on()) for _ in range(2)]
    try:
        yield seen
    finally:
        stopping.set()
        await asyncio.gather(*callers)


async def drill(sidecar: Sidecar, name: str, *arguments: str, expected: int = 0) -> dict[str, Any]:
    """What `sidecar drill NAME` found."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar", "drill", name, "--admin", sidecar.admin, "--json",
        "--before", "600ms", "--for", "800ms", "--recover", "30s",
        # A busy machine is no verdict on the sidecar.
        "--min-rpcs", "5", "--max-latency", "1m", *arguments,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == expected, f"{out.decode()}{err.decode()}\n{sidecar.text}"
    found: dict[str, Any] = json.loads(out) if out else {"error": err.decode()}
    return found


def held(found: dict[str, Any]) -> dict[str, bool]:
    return {each["name"]: each["holds"] for each in found["checks"]}


async def test_errors_and_latency_in_front_of_an_agent(tmp_path: Path) -> None:
    async with RawAgent(serve, keeps=False) as agent:
        with Sidecar(config(agent.address), tmp_path) as sidecar:
            async with traffic(sidecar.addresses["inbound"]) as seen:
                found = await drill(sidecar, "errors", "--percent", "40", "--status", "ABORTED")
                assert found["what"] == "40 % of the RPCs fail with ABORTED on inbound/all"
                assert found["during"]["failures"].keys() == {"Aborted FAULT_INJECTED"}
                assert found["before"]["succeeded_percent"] == 100
                assert 10 < found["during"]["succeeded_percent"] < 95
                found = await drill(sidecar, "latency", "--percent", "50", "--delay", "100ms")
                assert found["during"]["p99_seconds"] >= 0.1
            assert seen.keys() == {0, 10}
            events = [
                (line["event"], line["drill"]) for line in sidecar.log() if line.get("event", "").startswith("drill ")
            ]
            assert events == [(f"drill {word}", name) for name in ("errors", "latency") for word in ("begins", "ends")]


async def test_callers_of_a_pair_are_served_through_their_sidecars_retries(tmp_path: Path) -> None:
    async with RawAgent(serve, keeps=False) as agent, Pair(tmp_path, agent.address) as pair:
        retrying = pair.outbound_config().replace(
            'match: {method: "/*"}', f'idempotent: true, policies: {{{RETRY}}}, match: {{method: "/*"}}'
        )
        pair.outbound.stop()
        pair.outbound = Sidecar(retrying, tmp_path, name="outbound")
        await asyncio.to_thread(pair.outbound.start)
        async with traffic(pair.address) as seen:
            found = await drill(pair.inbound, "errors", "--percent", "10", "--callers", pair.outbound.admin)
            assert found["during"]["succeeded_percent"] >= 99
            expired = await drill(pair.inbound, "cert-expiry")
            assert expired["during"]["failures"].keys() == {"Unauthenticated IDENTITY_UNUSABLE"}
            assert held(expired)["nobody with an expired certificate is served"]
        assert seen.keys() == {0, 16}


async def test_without_retries_callers_feel_it_and_the_verdict_says_so(tmp_path: Path) -> None:
    async with RawAgent(serve, keeps=False) as agent, Pair(tmp_path, agent.address) as pair:
        async with traffic(pair.address):
            found = await drill(pair.inbound, "errors", "--callers", pair.outbound.admin, expected=1)
        assert not found["passed"]
        assert {name for name, holds in held(found).items() if not holds} == {"callers are served"}


async def test_the_agent_crashes_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(AGENT)
    address = f"unix:{tmp_path}/agent.sock"
    command = json.dumps([sys.executable, str(tmp_path / "agent.py"), address])
    top = f"agent: {{command: {command}, recovery: {{crash: {{backoff: {{initial: 100ms, max: 1s}}}}}}}}"
    with Sidecar(config(address, top=top), tmp_path) as sidecar:
        former = json.loads(sidecar.get("/agent")[1])["pid"]
        async with traffic(sidecar.addresses["inbound"]) as seen:
            found = await drill(sidecar, "agent-crash", "--min-rpcs", "5")
        assert found["what"] == f"the agent (pid {former}) was killed"
        assert seen.keys() <= {0, 14}
        again = json.loads(sidecar.get("/agent")[1])
        assert again["serving"]
        assert again["pid"] != former
        assert [each["symptom"] for each in again["recoveries"]] == ["crash"]


async def test_the_store_is_lost_and_the_network_parted(tmp_path: Path) -> None:
    limit = "rate_limit: [{name: all, rate: 100000/1s, scope: shared, per: [method], on_store_error: deny}]"
    async with RawAgent(serve, keeps=False) as one, RawAgent(serve, keeps=False) as two:
        text = config(one.address, two.address, policies=f"{limit}, {RETRY}", top='store: {url: "memory://"}')
        with Sidecar(text, tmp_path) as sidecar:
            async with traffic(sidecar.addresses["inbound"]):
                found = await drill(sidecar, "store-loss")
                assert found["during"]["failures"].keys() == {"Unavailable STORE_UNAVAILABLE"}
                # Half of a cluster: the other half serves.
                found = await drill(sidecar, "partition", "--endpoint", two.address, "--min-success", "99")
                assert found["what"] == f"{two.address} cannot be reached"
                # All of it: refused at once, and why.
                found = await drill(sidecar, "partition")
                assert found["during"]["failures"].keys() <= {
                    "Unavailable NO_HEALTHY_ENDPOINT",
                    "Unavailable UPSTREAM_LOST",
                }
                assert found["after"]["succeeded_percent"] > 0


async def test_all_workers_are_disturbed_and_judged_together(tmp_path: Path) -> None:
    async with RawAgent(serve, keeps=False) as agent:
        text = config(agent.address, top='workers: 2\nstore: {url: "sqlite:///./state.db"}')
        with Sidecar(text, tmp_path) as sidecar:
            async with contextlib.AsyncExitStack() as stack:
                # Enough connections that either worker has some.
                for _ in range(3):
                    await stack.enter_async_context(traffic(sidecar.addresses["inbound"]))
                found = await drill(sidecar, "errors", "--percent", "100")
                assert found["during"]["succeeded_percent"] < 60
                assert found["after"]["succeeded_percent"] > 0
            for worker in (1, 2):
                last = json.loads(sidecar.get(f"/drill?worker={worker}")[1])["last"]
                assert (last["name"], last["ended"]) == ("errors", "its time is over")


async def test_a_drill_ends_by_itself_when_its_command_is_gone(tmp_path: Path) -> None:
    async with RawAgent(serve, keeps=False) as agent:
        with Sidecar(config(agent.address, token=", token: let-me-in-please-do"), tmp_path) as sidecar:
            start = "/drill/start?name=errors&percent=100&for=1s"
            assert sidecar.request("POST", start)[0] == 401
            secret = {"authorization": "Bearer let-me-in-please-do"}
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "sidecar", "drill", "errors", "--percent", "100", "--before", "0s", "--for", "2s",
                "--admin", sidecar.admin, "--token", "let-me-in-please-do",
                cwd=ROOT, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            await asyncio.to_thread(sidecar.wait_for_log, lambda line: line.get("event") == "drill begins", LIMIT)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            async with await RawCaller.connect(sidecar.addresses["inbound"]) as caller:
                assert (await caller.call()).seen.status == 14
                # One at a time.
                status, said = sidecar.request("POST", start, secret)
                assert (status, said) == (409, "the drill errors runs; one at a time\n")
                ends = await asyncio.to_thread(
                    sidecar.wait_for_log, lambda line: line.get("event") == "drill ends", LIMIT
                )
                assert ends["ended"] == "its time is over"
                assert (await caller.call()).seen.status == 0
                # Told to end, and ended by a reload.
                for why in ("it was told to end", "the configuration was reloaded"):
                    assert sidecar.request("POST", start.replace("1s", "5m"), secret)[0] == 200
                    assert (await caller.call()).seen.status == 14
                    if why.startswith("it"):
                        assert sidecar.request("POST", "/drill/end", secret)[0] == 200
                    else:
                        sidecar.signal(signal.SIGHUP)
                        await asyncio.to_thread(
                            sidecar.wait_for_log, lambda line: line.get("event") == "configuration accepted", LIMIT
                        )
                    assert json.loads(sidecar.get("/drill", secret)[1])["last"]["ended"] == why
                    assert (await caller.call()).seen.status == 0


async def test_what_cannot_be_drilled_is_refused(tmp_path: Path) -> None:
    async with RawAgent(serve, keeps=False) as agent:
        with Sidecar(config(agent.address), tmp_path) as sidecar:
            cases = {
                "name=agent-crash": (409, "no agent is supervised here"),
                "name=store-loss": (409, "no store is configured"),
                "name=cert-expiry": (409, "no caller with a certificate is connected"),
                "name=partition&cluster=other": (409, "no endpoint in cluster other"),
                "name=errors&route=other": (409, "no listener and route is named */other"),
                "name=earthquake": (400, "name: "),
                "name=errors&percent=200": (400, "percent: "),
                "name=errors&percent=many": (400, "percent: is no number"),
                "name=latency&for=1h&delay=0": (400, "for: "),
                "name=errors&whose=mine": (400, "whose: "),
            }
            for query, (expected, beginning) in cases.items():
                status, said = sidecar.request("POST", f"/drill/start?{query}")
                assert status == expected, (query, said)
                assert beginning in said
            assert json.loads(sidecar.get("/drill")[1]) == {"running": None, "last": None}
            found = await drill(sidecar, "errors", "--percent", "100", "--recover", "1s", expected=1)
            assert not held(found)["enough to judge"]
            assert "no agent is supervised" in (await drill(sidecar, "agent-crash", expected=1))["error"]
