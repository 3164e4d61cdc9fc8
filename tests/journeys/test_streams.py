"""Long streams: bounded memory whoever is slow, cancellation that arrives, and unix sockets at both ends.

STREAM_MIB shortens the long one, for slow machines.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.journeys.pair import Pair
from tests.journeys.raw import Exchange, RawAgent, RawCaller
from tests.support.wire import RESPONSE, ScriptedStream, block, message

MIB = 1024 * 1024
LENGTH = int(os.environ.get("STREAM_MIB", "1024")) * MIB
ALLOWED = 64 * MIB
ONE = message(b"\xa5" * (MIB - 5))


class Source:
    """Sends `length` bytes of messages as fast as it may."""

    def __init__(self, length: int) -> None:
        self.left = length

    def __call__(self, stream: ScriptedStream, event: str) -> None:
        if event == "headers":
            stream.send_headers(block(*RESPONSE))
        if event in {"headers", "drained"}:
            while self.left and stream.pending is None:
                self.left -= len(ONE)
                stream.send_data(ONE, False)
            if not self.left and stream.pending is None and not stream.local_closed:
                stream.send_trailers(block(("grpc-status", "0")))


class Reader:
    """Counts, compares and forgets what comes; stops to read when told."""

    def __init__(self) -> None:
        self.received = 0
        self.is_wrong = False
        self.paused = False
        self.owed = 0

    def __call__(self, stream: ScriptedStream, event: str) -> None:
        data = stream.seen.data
        if event != "data":
            return
        start = self.received % len(ONE)
        expected = (ONE + ONE)[start : start + len(data)]
        self.is_wrong = self.is_wrong or bytes(data) != expected
        self.received += len(data)
        self.owed += len(data)
        data.clear()
        stream.seen.events.clear()
        if not self.paused:
            self.go_on(stream)

    def go_on(self, stream: ScriptedStream) -> None:
        owed, self.owed = self.owed, 0
        stream.consume(owed)


async def test_a_long_stream_to_a_reader_that_pauses(tmp_path: Path) -> None:
    source, reader = Source(LENGTH), Reader()
    async with RawAgent(source, keeps=False) as agent, Pair(tmp_path, agent.address) as pair:
        async with await RawCaller.connect(pair.address) as caller:
            sidecars = {"inbound": pair.inbound, "outbound": pair.outbound}
            idle = {name: each.memory() for name, each in sidecars.items()}
            peak = dict(idle)

            def look() -> None:
                for name, each in sidecars.items():
                    peak[name] = max(peak[name], each.memory())

            stream = caller.open(body=b"go", end=True, consumes=False, on_event=reader)
            for part in range(1, 9):
                goal = LENGTH * part // 9
                while reader.received < goal:
                    reached = min(goal, reader.received + 8 * MIB)
                    await stream.until(lambda reached=reached: reader.received >= reached)
                    look()
                # Nobody reads: everything in between fills up, and then the agent itself must stop.
                reader.paused = True
                await stream.is_quiet_for(0.1)
                assert source.left > 0, "the agent was never stopped"
                look()
                reader.paused = False
                reader.go_on(stream)
            await stream.over()
            look()
            assert stream.seen.status == 0
            assert reader.received == LENGTH
            assert not reader.is_wrong
            grown = {name: peak[name] - idle[name] for name in sidecars}
            print(
                f"\n{LENGTH // MIB} MiB; grown by { ({name: f'{each / MIB:.1f} MiB' for name, each in grown.items()}) }"
            )
            assert max(grown.values()) <= ALLOWED, grown


async def test_a_long_upload_to_an_agent_that_does_not_read(tmp_path: Path) -> None:
    async with RawAgent(consumes=False) as agent, Pair(tmp_path, agent.address) as pair:
        async with await RawCaller.connect(pair.address) as caller:
            upload = caller.open()
            while upload.pending is None:
                upload.send_data(ONE, False)
            reached = await agent.stream()
            await reached.is_quiet_for(0.1)
            idle = (pair.inbound.memory(), pair.outbound.memory())
            arrived = len(reached.seen.data)
            # Half of what was sent has nowhere to go; other calls are not held up by it.
            agent.on_event = _answer_at_the_end
            agent.consumes = True
            for _ in range(20):
                other = await caller.call(body=b"x" * 10_000)
                assert other.seen.status == 0
            assert len(reached.seen.data) == arrived
            assert pair.inbound.memory() - idle[0] <= ALLOWED
            assert pair.outbound.memory() - idle[1] <= ALLOWED
            upload.reset(8)
            await reached.over()
            assert reached.seen.reset == 8
            assert not reached.seen.ended


def _answer_at_the_end(stream: ScriptedStream, event: str) -> None:
    if event == "end":
        stream.send_headers(block(*RESPONSE))
        stream.send_trailers(block(("grpc-status", "0")))


async def test_cancellation_of_a_stream_reaches_the_agent_and_stops_it(tmp_path: Path) -> None:
    source = Source(1 << 40)
    async with RawAgent(source) as agent, Pair(tmp_path, agent.address) as pair:
        async with await RawCaller.connect(pair.address) as caller:
            reader = Reader()
            stream = caller.open(body=b"go", end=True, consumes=False, on_event=reader)
            await stream.until(lambda: reader.received > 8 * MIB)
            stream.reset(8)
            reached = await agent.stream()
            await reached.until(lambda: reached.seen.reset is not None)
            assert reached.seen.reset == 8
            # A caller that is gone without a word is the same.
            second = caller.open(body=b"go", end=True, consumes=False, on_event=Reader())
            await second.until(lambda: second.seen.headers != [])
            reached_next = await agent.stream(count=2)
            caller.close()
            await reached_next.until(lambda: reached_next.seen.reset is not None)
            assert reached_next.seen.reset == 8
            assert source.left > 0


async def test_unix_sockets_at_both_ends(tmp_path: Path) -> None:
    app, local = f"unix:{tmp_path}/app.sock", f"unix:{tmp_path}/agent.sock"
    agent = RawAgent(_answer_at_the_end)
    await agent.start(local)
    async with agent, Pair(tmp_path, local, outbound_bind=app) as pair:
        assert pair.address == app
        async with await RawCaller.connect(app) as caller:
            for _ in range(20):
                answer = await caller.call(body=b"x" * 1000)
                assert answer.seen.status == 0
            assert agent.streams[-1].seen.value("x-sidecar-identity") == "spiffe://mesh.local/agent/client"
    assert not (tmp_path / "app.sock").exists(), "a listener that is gone leaves no socket"


@pytest.mark.parametrize("kind", ["server", "both"])
async def test_many_streams_at_a_time(tmp_path: Path, kind: str) -> None:
    """Twenty at once, of different paces: each gets all of its own."""

    def act(stream: ScriptedStream, event: str) -> None:
        if event == "headers":
            stream.send_headers(block(*RESPONSE))
            if kind == "server":
                for i in range(50):
                    stream.send_data(message(b"%d" % i * 100), False)
                stream.send_trailers(block(("grpc-status", "0")))
        if kind == "both" and event == "data":
            stream.send_data(bytes(stream.seen.data), False)
            stream.seen.data.clear()
        if kind == "both" and event == "end":
            stream.send_trailers(block(("grpc-status", "0")))

    async with RawAgent(act) as agent, Pair(tmp_path, agent.address) as pair:
        async with await RawCaller.connect(pair.address) as caller:
            streams: list[Exchange] = [caller.open(end=kind == "server") for _ in range(20)]
            expected = b"".join(message(b"%d" % i * 100) for i in range(50))
            if kind == "both":
                for i in range(50):
                    for stream in streams:
                        stream.send_data(message(b"%d" % i * 100), i == 49)
            for stream in streams:
                await stream.over()
                assert stream.seen.status == 0
                assert stream.seen.data == expected
