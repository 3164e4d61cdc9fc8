"""The agent server as a real process: all kinds of calls, errors, cancellation, its beginning and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from clients.python import AgentClient, CallFailure, IngestSummary, Partial, Progress, Result, Started, Turn

ROOT = Path(__file__).resolve().parents[2]
GRPCURL = shutil.which("grpcurl") or shutil.which("grpcurl", path=str(Path.home() / "go" / "bin"))
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
WAIT = 30.0
"""Seconds after which a test that waits for something gives up."""


@dataclass
class Process:
    """A server that runs."""

    popen: subprocess.Popen[str]
    address: str

    def rss(self) -> int:
        """Bytes of memory it occupies now."""
        for line in Path(f"/proc/{self.popen.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(WAIT)


def launch(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "agent_server", "run", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def start(*arguments: str) -> Process:
    popen = launch(*arguments)
    assert popen.stdout is not None
    line = popen.stdout.readline().split()
    if line[:2] != ["agent-server", "ready"]:
        raise AssertionError(popen.communicate(timeout=WAIT))
    return Process(popen, line[2])


def stop(process: Process) -> None:
    if process.popen.poll() is None:
        process.popen.kill()
    process.popen.communicate(timeout=WAIT)


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[Process]:
    process = start(*(arguments if "--bind" in arguments else ("--bind", "127.0.0.1:0", *arguments)))
    try:
        yield process
    finally:
        stop(process)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    database = tmp_path_factory.mktemp("agent") / "data.db"
    with running("--database", str(database), "--version", "blue", "--allow-address", "127.0.0.0/8") as process:
        yield process


def call(process: Process, scene: Any) -> Any:
    async def work() -> Any:
        async with asyncio.timeout(WAIT), AgentClient(process.address) as agent:
            return await scene(agent)

    return asyncio.run(work())


# --- a website


@dataclass
class Site:
    """A website of this test; `/hold` answers when `released` is set."""

    url: str
    released: threading.Event = field(default_factory=threading.Event)
    held: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/hold":
                site.held.set()
                site.released.wait(WAIT)
            status = int(self.path.removeprefix("/status/")) if self.path.startswith("/status/") else 200
            body = b"x" * 100_000 if self.path == "/big" else f"page {self.path}".encode()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                self.send_header("content-type", "text/plain")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: the test's own output is enough."""

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    site.url = f"http://127.0.0.1:{web.server_port}"
    yield site
    site.released.set()
    web.shutdown()
    thread.join()
    web.server_close()


# --- the kinds of calls


def test_a_unary_call(server: Process) -> None:
    async def scene(agent: AgentClient) -> Result:
        return await agent.execute("query", {"sql": "SELECT ? AS a, ? AS b", "params": [2**63 - 1, b"\xff"]})

    result = call(server, scene)
    assert result.rows() == [{"a": 2**63 - 1, "b": b"\xff"}]
    assert (result.agent, result.operation, result.version) == ("data", "query", "blue")


def test_a_stream_of_events(server: Process, site: Site) -> None:
    urls = [f"{site.url}/{n}" for n in range(20)] + [f"{site.url}/status/404", "http://10.0.0.1/", f"{site.url}/big"]

    async def scene(agent: AgentClient) -> list[Any]:
        return [event async for event in agent.stream("fetch", {"urls": urls, "max_bytes": 1000})]

    events = call(server, scene)
    assert isinstance(events[0], Started)
    parts = {event.item: event.output for event in events if isinstance(event, Partial)}
    assert set(parts) == set(urls)
    assert parts[urls[0]]["text"] == "page /0"
    assert [event.completed for event in events if isinstance(event, Progress)] == list(range(1, 24))
    output = events[-1].output
    assert (output["ok_count"], output["failed_count"]) == (21, 2)
    by_url = {item["url"]: item for item in output["items"]}
    assert (by_url[urls[20]]["status"], by_url[urls[20]]["reason"]) == (404, "HTTP_STATUS")
    assert by_url[urls[21]]["reason"] == "ADDRESS_REFUSED"
    assert (by_url[urls[22]]["size"], by_url[urls[22]]["truncated"]) == (1000, True)


def test_urls_are_fetched_at_the_same_time(server: Process, site: Site) -> None:
    """One that hangs does not keep the others waiting: it is let go by the answer to the last of them."""

    async def scene(agent: AgentClient) -> Any:
        urls = [f"{site.url}/hold", *(f"{site.url}/{n}" for n in range(5))]
        result = None
        async for event in agent.stream("fetch", {"urls": urls, "concurrency": 2}):
            if isinstance(event, Progress) and event.completed == 5:
                site.released.set()
            result = event
        return result

    assert call(server, scene).output["ok_count"] == 6


def test_an_ingest_of_twenty_thousand_records_in_constant_memory(server: Process) -> None:
    target = {"table": "many", "columns": {"id": "INTEGER", "name": "TEXT"}, "key": ["id"]}
    seen: list[int] = []

    async def records(count: int, first: int) -> AsyncIterator[dict[str, Any]]:
        for number in range(first, first + count):
            if number % 2000 == 0:
                seen.append(server.rss())
            # Every thousandth does not fit.
            yield {"id": number, "name": number if number % 1000 == 7 else f"name {number} " + "x" * 200}

    async def scene(agent: AgentClient) -> tuple[IngestSummary, int, IngestSummary, int]:
        # What one run allocates once (threads, pages of the cache, the allocator's own) is not what grows with the stream.
        first = await agent.ingest(records(4_000, 0), target, id_field="id")
        before = server.rss()
        second = await agent.ingest(records(20_000, 10_000), target, id_field="id")
        return first, before, second, max(seen)

    first, before, second, most = call(server, scene)
    assert (first.written, first.rejected) == (3_996, 4)
    assert (second.received, second.written, second.rejected, second.batches) == (20_000, 19_980, 20, 40)
    assert second.rejected_records[0].record_id == "10007"
    assert second.rejected_records[0].reason == "TYPE_MISMATCH"
    # 20,000 records of 220 bytes are more than 4 MB as text, several times that as objects.
    assert most - before < 12 << 20
    rows = call(server, lambda agent: agent.execute("query", {"sql": "SELECT count(*) AS n FROM many"})).rows()
    assert rows == [{"n": 23_976}]


def test_a_conversation(server: Process) -> None:
    async def scene(agent: AgentClient) -> list[Any]:
        answers: list[Any] = []
        queue: asyncio.Queue[Turn | None] = asyncio.Queue()

        async def turns() -> AsyncIterator[Turn]:
            while turn := await queue.get():
                yield turn

        script = [
            Turn("SELECT 7 AS seven", turn_id="first"),
            Turn("SELEC"),
            Turn(operation="recall"),
            Turn(operation="query", parameters={"sql": "SELECT 8"}, session_id="mine"),
        ]
        queue.put_nowait(script.pop(0))
        async for answer in agent.converse(turns()):
            answers.append(answer)
            queue.put_nowait(script.pop(0) if script else None)
        return answers

    first, wrong, recalled, other = call(server, scene)
    assert (first.turn_id, first.turn, first.result.rows()) == ("first", 1, [{"seven": 7}])
    assert first.session_id
    assert first.session_id == wrong.session_id == recalled.session_id
    assert (wrong.failure.code, wrong.failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_SQL")
    assert recalled.result.rows() == [{"seven": 7}]
    assert (other.session_id, other.turn) == ("mine", 4)


def test_a_description(server: Process) -> None:
    described = call(server, lambda agent: agent.describe())
    assert described["version_label"] == "blue"
    names = [each["name"] for each in described["agents"][0]["operations"]]
    assert names == ["execute", "fetch", "ingest", "query", "recall"]
    assert described["agents"][0]["operations"][3]["input_schema"]["properties"]["sql"]["type"] == "string"


def test_a_key_makes_a_change_happen_once(server: Process) -> None:
    async def scene(agent: AgentClient) -> list[bool]:
        await agent.execute("execute", {"sql": "CREATE TABLE once (a)"})
        insert = {"sql": "INSERT INTO once VALUES (1)"}
        return [(await agent.execute("execute", insert, idempotency_key="k-1")).replayed for _ in range(2)]

    assert call(server, scene) == [False, True]


# --- errors


@pytest.mark.parametrize(
    ("operation", "parameters", "code", "reason"),
    [
        ("query", {"sql": "SELEC"}, grpc.StatusCode.INVALID_ARGUMENT, "BAD_SQL"),
        ("query", {"sql": "SELECT * FROM nowhere"}, grpc.StatusCode.NOT_FOUND, "TABLE_NOT_FOUND"),
        ("query", {"sql": "SELECT 1", "limit": 0}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT"),
        ("nothing", {}, grpc.StatusCode.INVALID_ARGUMENT, "OPERATION_UNKNOWN"),
        ("recall", {}, grpc.StatusCode.FAILED_PRECONDITION, "NOTHING_TO_RECALL"),
    ],
)
def test_errors_carry_details(server: Process, operation: str, parameters: Any, code: Any, reason: str) -> None:
    with pytest.raises(CallFailure) as caught:
        call(server, lambda agent: agent.execute(operation, parameters))
    failure = caught.value
    assert (failure.code, failure.reason, failure.domain) == (code, reason, "agent")
    assert not failure.is_from_sidecar
    assert ("x-agent-version", "blue") in failure.trailers
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        assert failure.violations


def test_streams_fail_with_details_too(server: Process) -> None:
    async def stream(agent: AgentClient) -> None:
        async for _ in agent.stream("query", {"sql": "SELECT * FROM nowhere"}):
            pass

    async def ingest(agent: AgentClient) -> None:
        await agent.ingest([{"a": 1}], {"table": "nowhere"})

    async def long_ingest(agent: AgentClient) -> None:
        # Refused while the client still sends, without end.
        async def endless() -> AsyncIterator[dict[str, Any]]:
            while True:
                yield {"a": "x" * 1000}

        await agent.ingest(endless(), {"table": "nowhere"})

    # Many times: grpcio loses the status of one such call in fifty, and the client must not.
    for scene in (stream, ingest, *[long_ingest] * 100):
        with pytest.raises(CallFailure) as caught:
            call(server, scene)
        assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.NOT_FOUND, "TABLE_NOT_FOUND")


def test_an_error_of_the_senders_own_records_is_raised_as_it_is(server: Process) -> None:
    def records() -> Iterator[dict[str, Any]]:
        yield {"a": 1}
        raise LookupError("the file ended early")

    with pytest.raises(LookupError, match="ended early"):
        call(server, lambda agent: agent.ingest(records(), {"table": "own", "columns": {"a": "INTEGER"}}))


# --- cancellation


def test_cancelling_reaches_the_work(tmp_path: Path) -> None:
    """With one reader, the second query can only run once the first, which would never end, was stopped."""
    with running("--database", str(tmp_path / "d.db"), "--database-readers", "1") as process:

        async def scene(agent: AgentClient) -> Any:
            async with aclosing(agent.stream("query", {"sql": ENDLESS})) as events:
                async for event in events:
                    assert isinstance(event, Started)
                    break
            return await agent.execute("query", {"sql": "SELECT 1 AS one"}, timeout=WAIT)

        assert call(process, scene).rows() == [{"one": 1}]


def test_a_deadline_reaches_the_work(tmp_path: Path) -> None:
    with running("--database", str(tmp_path / "d.db"), "--database-readers", "1") as process:

        async def scene(agent: AgentClient) -> Any:
            with pytest.raises(CallFailure) as caught:
                await agent.execute("query", {"sql": ENDLESS}, timeout=0.2)
            assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
            return await agent.execute("query", {"sql": "SELECT 1 AS one"}, timeout=WAIT)

        assert call(process, scene).rows() == [{"one": 1}]


def test_cancelling_a_turn_reaches_the_work(tmp_path: Path) -> None:
    with running("--database", str(tmp_path / "d.db"), "--database-readers", "1") as process:

        async def scene(agent: AgentClient) -> Any:
            async def turns() -> AsyncIterator[Turn]:
                yield Turn("SELECT 1")
                yield Turn(ENDLESS)
                await asyncio.Event().wait()

            async with aclosing(agent.converse(turns())) as answers:
                assert (await anext(answers)).turn == 1
            return await agent.execute("query", {"sql": "SELECT 1 AS one"}, timeout=WAIT)

        assert call(process, scene).rows() == [{"one": 1}]


def test_the_servers_own_limit(tmp_path: Path) -> None:
    with running("--database", str(tmp_path / "d.db"), "--operation-timeout", "0.2") as process:
        with pytest.raises(CallFailure) as caught:
            call(process, lambda agent: agent.execute("query", {"sql": ENDLESS}))
        assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "OPERATION_TIMEOUT")


# --- health


def test_health_is_told_and_taken_back(tmp_path: Path) -> None:
    with running("--database", str(tmp_path / "d.db")) as process:

        async def scene() -> list[int]:
            async with asyncio.timeout(WAIT), grpc.aio.insecure_channel(process.address) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                request = health_pb2.HealthCheckRequest(service="agent.v1.AgentService")
                assert (await stub.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
                told = []
                async for answer in stub.Watch(request):
                    told.append(answer.status)
                    if len(told) == 1:
                        process.popen.send_signal(signal.SIGTERM)
                return told

        serving, not_serving = (health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING)
        assert asyncio.run(scene()) == [serving, not_serving]
        assert process.popen.wait(WAIT) == 0


# --- beginning and end


def test_running_calls_end_before_the_server_does(tmp_path: Path, site: Site) -> None:
    with running("--database", str(tmp_path / "d.db"), "--allow-address", "127.0.0.0/8") as process:

        async def scene(agent: AgentClient) -> Any:
            loop = asyncio.get_running_loop()
            running_call = loop.create_task(agent.execute("fetch", {"urls": [f"{site.url}/hold"]}))
            await loop.run_in_executor(None, site.held.wait, WAIT)
            async with grpc.aio.insecure_channel(process.address) as channel:
                watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
                await watch.read()
                process.popen.send_signal(signal.SIGTERM)
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            site.released.set()
            return await running_call

        assert call(process, scene).output["ok_count"] == 1
        assert process.popen.wait(WAIT) == 0


def test_calls_that_do_not_end_in_time_are_cancelled(tmp_path: Path) -> None:
    with running("--database", str(tmp_path / "d.db"), "--grace", "0.1") as process:

        async def scene(agent: AgentClient) -> None:
            async for event in agent.stream("query", {"sql": ENDLESS}):
                assert isinstance(event, Started)
                process.popen.send_signal(signal.SIGTERM)

        with pytest.raises(CallFailure):
            call(process, scene)
        assert process.popen.wait(WAIT) == 0


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with running("--database", str(tmp_path / "d.db"), "--grace", "600") as process:

        async def scene(agent: AgentClient) -> None:
            async with grpc.aio.insecure_channel(process.address) as channel:
                watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
                await watch.read()
                async for _ in agent.stream("query", {"sql": ENDLESS}):
                    process.popen.send_signal(signal.SIGTERM)
                    await watch.read()  # it heard the first
                    process.popen.send_signal(signal.SIGTERM)

        with pytest.raises(CallFailure):
            call(process, scene)
        assert process.popen.wait(WAIT) == 1


def test_a_port_in_use_is_named(server: Process) -> None:
    popen = launch("--bind", server.address)
    out, err = popen.communicate(timeout=WAIT)
    assert (popen.returncode, out) == (1, "")
    assert f"{server.address}: Address already in use" in err
    assert "Traceback" not in err


def test_a_port_is_free_again_after_a_kill(tmp_path: Path) -> None:
    with running("--database", str(tmp_path / "d.db")) as first:
        call(first, lambda agent: agent.execute("execute", {"sql": "CREATE TABLE kept (a)"}))
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
        with running("--database", str(tmp_path / "d.db"), "--bind", first.address) as second:
            rows = call(second, lambda agent: agent.execute("query", {"sql": "SELECT count(*) AS n FROM kept"})).rows()
            assert (second.address, rows) == (first.address, [{"n": 0}])


def test_a_unix_socket(tmp_path: Path) -> None:
    bind = f"unix:{tmp_path / 'agent.sock'}"
    with running("--bind", bind) as first:
        assert call(first, lambda agent: agent.execute(task="SELECT 1 AS one")).rows() == [{"one": 1}]
        second = launch("--bind", bind)
        assert f"{bind}: Address already in use" in second.communicate(timeout=WAIT)[1]
        assert second.returncode == 1
        # The attempt did not take the socket away from its owner.
        assert call(first, lambda agent: agent.execute(task="SELECT 1 AS one")).rows() == [{"one": 1}]
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
    assert (tmp_path / "agent.sock").exists()
    with running("--bind", bind) as third:
        assert call(third, lambda agent: agent.execute(task="SELECT 1 AS one")).rows() == [{"one": 1}]
        assert third.end() == 0
    assert not (tmp_path / "agent.sock").exists()


def test_an_agent_of_ones_own_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "greeter_of_a_user.py").write_text(
        "from agent_server.agents.declare import Agent, Input, Output, agent, operation\n\n"
        "class GreetInput(Input):\n    name: str\n\n"
        "class GreetOutput(Output):\n    greeting: str\n\n"
        "@agent('greeter', summary='Greets.')\n"
        "class Greeter(Agent):\n"
        "    @operation('greet', read_only=True, text='name')\n"
        "    async def greet(self, request: GreetInput, context) -> GreetOutput:\n"
        "        '''Greets one person.'''\n"
        "        return GreetOutput(greeting=f'Hello, {request.name}')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with running("--agents", "greeter_of_a_user") as process:
        assert call(process, lambda agent: agent.execute(task="Ada")).output == {"greeting": "Hello, Ada"}


# --- from a shell


def shell(process: Process, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clients.python", "--target", process.address, "--compact", *arguments],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )


def test_the_client_from_a_shell(server: Process) -> None:
    found = shell(server, "execute", "query", "-p", "sql=SELECT ? AS a", "-p", "params=[5]")
    assert (found.returncode, json.loads(found.stdout)["table"]) == (0, [{"a": 5}])

    found = shell(server, "stream", "query", "-p", "sql=SELECT 1 AS a")
    assert [next(iter(json.loads(line))) for line in found.stdout.splitlines()] == [
        "started",
        "partial",
        "progress",
        "result",
    ]

    lines = '{"id": 1}\n\n{"id": "x"}\n'
    found = shell(server, "ingest", "-p", "table=shell", "-p", 'columns={"id": "INTEGER"}', stdin=lines)
    summary = json.loads(found.stdout)
    assert (summary["written"], summary["rejected"], summary["rejected_records"][0]["index"]) == (1, 1, 1)

    found = shell(server, "converse", stdin='SELECT 1 AS a\n{"operation": "recall"}\n')
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    assert [answer["result"]["table"] for answer in answers] == [[{"a": 1}], [{"a": 1}]]

    found = shell(server, "describe", "data")
    assert json.loads(found.stdout)["agents"][0]["name"] == "data"


def test_the_clients_exit_codes(server: Process) -> None:
    found = shell(server, "execute", "query", "-p", "sql=SELECT * FROM nowhere")
    assert (found.returncode, found.stdout) == (64 + 5, "")
    assert json.loads(found.stderr)["error"]["reason"] == "TABLE_NOT_FOUND"
    assert shell(server, "execute", "-p", "x").returncode == 2
    assert shell(server, "--tls-ca", "/nowhere/ca.pem", "describe").returncode == 1
    found = shell(server, "ingest", "-p", "table=shell", stdin="{}\nnot json\n")
    assert (found.returncode, "line 2" in found.stderr) == (1, True)


# --- grpcurl


def grpcurl(process: Process, *arguments: str) -> subprocess.CompletedProcess[str]:
    if GRPCURL is None:
        pytest.skip("grpcurl is not installed: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest")
    *options, last = arguments
    return subprocess.run(
        [GRPCURL, "-plaintext", "-max-time", "20", *options, process.address, *last.split()],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )


def test_grpcurl_lists_and_describes(server: Process) -> None:
    assert grpcurl(server, "list").stdout.split() == [
        "agent.v1.AgentService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]
    described = grpcurl(server, "describe agent.v1.AgentService").stdout
    assert (
        "rpc Converse ( stream .agent.v1.ConverseRequest ) returns ( stream .agent.v1.ConverseResponse )" in described
    )
    for name in ("agent.v1.Cell", "grpc.reflection.v1.ServerReflection", "grpc.health.v1.HealthCheckRequest"):
        assert f"{name} is a" in grpcurl(server, f"describe {name}").stdout


def test_grpcurl_invokes_all_kinds(server: Process) -> None:
    found = grpcurl(server, "-d", '{"task": "SELECT 1 AS one"}', "agent.v1.AgentService/Execute")
    assert json.loads(found.stdout)["result"]["table"]["rows"] == [{"cells": [{"integer_value": "1"}]}]

    found = grpcurl(server, "-d", '{"task": "SELECT 1 AS one"}', "agent.v1.AgentService/ExecuteStream")
    assert found.stdout.count('"sequence"') == 4

    target = '{"target": {"parameters": {"table": "curl", "columns": {"a": "INTEGER"}}}}'
    found = grpcurl(server, "-d", target + '{"record": {"fields": {"a": 1}}}', "agent.v1.AgentService/Ingest")
    assert json.loads(found.stdout)["written_count"] == "1"

    found = grpcurl(server, "-d", '{"text": "SELECT 1"}{"operation": "recall"}', "agent.v1.AgentService/Converse")
    assert found.stdout.count('"result"') == 2

    found = grpcurl(server, "grpc.health.v1.Health/Check")
    assert json.loads(found.stdout) == {"status": "SERVING"}


def test_grpcurl_shows_the_details_of_errors(server: Process) -> None:
    found = grpcurl(server, "-d", '{"operation": "query"}', "agent.v1.AgentService/Execute")
    assert found.returncode == 64 + 3
    assert '"reason": "INVALID_INPUT"' in found.stderr
    assert '"field": "parameters.sql"' in found.stderr


def test_without_reflection_nothing_is_listed(tmp_path: Path) -> None:
    with running("--no-reflection", "--database", str(tmp_path / "d.db")) as process:
        found = grpcurl(process, "list")
        assert found.returncode != 0
        assert "does not support the reflection API" in found.stderr
