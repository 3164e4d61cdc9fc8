"""Nothing that was accepted fails: while certificates rotate, configuration reloads, and the sidecar is told to stop."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sidecar.grpc_wire.details import ErrorInfo, decode_status
from sidecar.grpc_wire.metadata import decode_binary
from sidecar.http2.errors import NOT_PROCESSED
from tests.journeys.pair import Pair
from tests.journeys.raw import Exchange, RawAgent, RawCaller
from tests.support.processes import ROOT, Sidecar
from tests.support.wire import RESPONSE, ScriptedStream, block, message

RATE = 500
ROUNDS = 10


def echo(stream: ScriptedStream, event: str) -> None:
    if event == "end":
        stream.send_headers(block(*RESPONSE))
        stream.send_data(bytes(stream.seen.data), False)
        stream.send_trailers(block(("grpc-status", "0")))


class Load:
    """Unary RPCs at an even pace, on one connection at a time that is replaced when it is told to go."""

    def __init__(
        self, address: str, rate: float = RATE, *, path: str = "/test.Service/Method", body: bytes = b"hello"
    ) -> None:
        self.address = address
        self._path = path
        self._body = body
        self.done: Counter[str] = Counter()
        self.odd: list[str] = []
        self.refused_connections = 0
        self._interval = 1 / rate
        self._caller: RawCaller | None = None
        self._stopped = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = 0
        self._progress = asyncio.Event()

    async def start(self) -> None:
        self._caller = await RawCaller.connect(self.address)
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._tick()

    def _tick(self) -> None:
        # Whatever is due, so that a busy machine does not lower the rate.
        while not self._stopped and self._due <= self._loop.time():
            self._due += self._interval
            self._one()
        if not self._stopped:
            self._loop.call_at(self._due, self._tick)

    def _one(self) -> None:
        caller = self._caller
        if caller is None:
            return
        if caller.connection.draining or caller.connection.closed:
            self._caller = None
            self._spawn(self._reconnect())
            return
        if len(caller.connection.streams) >= caller.connection.peer_max_streams:
            # As clients do: what is due after the machine stood still waits for the streams that are allowed.
            return
        number = self._started
        self._started += 1
        caller.open(("x-number", str(number)), path=self._path, body=self._body, end=True, on_event=self._judge)

    def _spawn(self, coroutine: object) -> None:
        task = self._loop.create_task(coroutine)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reconnect(self) -> None:
        try:
            self._caller = await RawCaller.connect(self.address)
        except OSError:
            self.refused_connections += 1

    def _judge(self, stream: ScriptedStream, event: str) -> None:
        if event == "end":
            self.done[self._word(stream)] += 1
            self._progress.set()
        elif event == "reset":
            # Above the last stream of a GOAWAY, or on a connection that ended: never accepted.
            self.done["not accepted" if stream.seen.reset == NOT_PROCESSED else f"reset {stream.seen.reset}"] += 1
            self._progress.set()

    def _word(self, stream: ScriptedStream) -> str:
        seen = stream.seen
        if seen.status == 0:
            return "ok" if seen.data else "an empty answer"
        details = decode_status(decode_binary((seen.value("grpc-status-details-bin") or "").encode())[0]).details
        reasons = [each.reason for each in details if isinstance(each, ErrorInfo)]
        pushback = "with pushback" if seen.value("grpc-retry-pushback-ms") else "without pushback"
        word = f"{seen.status} {reasons} {pushback}"
        if len(self.odd) < 20:
            self.odd.append(f"{word} {seen.value('grpc-message')}")
        return word

    @property
    def running(self) -> int:
        return self._started - sum(self.done.values())

    async def until(self, count: int) -> None:
        """Wait until `count` more have ended well."""
        goal = self.done["ok"] + count
        async with asyncio.timeout(30):
            while self.done["ok"] < goal:
                self._progress.clear()
                await self._progress.wait()

    async def until_word(self, beginning: str) -> None:
        """Wait until one has ended so."""
        async with asyncio.timeout(30):
            while not any(word.startswith(beginning) for word in self.done):
                self._progress.clear()
                await self._progress.wait()

    async def finish(self) -> None:
        """Start no more, and wait for what runs."""
        self._stopped = True
        async with asyncio.timeout(30):
            while self.running:
                self._progress.clear()
                await self._progress.wait()
            while self._tasks:
                await asyncio.gather(*self._tasks)
        if self._caller is not None:
            self._caller.close()


async def until(condition: object, limit: float = 20) -> None:
    """Ask again and again, on another thread, until it is so."""

    def ask() -> bool:
        return bool(condition())  # type: ignore[operator]

    async with asyncio.timeout(limit):
        while not await asyncio.to_thread(ask):
            pass


def admin(sidecar: Sidecar, path: str) -> object:
    return json.loads(sidecar.get(path)[1])


def certificate_generation(sidecar: Sidecar) -> int:
    return admin(sidecar, "/certs")[0]["generation"]  # type: ignore[index,no-any-return]


def config_generation(sidecar: Sidecar) -> int:
    return admin(sidecar, "/config")["generation"]  # type: ignore[index,no-any-return]


async def test_ten_rotations_and_ten_reloads_under_load(tmp_path: Path) -> None:
    async with RawAgent(echo, keeps=False) as agent, Pair(tmp_path, agent.address) as pair:
        load = Load(pair.address)
        await load.start()
        await load.until(100)
        for number in range(2, ROUNDS + 2):
            pair.pki.leaf("server", generation=number)
            pair.pki.leaf("client", generation=number)
            pair.inbound.path.write_text(pair.inbound_config(f"# {number}\n"))
            pair.outbound.path.write_text(pair.outbound_config(f"# {number}\n"))
            for each in (pair.inbound, pair.outbound):
                each.signal(signal.SIGHUP)
            for each in (pair.inbound, pair.outbound):
                await until(lambda each=each, number=number: certificate_generation(each) >= number)
                await until(lambda each=each, number=number: config_generation(each) >= number)
            await load.until(50)
        assert admin(pair.outbound, "/clusters")[0]["endpoints"][0]["ready"]  # type: ignore[index]
        assert load.done.keys() == {"ok"}, load.odd
        # And now the end, of the caller's sidecar first.
        pair.outbound.signal(signal.SIGTERM)
        await until(lambda: not pair.outbound.is_running)
        await load.finish()
        allowed = {"ok", "14 ['DRAINING'] with pushback", "not accepted"}
        assert load.done.keys() <= allowed, (load.done, load.odd)
        assert load.done["ok"] > 100 + 50 * ROUNDS
        print(f"\n{dict(load.done)}, refused connections: {load.refused_connections}")
        assert pair.outbound.wait() == 0
        pair.inbound.signal(signal.SIGTERM)
        assert await asyncio.to_thread(pair.inbound.wait) == 0


async def test_the_agents_sidecar_stops_under_load(tmp_path: Path) -> None:
    """The caller's sidecar stays: its callers see UNAVAILABLE with a time to come back, and nothing else."""
    async with RawAgent(echo, keeps=False) as agent, Pair(tmp_path, agent.address) as pair:
        load = Load(pair.address)
        await load.start()
        await load.until(200)
        pair.inbound.signal(signal.SIGTERM)
        await until(lambda: not pair.inbound.is_running)
        assert await asyncio.to_thread(pair.inbound.wait) == 0
        bound = pair.direct
        for word in load.done:
            assert word == "ok" or (word.startswith("14 [") and word.endswith("with pushback")), (load.done, load.odd)
        # It comes back at the same address: everything is well again, by itself.
        pair.inbound_bind = bound
        pair.inbound = Sidecar(pair.inbound_config(), tmp_path, name="inbound")
        await asyncio.to_thread(pair.inbound.start)
        await load.until(100)
        await load.finish()
        print(f"\n{dict(load.done)}")
        for word in load.done:
            assert word == "ok" or (word.startswith("14 [") and word.endswith("with pushback")), (load.done, load.odd)


async def test_connections_that_are_replaced_by_their_age(tmp_path: Path) -> None:
    """Each GOAWAY costs a moment, and no RPC."""
    limits = ", max_connection_age: 200ms"
    async with RawAgent(echo, keeps=False) as agent, Pair(tmp_path, agent.address, limits=limits) as pair:
        load = Load(pair.address)
        await load.start()
        await until(lambda: admin(pair.inbound, "/listeners")[0]["accepted"] >= 6)  # type: ignore[index]
        await load.finish()
        assert load.done.keys() == {"ok"}, (load.done, load.odd)
        assert load.done["ok"] > 100


async def test_streams_finish_while_it_drains(tmp_path: Path) -> None:
    async with RawAgent() as agent, Pair(tmp_path, agent.address) as pair:
        async with await RawCaller.connect(pair.address) as caller:
            stream = caller.open(body=b"1")
            reached = await agent.stream()
            reached.send_headers(block(*RESPONSE))
            await stream.until(lambda: stream.seen.headers != [])
            for each in (pair.outbound, pair.inbound):
                each.signal(signal.SIGTERM)
                await until(lambda each=each: each.get("/readyz")[0] == 503)
            await until(lambda: caller.connection.draining)
            for number in range(5):
                stream.send_data(message(b"q%d" % number), False)
                reached.send_data(message(b"a%d" % number), False)
                await stream.until(lambda number=number: stream.seen.data.endswith(b"a%d" % number))
            # A new connection is told so, politely.
            async with await RawCaller.connect(pair.address) as late:
                refused = await late.call()
                assert refused.seen.status == 14
                assert refused.seen.value("x-sidecar-origin") == "sidecar"
                assert int(refused.seen.value("grpc-retry-pushback-ms") or "") > 0
            assert pair.outbound.is_running
            stream.send_data(b"", True)
            await reached.until(lambda: reached.seen.ended)
            reached.send_trailers(block(("grpc-status", "0")))
            await stream.over()
            assert stream.seen.status == 0
            for each in (pair.outbound, pair.inbound):
                assert await asyncio.to_thread(each.wait) == 0


async def held(pair: Pair, agent: RawAgent) -> tuple[RawCaller, Exchange]:
    """A stream that nobody will end."""
    caller = await RawCaller.connect(pair.address)
    stream = caller.open(body=b"x")
    await agent.stream()
    return caller, stream


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    async with RawAgent() as agent, Pair(tmp_path, agent.address) as pair:
        caller, stream = await held(pair, agent)
        pair.outbound.signal(signal.SIGTERM)
        await until(lambda: pair.outbound.get("/readyz")[0] == 503)
        assert pair.outbound.is_running
        pair.outbound.signal(signal.SIGTERM)
        assert await asyncio.to_thread(pair.outbound.wait) == 3
        await stream.over()
        reached = await agent.stream()
        await reached.until(lambda: reached.seen.reset is not None)
        assert not reached.seen.ended
        caller.close()


async def test_drain_timeout_cuts(tmp_path: Path) -> None:
    async with RawAgent() as agent, Pair(tmp_path, agent.address, top="drain_timeout: 300ms") as pair:
        caller, stream = await held(pair, agent)
        pair.outbound.signal(signal.SIGTERM)
        assert await asyncio.to_thread(pair.outbound.wait) == 0
        assert "drain_timeout is over" in pair.outbound.text
        await stream.over()
        reached = await agent.stream()
        await reached.until(lambda: reached.seen.reset is not None)
        assert reached.seen.reset == 8
        assert not reached.seen.ended
        caller.close()


@pytest.mark.parametrize("what", ["listener", "admin", "unix"])
def test_an_address_in_use(tmp_path: Path, what: str) -> None:
    with socket.socket(socket.AF_UNIX if what == "unix" else socket.AF_INET) as taken:
        path = str(tmp_path / "taken.sock")
        taken.bind(path if what == "unix" else ("127.0.0.1", 0))
        taken.listen()
        address = f"unix:{path}" if what == "unix" else f"127.0.0.1:{taken.getsockname()[1]}"
        bind = address if what != "admin" else "127.0.0.1:0"
        config = tmp_path / "sidecar.yaml"
        config.write_text(f"""
admin: {{bind: "{address if what == "admin" else "127.0.0.1:0"}"}}
listeners:
  - {{name: app, direction: outbound, bind: "{bind}", routes: [{{name: all, match: {{method: "/*"}}, to: local}}]}}
clusters:
  local: {{endpoints: ["127.0.0.1:1"]}}
""")
        command = [sys.executable, "-m", "sidecar.cli.main", "run", "-c", str(config)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 1
        assert f"cannot bind {address}" in done.stderr
        assert "Traceback" not in done.stderr
