"""Several workers on one port: calls spread, counters add up, one dies and the others go on, all drain."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.processes import ROOT, Sidecar

CONFIG = """
node: {{name: many}}
admin: {{bind: 127.0.0.1:0}}
workers: {workers}
store: {{url: "sqlite:///{folder}/shared.db"}}
listeners:
  - name: inbound
    direction: inbound
    bind: {bind}
    routes:
      - name: limited
        match: {{method: /test.Service/Limited}}
        to: local
        policies:
          rate_limit: [{{name: shared, rate: 1/1h, burst: 9, scope: shared}}]
      - {{name: all, match: {{method: "/*"}}, to: local}}
policies:
  audit: {{sink: "file://{folder}/audit.jsonl", record: [calls]}}
clusters:
  local: {{endpoints: ["127.0.0.1:{agent}"]}}
"""
CHANNELS = 24


class Agent:
    """`Unary` and `Limited` answer at once; `Stream` says one word, and the next when the gate opens."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.server = grpc.server(futures.ThreadPoolExecutor(40))
        unary = grpc.unary_unary_rpc_method_handler
        handlers = {
            "Unary": unary(lambda request, _: request),
            "Limited": unary(lambda request, _: request),
            "Stream": grpc.unary_stream_rpc_method_handler(self._stream),
        }
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Service", handlers)])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def _stream(self, _: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"first"
        self.gate.wait(30)
        yield b"second"


@pytest.fixture
def agent() -> Iterator[Agent]:
    agent = Agent()
    yield agent
    agent.gate.set()
    agent.server.stop(None).wait()


def config(folder: Path, agent: Agent, *, workers: int = 2, bind: str = "127.0.0.1:0") -> str:
    return CONFIG.format(folder=folder, agent=agent.port, workers=workers, bind=bind)


class Callers:
    """Channels with a connection of their own each, so that the kernel can share them out."""

    def __init__(self, address: str) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        # Any: the stubs of grpc ask for serializers that messages in bytes do not need.
        self.channels: list[Any] = [grpc.insecure_channel(address, options=options) for _ in range(CHANNELS)]

    def __enter__(self) -> list[Any]:
        return self.channels

    def __exit__(self, *_: object) -> None:
        for each in self.channels:
            each.close()


def call(channel: Any, method: str = "Unary") -> Any:
    return channel.unary_unary(f"/test.Service/{method}").future(b"hello", timeout=20, wait_for_ready=True)


def stream(channel: Any) -> Any:
    return channel.unary_stream("/test.Service/Stream")(b"", timeout=30, wait_for_ready=True)


def workers(sidecar: Sidecar) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(sidecar.get("/workers")[1])["workers"]
    return found


def metric(page: str, text: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(text))


def test_calls_spread_and_counters_add_up(tmp_path: Path, agent: Agent) -> None:
    with Sidecar(config(tmp_path, agent), tmp_path) as sidecar, Callers(sidecar.addresses["inbound"]) as channels:
        for _ in range(5):
            assert {each.code() for each in [call(channel) for channel in channels]} == {grpc.StatusCode.OK}
        status, page = sidecar.get("/metrics")
        assert status == 200
        assert metric(page, "sidecar_rpcs_total{") == 5 * CHANNELS
        assert metric(page, "sidecar_rpc_duration_seconds_count{") == 5 * CHANNELS
        assert metric(page, "grpc_server_handled_total{") == metric(page, "grpc_server_started_total{") == 5 * CHANNELS
        assert metric(page, "sidecar_connections_active{") == CHANNELS
        assert metric(page, 'sidecar_workers{state="ready"}') == 2
        shares = [
            sum(each["accepted"] for each in json.loads(sidecar.get(f"/listeners?worker={number}")[1]))
            for number in (1, 2)
        ]
        assert sum(shares) == CHANNELS
        assert all(shares), shares
        # One chain per worker, and every call in one of them.
        sidecar.stop()
        logs = sorted(tmp_path.glob("audit.worker-*.jsonl"))
        assert [each.name for each in logs] == ["audit.worker-1.jsonl", "audit.worker-2.jsonl"]
        records = [json.loads(line) for each in logs for line in each.read_text().splitlines()]
        assert Counter(each["kind"] for each in records)["call"] == 5 * CHANNELS
        for each in logs:
            command = [sys.executable, "-m", "sidecar", "audit", "verify", str(each)]
            assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_a_shared_limit_holds_across_workers(tmp_path: Path, agent: Agent) -> None:
    with Sidecar(config(tmp_path, agent), tmp_path) as sidecar, Callers(sidecar.addresses["inbound"]) as channels:
        codes = Counter(each.code() for each in [call(channel, "Limited") for channel in channels * 2])
        assert codes == {grpc.StatusCode.OK: 9, grpc.StatusCode.RESOURCE_EXHAUSTED: 2 * CHANNELS - 9}


def test_one_dies_and_is_replaced(tmp_path: Path, agent: Agent) -> None:
    """Its streams end, those of the other one do not; whoever calls again is served."""
    with Sidecar(config(tmp_path, agent), tmp_path) as sidecar, Callers(sidecar.addresses["inbound"]) as channels:
        streams = [stream(channel) for channel in channels]
        assert {next(each) for each in streams} == {b"first"}
        victim, other = workers(sidecar)
        held = sum(each["connections"] for each in json.loads(sidecar.get("/listeners?worker=1")[1]))
        os.kill(victim["pid"], signal.SIGKILL)
        sidecar.wait_for_log(lambda line: is_new(line, {victim["pid"], other["pid"]}))
        later = [call(channel) for channel in channels]
        assert Counter(each.details() for each in later if each.code() != grpc.StatusCode.OK) == {}
        agent.gate.set()
        ends = Counter("whole" if _rest(each) == [b"second"] else each.code().name for each in streams)
        assert ends == {"whole": CHANNELS - held, "UNAVAILABLE": held}
        found = workers(sidecar)
        assert [each["restarts"] for each in found] == [1, 0]
        assert sidecar.get("/readyz")[0] == 200
        assert metric(sidecar.get("/metrics")[1], "sidecar_worker_restarts_total{") == 1


def is_new(line: dict[str, Any], former: set[int]) -> bool:
    return line.get("event") == "worker ready" and line["pid"] not in former


def _rest(call: Any) -> list[bytes]:
    try:
        return list(call)
    except grpc.RpcError:
        return []


def test_all_of_them_drain(tmp_path: Path, agent: Agent) -> None:
    with Sidecar(config(tmp_path, agent), tmp_path) as sidecar, Callers(sidecar.addresses["inbound"]) as channels:
        streams = [stream(channel) for channel in channels]
        assert {next(each) for each in streams} == {b"first"}
        pids = [each["pid"] for each in workers(sidecar)]
        sidecar.signal(signal.SIGTERM)
        for _ in pids:
            sidecar.wait_for_log(lambda line: line.get("event") == "draining" and "workers" in line)
        assert sidecar.is_running
        agent.gate.set()
        assert [_rest(each) for each in streams] == [[b"second"]] * CHANNELS
        assert sidecar.wait() == 0
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_reload_reaches_all(tmp_path: Path, agent: Agent) -> None:
    with Sidecar(config(tmp_path, agent), tmp_path) as sidecar:
        sidecar.path.write_text(config(tmp_path, agent) + "# again\n")
        sidecar.signal(signal.SIGHUP)
        for worker in ("1", "2"):
            while json.loads(sidecar.get(f"/config?worker={worker}")[1])["generation"] < 2:
                pass
        # The parent's own matters need a restart, and every worker says so.
        sidecar.path.write_text(config(tmp_path, agent, workers=3))
        sidecar.signal(signal.SIGHUP)
        line = sidecar.wait_for_log(lambda line: line.get("event", "").startswith("configuration rejected"))
        assert line["cause"] == "workers: a change needs a restart"


def test_the_log_level_is_that_of_all(tmp_path: Path, agent: Agent) -> None:
    with Sidecar(config(tmp_path, agent), tmp_path) as sidecar:
        assert sidecar.request("PUT", "/logging?level=error")[0] == 200
        for number in (1, 2):
            assert json.loads(sidecar.get(f"/logging?worker={number}")[1]) == {"level": "error"}


def test_workers_do_not_outlive_their_parent(tmp_path: Path, agent: Agent) -> None:
    with Sidecar(config(tmp_path, agent), tmp_path) as sidecar:
        pids = [each["pid"] for each in workers(sidecar)]
        sidecar.kill()
        left = set(pids)
        while left:
            left = {pid for pid in left if Path(f"/proc/{pid}").exists() and _state(pid) != "Z"}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return "Z"


def test_an_address_in_use_is_refused(tmp_path: Path, agent: Agent) -> None:
    """With SO_REUSEPORT, a second sidecar could take half of the first one's callers, and nobody would know."""
    with Sidecar(config(tmp_path, agent), tmp_path) as sidecar:
        bind = sidecar.addresses["inbound"]
        second = tmp_path / "second.yaml"
        second.write_text(config(tmp_path, agent, bind=bind))
        ended = subprocess.run(
            [sys.executable, "-m", "sidecar", "run", "-c", str(second)],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert ended.returncode == 1
        assert f"cannot bind {bind}: the address is in use by another process" in ended.stderr


def test_a_worker_that_cannot_start_ends_all(tmp_path: Path, agent: Agent) -> None:
    """A policy that cannot be built is found by the workers only; they say why."""
    text = config(tmp_path, agent).replace(f"file://{tmp_path}/audit.jsonl", f"file://{tmp_path}/none/audit.jsonl")
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    ended = subprocess.run(
        [sys.executable, "-m", "sidecar", "run", "-c", str(path)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 1
    assert "there is no directory" in ended.stderr
    assert "a worker ended before it was ready" in ended.stderr
