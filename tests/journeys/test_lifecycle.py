"""A sidecar's life: what it says of itself, what it refuses to be told, agents that go and come, callers without a name."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.grpc_wire.details import ErrorInfo, RetryInfo, decode_status
from sidecar.grpc_wire.metadata import decode_binary
from sidecar.http2.connection import Limits
from tests.journeys.agent_process import AgentProcess
from tests.journeys.pair import Pair
from tests.journeys.raw import Exchange, RawAgent, RawCaller
from tests.journeys.test_rotation_and_drain import Load, echo, until
from tests.support.pki import Pki
from tests.support.processes import Sidecar

TOKEN = "s3cret-admin-token-0123"


def simple(endpoint: str, extra: str = "", *, admin: str = '{bind: "127.0.0.1:0"}', method: str = "/*") -> str:
    return f"""
admin: {admin}
listeners:
  - {{name: app, direction: outbound, bind: "127.0.0.1:0", routes: [{{name: all, match: {{method: "{method}"}}, to: local}}]}}
clusters:
  local: {{endpoints: ["{endpoint}"]}}
{extra}"""


def details(stream: Exchange) -> dict[type, Any]:
    status = decode_status(decode_binary((stream.seen.value("grpc-status-details-bin") or "").encode())[0])
    return {type(each): each for each in status.details}


# ── admin ──


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Nobody calls through it; it is asked about itself."""
    with Pair(tmp_path_factory.mktemp("pair"), "127.0.0.1:1") as made:
        yield made


def test_probes(pair: Pair) -> None:
    assert pair.inbound.get("/livez") == (200, "ok\n")
    assert pair.inbound.get("/readyz") == (200, "ok\n")
    status, body = pair.inbound.get("/readyz?verbose")
    assert status == 200
    assert "[+] state: ready" in body
    assert "[+] listener inbound: 127.0.0.1:" in body
    assert f"[+] certificate {pair.server.certificate}: " in body
    assert "days left" in body
    assert "[+] configuration: generation 1" in body


def test_views(pair: Pair) -> None:
    config = json.loads(pair.inbound.get("/config")[1])
    assert config["generation"] == 1
    assert config["config"]["listeners"][0]["name"] == "inbound"
    (listener,) = json.loads(pair.inbound.get("/listeners")[1])
    assert (listener["name"], listener["address"]) == ("inbound", pair.direct)
    assert [route["name"] for route in listener["routes"]] == ["all", "(no route)"]
    (cluster,) = json.loads(pair.inbound.get("/clusters")[1])
    assert cluster["endpoints"][0]["address"] == "127.0.0.1:1"
    assert not cluster["endpoints"][0]["ready"]
    assert cluster["endpoints"][0]["last_error"] == "connection refused"
    (context,) = json.loads(pair.inbound.get("/certs")[1])
    assert "spiffe://mesh.local/agent/server" in json.dumps(context)
    status, page = pair.inbound.get("/metrics")
    assert status == 200
    assert "# TYPE sidecar_rpcs_total counter" in page
    assert "sidecar_config_generation 1" in page


def test_no_view_shows_a_key(pair: Pair) -> None:
    key = pair.server.private_key.read_text().splitlines()[1]
    for path in ("/config", "/certs", "/listeners", "/clusters", "/metrics", "/readyz?verbose", "/"):
        assert key not in pair.inbound.get(path)[1]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/config", 405),
        ("POST", "/livez", 405),
        ("PUT", "/drain", 501),
        ("GET", "/../etc/passwd", 404),
    ],
)
def test_what_is_not_there(pair: Pair, method: str, path: str, status: int) -> None:
    assert pair.inbound.request(method, path)[0] == status


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9901", "localhost.evil.example", "", "10.0.0.1"])
def test_names_that_are_not_ours_are_refused(pair: Pair, host: str) -> None:
    """A page of another site must not reach the admin address by a name of its own (DNS rebinding)."""
    assert pair.inbound.get("/config", {"host": host})[0] == 403
    assert pair.inbound.request("POST", "/drain", {"host": host})[0] == 403
    assert pair.inbound.get("/livez", {"host": host})[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1"])
def test_pages_of_another_origin_change_nothing(pair: Pair, origin: str) -> None:
    assert pair.inbound.request("POST", "/drain", {"origin": origin})[0] == 403
    assert pair.inbound.get("/readyz")[0] == 200


def test_a_look_at_drain_drains_nothing(pair: Pair) -> None:
    assert json.loads(pair.inbound.get("/drain")[1]) == {"state": "ready", "active_calls": 0}
    assert pair.inbound.get("/readyz")[0] == 200


def test_post_drain_ends_it(tmp_path: Path) -> None:
    with Sidecar(simple("127.0.0.1:1"), tmp_path) as sidecar:
        status, body = sidecar.request("POST", "/drain")
        assert status == 200
        assert json.loads(body)["state"] == "draining"
        assert sidecar.wait() == 0


def test_a_token_is_asked_for_and_never_shown(tmp_path: Path) -> None:
    config = simple("127.0.0.1:1", admin=f'{{bind: "127.0.0.1:0", token: "{TOKEN}"}}')
    with Sidecar(config, tmp_path) as sidecar:
        assert sidecar.get("/livez")[0] == 200
        assert sidecar.get("/readyz")[0] == 200
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"authorization": "Basic x"}):
            assert sidecar.get("/config", headers)[0] == 401
            assert sidecar.request("POST", "/drain", headers)[0] == 401
        status, body = sidecar.get("/config", {"authorization": f"Bearer {TOKEN}"})
        assert status == 200
        assert TOKEN not in body
        assert TOKEN not in sidecar.text


# ── reload ──


def test_a_configuration_that_is_rejected_changes_nothing(tmp_path: Path) -> None:
    with Sidecar(simple("127.0.0.1:1"), tmp_path) as sidecar:
        good = sidecar.path.read_text()
        sidecar.path.write_text(good.replace("direction: outbound", "direction: outwards"))
        sidecar.signal(signal.SIGHUP)
        rejected = sidecar.wait_for_log(
            lambda line: line.get("event") == "configuration rejected, the former one stays"
        )
        assert f"{sidecar.path}:4:" in rejected["cause"]
        assert "outwards" in rejected["cause"]
        status, body = sidecar.get("/readyz?verbose")
        assert status == 200, "a bad file must not take a good sidecar out of service"
        assert "generation 1; rejected: " in body
        assert json.loads(sidecar.get("/config")[1])["generation"] == 1
        assert 'sidecar_config_reloads_total{result="rejected"} 1' in sidecar.get("/metrics")[1]
        # What cannot change while it runs is refused, too, by name.
        sidecar.path.write_text(good.replace("name: app", "name: other"))
        sidecar.signal(signal.SIGHUP)
        sidecar.wait_for_log(lambda line: "needs a restart" in str(line.get("cause")))
        sidecar.path.write_text(good + "\npolicies: {deadline: {default: 5s}}\n")
        sidecar.signal(signal.SIGHUP)
        accepted = sidecar.wait_for_log(lambda line: line.get("event") == "configuration accepted")
        assert accepted["generation"] == 2
        assert "rejected" not in sidecar.get("/readyz?verbose")[1]


async def test_a_reload_is_noticed_without_a_signal_and_taken_once(tmp_path: Path) -> None:
    async with RawAgent(echo) as agent:
        sidecar = Sidecar(simple(agent.address, method="/test.Service/Method"), tmp_path)
        await asyncio.to_thread(sidecar.start)
        try:
            async with await RawCaller.connect(sidecar.addresses["app"]) as caller:
                assert (await caller.call()).seen.status == 0
                assert (await caller.call(path="/test.Service/Other")).seen.status == 12
                sidecar.path.write_text(simple(agent.address, method="/test.Service/Other"))
                await until(lambda: json.loads(sidecar.get("/config")[1])["generation"] == 2)
                # The same connection, the new routes.
                assert (await caller.call()).seen.status == 12
                assert (await caller.call(path="/test.Service/Other")).seen.status == 0
        finally:
            await asyncio.to_thread(sidecar.stop)
        accepted = [line for line in sidecar.log() if line.get("event") == "configuration accepted"]
        assert len(accepted) == 1


# ── agents that go and come ──


async def test_an_endpoint_that_is_down_and_comes_back(tmp_path: Path) -> None:
    agent = await RawAgent(echo).start()
    address = agent.address
    agent.stop()
    sidecar = Sidecar(simple(address), tmp_path)
    await asyncio.to_thread(sidecar.start)
    try:
        await until(lambda: json.loads(sidecar.get("/clusters")[1])[0]["endpoints"][0]["last_error"] is not None)
        async with await RawCaller.connect(sidecar.addresses["app"]) as caller:
            refused = await caller.call()
            assert refused.seen.status == 14
            found = details(refused)
            assert found[ErrorInfo].reason == "UPSTREAM_LOST"
            assert found[ErrorInfo].metadata["cause"] == "connection refused"
            assert found[ErrorInfo].metadata["endpoint"] == address
            assert found[RetryInfo].seconds >= 0
            assert refused.seen.value("x-sidecar-origin") == "sidecar"
            async with await RawAgent(echo).start(address):
                await until(lambda: json.loads(sidecar.get("/clusters")[1])[0]["endpoints"][0]["ready"])
                for _ in range(5):
                    assert (await caller.call()).seen.status == 0
    finally:
        await asyncio.to_thread(sidecar.stop)
    said = [line["event"] for line in sidecar.log() if str(line.get("event")).startswith("upstream")]
    # Each change once, not each try; at the end the agent has gone again.
    assert said[:2] == ["upstream unreachable", "upstream reachable"]
    assert len(said) <= 3


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_an_agent_restarted_under_traffic(tmp_path: Path, how: signal.Signals) -> None:
    """A graceful stop, and a crash: callers see UNAVAILABLE of the sidecar's making while it is away, and nothing stays broken."""
    from agent_server.service.api import agent_pb2

    body = agent_pb2.ExecuteRequest(task="SELECT 1").SerializeToString()
    with AgentProcess() as agent:
        async with Pair(tmp_path, agent.address) as pair:
            load = Load(pair.address, 200, path="/agent.v1.AgentService/Execute", body=body)
            await load.start()
            await load.until(50)
            await asyncio.to_thread(agent.stop, how)
            await load.until_word("14 ")
            await asyncio.to_thread(agent.start)
            await load.until(50)
            await load.finish()
            assert all(word == "ok" or word.startswith("14 ['UPSTREAM_LOST'") for word in load.done), (
                load.done,
                load.odd,
            )
            assert json.loads(pair.inbound.get("/drain")[1])["active_calls"] == 0


async def test_an_agent_that_takes_one_stream_at_a_time(tmp_path: Path) -> None:
    """MAX_CONCURRENT_STREAMS: the others wait their turn, and each turn comes."""
    async with RawAgent(echo, limits=Limits(max_concurrent_streams=1)) as agent:
        sidecar = Sidecar(simple(agent.address), tmp_path)
        await asyncio.to_thread(sidecar.start)
        try:
            async with await RawCaller.connect(sidecar.addresses["app"]) as caller:
                streams = [caller.open(body=b"%d" % i, end=True) for i in range(30)]
                for stream in streams:
                    await stream.over()
                    assert stream.seen.status == 0
        finally:
            await asyncio.to_thread(sidecar.stop)


# ── callers ──


async def test_who_is_not_let_in(tmp_path: Path) -> None:
    async with RawAgent(echo) as agent, Pair(tmp_path, agent.address) as pair:
        foreign = Pki(tmp_path / "foreign", "foreign").leaf("client")
        expired = pair.pki.expired("late")
        for leaf in (None, foreign, expired):
            with pytest.raises((ConnectionError, ssl.SSLError, OSError)):
                caller = await RawCaller.connect(pair.direct, leaf=leaf, ca=pair.pki.ca)
                # With TLS 1.3 the caller is done before the listener has judged.
                await asyncio.wait_for(caller.lost.wait(), 10)
                raise ConnectionResetError
        assert agent.streams == []
        await until(lambda: json.loads(pair.inbound.get("/listeners")[1])[0]["handshakes_failed"] >= 3)
        # Clear text where TLS is spoken, and the other way round.
        with pytest.raises((ConnectionError, TimeoutError, OSError)):
            await RawCaller.connect(pair.direct)
        with pytest.raises((ConnectionError, ssl.SSLError, OSError)):
            await RawCaller.connect(pair.address, leaf=pair.client)
        async with await RawCaller.connect(pair.direct, leaf=pair.client) as caller:
            answer = await caller.call()
            assert answer.seen.status == 0
        assert agent.streams[-1].seen.value("x-sidecar-identity") == "spiffe://mesh.local/agent/client"


async def test_a_server_that_is_not_the_one_that_was_named(tmp_path: Path) -> None:
    """peer_identities: a valid certificate of our own CA, but of somebody else."""
    async with RawAgent(echo) as agent:
        pair = Pair(tmp_path, agent.address)
        pair.server = pair.pki.leaf("somebody-else")
        pair.inbound.path.write_text(pair.inbound_config())
        async with pair:
            async with await RawCaller.connect(pair.address) as caller:
                await until(lambda: json.loads(pair.outbound.get("/clusters")[1])[0]["endpoints"][0]["last_error"])
                refused = await caller.call()
                assert refused.seen.status == 14
                assert "somebody-else" in details(refused)[ErrorInfo].metadata["cause"]
        assert agent.streams == []
