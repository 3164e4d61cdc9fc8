"""The Redis store in bad weather: killed, restarted, slow, full; and what it leaves behind in Redis."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

from sidecar.clock import LoopClock, sleep
from sidecar.store.gcra import NANOSECONDS, Pace
from sidecar.store.interface import Store, StoreUnavailable
from sidecar.store.ledger import Allowance
from sidecar.store.records import Record
from sidecar.store.redis import RedisStore, options
from sidecar.store.url import open_store
from tests.support.clock import FakeClock
from tests.support.crash import free_port
from tests.support.redis import RedisServer

PACE = Pace.of(1, 1000.0, burst=10)
HOUR = Allowance(1000, 3600 * NANOSECONDS)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


def opened(server: RedisServer, clock: FakeClock | None = None, url: str | None = None) -> Store:
    return open_store(url or server.url, clock=clock or FakeClock(), random=random.Random(1))


async def kind_of_failure(store: Store) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        await store.take("k", PACE)
    return caught.value.kind


async def test_a_redis_that_was_killed_is_told_at_once_and_comes_back_by_itself(server: RedisServer) -> None:
    clock = FakeClock()
    store = opened(server, clock)
    assert await store.take("k", PACE) == 0.0
    server.stop()
    assert await kind_of_failure(store) == "unreachable"
    server.start()
    # In its backoff nobody asks.
    assert await kind_of_failure(store) == "unreachable"
    clock.advance(0.1)
    assert await store.take("k", PACE) == 0.0
    await store.close()


async def test_a_restart_that_nobody_notices_costs_no_call(server: RedisServer) -> None:
    store = opened(server)
    assert await store.take("k", PACE) == 0.0
    server.stop()
    server.start()
    # The connection is dead and the scripts are forgotten.
    assert await store.take("k", PACE) == 0.0
    assert await store.reserve("b", HOUR, "r", 1, lease=60) is None
    await store.close()


async def test_the_backoff_grows_and_has_an_end(server: RedisServer) -> None:
    clock = FakeClock()
    store = opened(server, clock)
    server.stop()
    assert isinstance(store, RedisStore)
    pauses = []
    for _ in range(9):
        assert await kind_of_failure(store) == "unreachable"
        pauses.append(store._down_until - clock.monotonic())  # noqa: SLF001 - the promise is the pause
        clock.advance(pauses[-1])
    for i, pause in enumerate(pauses):
        due = min(0.05 * 2**i, 2.0)
        assert 0.8 * due <= pause + 1e-9
        assert pause <= 1.2 * due + 1e-9
    await store.close()


async def test_a_redis_that_is_silent_is_given_up_in_bounded_time() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    clock = LoopClock(asyncio.get_running_loop())
    client = redis.asyncio.Redis.from_url(f"redis://127.0.0.1:{port}", **options(timeout=0.05))
    store = RedisStore(client, "here", clock, random.Random(1), timeout=0.1)
    async with asyncio.timeout(5):
        failures = await asyncio.gather(*(kind_of_failure(store) for _ in range(50)))
    assert set(failures) == {"timeout"}
    await store.close()
    listening.close()
    await listening.wait_closed()


async def test_a_redis_that_is_full_or_read_only_says_so(server: RedisServer) -> None:
    store = opened(server)
    await store.ping()
    async with redis.asyncio.from_url(server.url) as client:
        await client.config_set("maxmemory", "1")
        assert await kind_of_failure(store) == "full"
        await client.config_set("maxmemory", "0")
        assert await store.take("k", PACE) == 0.0
        await client.replicaof("127.0.0.1", 1)
        assert await kind_of_failure(store) == "read_only"
        await client.replicaof("NO", "ONE")
        assert await store.take("k", PACE) == 0.0
    await store.close()


async def test_a_key_of_another_kind_harms_no_other_key(server: RedisServer) -> None:
    store = opened(server)
    async with redis.asyncio.from_url(server.url) as client:
        await client.hset("sidecar:{k}", "a", "b")
    answers = await asyncio.gather(store.take("k", PACE), store.take("other", PACE), return_exceptions=True)
    assert isinstance(answers[0], StoreUnavailable)
    assert answers[0].kind == "error"
    assert answers[1] == 0.0
    await store.close()


async def test_nothing_stays_in_redis_for_longer_than_it_matters(server: RedisServer) -> None:
    store = opened(server)
    await store.take("k", Pace.of(10, 1.0, burst=5))
    await store.reserve("b", Allowance(10, 5 * NANOSECONDS), "r", 1, lease=60)
    await store.settle("b2", Allowance(10, 5 * NANOSECONDS), "r", 1)
    async with redis.asyncio.from_url(server.url, decode_responses=True) as client:
        keys = sorted([key async for key in client.scan_iter()])
        ttls = {key: await client.pttl(key) for key in keys}
    assert keys == [
        *("sidecar:{b2}", "sidecar:{b2}:amounts", "sidecar:{b2}:leases"),
        *("sidecar:{b}", "sidecar:{b}:amounts", "sidecar:{b}:leases", "sidecar:{k}"),
    ]
    assert 0 < ttls["sidecar:{k}"] <= 100
    assert all(0 < ttl <= 62_000 for ttl in ttls.values()), ttls
    await store.close()


async def test_many_calls_share_few_connections(server: RedisServer) -> None:
    store = opened(server)
    waits = await asyncio.gather(*(store.take("k", Pace.of(1, 1000.0, burst=700)) for _ in range(1000)))
    assert waits.count(0.0) == 700
    async with redis.asyncio.from_url(server.url) as client:
        assert len(await client.client_list()) <= 2
    await store.close()


async def test_a_password_stands_in_no_error(server: RedisServer) -> None:
    store = opened(server, url=f"redis://user:hunter2@127.0.0.1:{server.port}/0")
    server.stop()
    with pytest.raises(StoreUnavailable) as caught:
        await store.take("k", PACE)
    assert "hunter2" not in str(caught.value)
    assert f"127.0.0.1:{server.port}" in str(caught.value)
    await store.close()


async def test_sentinel_leads_to_the_master(server: RedisServer, tmp_path: Path) -> None:
    sentinel = RedisServer(tmp_path / "sentinel")
    (tmp_path / "sentinel").mkdir()
    configuration = tmp_path / "sentinel" / "sentinel.conf"
    configuration.write_text(f"sentinel monitor mesh 127.0.0.1 {server.port} 1\n")
    sentinel.arguments = (str(configuration), "--sentinel")
    sentinel.start()
    try:
        store = opened(server, url=f"redis+sentinel://127.0.0.1:{sentinel.port}/mesh/2")
        assert await store.take("k", PACE) == 0.0
        async with redis.asyncio.from_url(f"redis://127.0.0.1:{server.port}/2") as client:
            assert await client.exists("sidecar:{k}")
        await store.close()
    finally:
        sentinel.stop()


def ask(node: RedisServer, *words: str) -> str:
    """One command, as a person would give it."""
    with socket.create_connection(("127.0.0.1", node.port), 5) as connection:
        connection.sendall((" ".join(words) + "\r\n").encode())
        return connection.recv(65536).decode()


async def test_a_cluster_keeps_each_key_where_it_belongs(tmp_path: Path) -> None:
    clock = LoopClock(asyncio.get_running_loop())
    nodes = []
    for name, first, last in (("a", 0, 8191), ("b", 8192, 16383)):
        (tmp_path / name).mkdir()
        node = RedisServer(tmp_path / name, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
        # Not 10,000 above the port, which may be no port at all.
        node.arguments += ("--cluster-port", str(free_port()))
        node.start()
        nodes.append(node)
        assert ask(node, "CLUSTER", "ADDSLOTSRANGE", str(first), str(last)).startswith("+OK")
    store = open_store(f"redis+cluster://127.0.0.1:{nodes[1].port}", clock=clock, random=random.Random(1))
    try:
        bus = nodes[1].arguments[-1]
        assert ask(nodes[0], "CLUSTER", "MEET", "127.0.0.1", str(nodes[1].port), bus).startswith("+OK")
        async with asyncio.timeout(20):
            while not all("cluster_state:ok" in ask(each, "CLUSTER", "INFO") for each in nodes):
                await sleep(clock, 0.05)
        names = [f"records:{i}" for i in range(20)]
        # At once: one pipeline for both nodes.
        assert await asyncio.gather(*(store.put(name, None, name.encode(), keep=60) for name in names)) == [True] * 20
        assert [key for key, _ in await store.scan("records:", "", 100)] == sorted(names)
        found = await store.put("records:3", None, b"other", keep=60)
        assert isinstance(found, Record)
        assert found.value == b"records:3"
        assert await store.reserve("budget", HOUR, "r", 1000, lease=10) is None
        assert await store.reserve("budget", HOUR, "s", 1, lease=10) is not None
        kept = [int(ask(each, "DBSIZE")[1:]) for each in nodes]
        assert min(kept) > 3, "one node has it all"
    finally:
        await store.close()
        for node in nodes:
            node.stop()
