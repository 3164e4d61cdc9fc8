"""What a caller sends through two sidecars and mTLS is what the agent gets, byte for byte, and back."""

from __future__ import annotations

import gzip
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from sidecar.http2.connection import Limits
from tests.journeys.pair import Pair
from tests.journeys.raw import Exchange, RawAgent, RawCaller
from tests.support.wire import RESPONSE, ScriptedStream, block, message

pytestmark = pytest.mark.asyncio(loop_scope="module")

Pairs = list[tuple[bytes, bytes]]
ADDED = {b"x-request-id", b"x-sidecar-identity"}
WIDE = Limits(max_header_list=64 * 1024)


@dataclass
class Path:
    """caller → outbound ══ inbound → agent."""

    agent: RawAgent
    pair: Pair
    caller: RawCaller

    async def exchange(self, *extra: tuple[str | bytes, str | bytes], **how: object) -> tuple[Exchange, Exchange]:
        """Begin an RPC: (the caller's side, the agent's side)."""
        count = len(self.agent.streams) + 1
        caller = self.caller.open(*extra, **how)  # type: ignore[arg-type]
        return caller, await self.agent.stream(count=count)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def path(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    async with RawAgent() as agent, Pair(tmp_path_factory.mktemp("pair"), agent.address) as pair:
        async with await RawCaller.connect(pair.address, limits=WIDE) as caller:
            yield Path(agent, pair, caller)


def standard(path: str = "/test.Service/Method") -> Pairs:
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"test"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]


def sent(stream: ScriptedStream) -> Pairs:
    """What a side saw, without what the sidecars say they add."""
    return [pair for pair in stream.seen.headers if pair[0] not in ADDED]


METADATA: Pairs = [
    (b"user-agent", b'test/1.0 ("quoted"; x)'),
    (b"grpc-encoding", b"gzip"),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
    (b"x-repeated", b"1"),
    (b"x-bytes-bin", b"AAECAwT/"),
    (b"x-repeated", b"2"),
    (b"x-bytes-bin", b"AAE="),
    (b"x-repeated", b"1"),
    (b"x-empty", b""),
    (b"x-visible", bytes(range(0x21, 0x7F))),
    (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    (b"authorization", b"Bearer abc.def.ghi"),
]


@pytest.mark.parametrize("time", range(3))
async def test_request_metadata(path: Path, time: int) -> None:
    """Three times, as the sidecars remember what repeats."""
    caller, agent = await path.exchange(*METADATA, end=True)
    assert sent(agent) == standard() + METADATA
    assert agent.seen.value("x-sidecar-identity") == "spiffe://mesh.local/agent/client"
    agent.send_headers(block(*RESPONSE, ("grpc-status", "0")), True)
    await caller.over()
    ids = {stream.seen.value("x-request-id") for stream in (caller, agent)}
    assert len(ids) == 1
    assert None not in ids


async def test_15_kib_of_metadata(path: Path) -> None:
    large: Pairs = [(b"x-large-%d" % i, os.urandom(740).hex().encode()) for i in range(10)]
    caller, agent = await path.exchange(*large, end=True)
    assert sent(agent) == standard() + large
    agent.send_headers(block(*RESPONSE, *large))
    agent.send_trailers(block(("grpc-status", "0"), *large))
    await caller.over()
    assert sent(caller) == [(b":status", b"200"), (b"content-type", b"application/grpc"), *large]
    assert caller.seen.trailers == [(b"grpc-status", b"0"), *large]


BODIES = {
    "nothing": b"",
    "one byte": b"\0",
    "text": b"hello",
    "a window": os.urandom(65_535),
    "more than a frame": os.urandom(100_000),
    "3 MiB": os.urandom(3 * 1024 * 1024),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("flag", [0, 1])
async def test_messages_both_ways(path: Path, name: str, flag: int) -> None:
    body = gzip.compress(BODIES[name]) if flag else BODIES[name]
    whole = message(body, flag)
    caller, agent = await path.exchange(("grpc-encoding", "gzip"))
    caller.send_data(whole, True)
    await agent.until(lambda: agent.seen.ended)
    assert agent.seen.data == whole
    agent.send_headers(block(*RESPONSE, ("grpc-encoding", "gzip")))
    agent.send_data(whole, False)
    agent.send_trailers(block(("grpc-status", "0")))
    await caller.over()
    assert caller.seen.data == whole
    assert caller.seen.value("grpc-encoding") == "gzip"
    assert caller.seen.status == 0


async def test_messages_arrive_one_by_one_as_they_were_sent(path: Path) -> None:
    caller, agent = await path.exchange()
    agent.send_headers(block(*RESPONSE))
    whole = b""
    for number in range(20):
        one = message(b"%d" % number * number)
        whole += one
        caller.send_data(one, False)
        await agent.until(lambda whole=whole: bytes(agent.seen.data) == whole)
        agent.send_data(one, False)
        await caller.until(lambda whole=whole: bytes(caller.seen.data) == whole)
    caller.send_data(b"", True)
    await agent.until(lambda: agent.seen.ended)
    agent.send_trailers(block(("grpc-status", "0")))
    await caller.over()


MESSAGES = [
    "plain",
    "caf%C3%A9 %E2%82%AC %F0%9F%A6%80",
    "100%25 %0A newline",
    "%zz not an escape %",
    "",
    "trailing space%20",
]


@pytest.mark.parametrize("text", MESSAGES)
@pytest.mark.parametrize("shape", ["trailers", "only"])
async def test_statuses_and_details(path: Path, text: str, shape: str) -> None:
    trailers: Pairs = [
        (b"grpc-status", b"9"),
        (b"grpc-message", text.encode()),
        (b"grpc-status-details-bin", b"CAkSA2JhZBoqCih0eXBlLmdvb2dsZWFwaXMuY29tL2dvb2dsZS5ycGMuQmFkUmVxdWVzdA"),
        (b"x-t", b"1"),
        (b"x-t-bin", b"/+8="),
        (b"x-t", b"1"),
    ]
    caller, agent = await path.exchange(body=b"x", end=True)
    await agent.until(lambda: agent.seen.ended)
    opening = [(b":status", b"200"), (b"content-type", b"application/grpc")]
    if shape == "only":
        agent.send_headers(block(*RESPONSE, *trailers), True)
        await caller.over()
        assert sent(caller) == opening + trailers
        assert caller.seen.trailers is None
        assert caller.seen.events == ["headers", "end"]
    else:
        agent.send_headers(block(*RESPONSE))
        agent.send_trailers(block(*trailers))
        await caller.over()
        assert sent(caller) == opening
        assert caller.seen.trailers == trailers


async def test_initial_metadata_comes_before_anything_else(path: Path) -> None:
    caller, agent = await path.exchange()
    agent.send_headers(block(*RESPONSE, ("x-early", "1")))
    await caller.until(lambda: caller.seen.events == ["headers"])
    assert caller.seen.value("x-early") == "1"
    caller.reset(8)
    await agent.over()


async def test_half_close_alone(path: Path) -> None:
    caller, agent = await path.exchange()
    assert not agent.seen.ended
    caller.send_data(b"", True)
    await agent.until(lambda: agent.seen.ended)
    assert agent.seen.data == b""
    agent.send_headers(block(*RESPONSE, ("grpc-status", "0")), True)
    await caller.over()


async def test_authority_scheme_and_content_type(path: Path) -> None:
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", b"/a.b.C/D"),
        (b":authority", b"data-agent.mesh:443"),
        (b"content-type", b"application/grpc+json"),
        (b"te", b"trailers"),
    ]
    caller, agent = await path.exchange(block=block(*fields), end=True)
    assert sent(agent) == fields
    agent.send_headers(block((":status", "200"), ("content-type", "application/grpc+json"), ("grpc-status", "0")), True)
    await caller.over()
    assert caller.seen.value("content-type") == "application/grpc+json"


async def test_the_timeout_is_what_remains(path: Path) -> None:
    from sidecar.grpc_wire import timeout

    caller, agent = await path.exchange(("grpc-timeout", "20S"), end=True)
    remaining = [timeout.parse(value) for name, value in agent.seen.headers if name == b"grpc-timeout"]
    assert len(remaining) == 1
    assert 0 < remaining[0] <= 20
    caller.reset(8)
    await agent.over()


@pytest.mark.parametrize("half_closed", [False, True])
async def test_a_caller_that_cancels(path: Path, half_closed: bool) -> None:
    caller, agent = await path.exchange(body=b"x", end=half_closed)
    await agent.until(lambda: "data" in agent.seen.events)
    caller.reset(8)
    await agent.until(lambda: agent.seen.reset is not None)
    assert agent.seen.reset == 8
    assert agent.seen.ended is half_closed


@pytest.mark.parametrize("code", [0, 2, 8, 11])
async def test_an_agent_that_resets(path: Path, code: int) -> None:
    caller, agent = await path.exchange(body=b"x")
    agent.reset(code)
    await caller.until(lambda: caller.seen.reset is not None)
    assert caller.seen.reset == code


async def test_what_only_sidecars_may_say(path: Path) -> None:
    caller, agent = await path.exchange(
        ("x-sidecar-identity", "spiffe://mesh.local/agent/admin"), ("x-sidecar-other", "1"), end=True
    )
    told = [pair for pair in agent.seen.headers if pair[0].startswith(b"x-sidecar")]
    assert told == [(b"x-sidecar-identity", b"spiffe://mesh.local/agent/client")]
    agent.send_headers(block(*RESPONSE, ("grpc-status", "14"), ("x-sidecar-origin", "sidecar")), True)
    await caller.over()
    assert caller.seen.value("x-sidecar-origin") is None


async def test_a_refusal_says_whose_it_is(path: Path) -> None:
    caller = await path.caller.open(path="/not a method", end=True).over()
    assert caller.seen.value("x-sidecar-origin") == "sidecar"
    assert caller.seen.status == 12


async def test_many_at_a_time(path: Path) -> None:
    """Interleaved on one connection: each gets its own."""

    def echo(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            stream.send_headers(block(*RESPONSE, ("x-id", stream.seen.value("x-id") or "")))
            stream.send_data(bytes(stream.seen.data), False)
            stream.send_trailers(block(("grpc-status", "0")))

    path.agent.on_event = echo
    try:
        callers = [path.caller.open(("x-id", str(i)), body=b"%d" % i * (i * 37), end=True) for i in range(200)]
        for i, caller in enumerate(callers):
            await caller.over()
            assert caller.seen.value("x-id") == str(i)
            assert caller.seen.data == message(b"%d" % i * (i * 37))
    finally:
        path.agent.on_event = None
