"""The master of a Redis is lost and a replica promoted: what was recorded there is still a record, and new ones are made."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.clock import LoopClock, sleep
from sidecar.store.interface import Store, StoreUnavailable
from sidecar.store.records import Record
from sidecar.store.url import open_store
from tests.support.redis import RedisServer


def ask(node: RedisServer, *words: str) -> str:
    with socket.create_connection(("127.0.0.1", node.port), 5) as connection:
        connection.sendall((" ".join(words) + "\r\n").encode())
        return connection.recv(65536).decode()


@pytest.fixture
async def failing(tmp_path: Path) -> AsyncIterator[tuple[RedisServer, Store]]:
    """A master with a replica, watched by a sentinel, and a store that asks the sentinel."""
    for name in ("master", "replica", "sentinel"):
        (tmp_path / name).mkdir()
    # Without this it waits five seconds for more replicas, before the first one gets anything.
    master = RedisServer(tmp_path / "master", "--repl-diskless-sync-delay", "0")
    replica = RedisServer(tmp_path / "replica", "--replicaof", "127.0.0.1", str(master.port))
    sentinel = RedisServer(tmp_path / "sentinel")
    configuration = tmp_path / "sentinel" / "sentinel.conf"
    configuration.write_text(
        f"sentinel monitor mesh 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds mesh 500\nsentinel failover-timeout mesh 5000\n"
    )
    sentinel.arguments = (str(configuration), "--sentinel")
    clock = LoopClock(asyncio.get_running_loop())
    servers = (master, replica, sentinel)
    try:
        for each in servers:
            each.start()
        async with asyncio.timeout(30):
            while "num-slaves\r\n$1\r\n1" not in ask(sentinel, "SENTINEL", "MASTER", "mesh"):
                await sleep(clock, 0.05)
            while "master_link_status:up" not in ask(replica, "INFO", "replication"):
                await sleep(clock, 0.05)
        store = open_store(f"redis+sentinel://127.0.0.1:{sentinel.port}/mesh/0", clock=clock, random=random.Random(1))
        yield master, store
        await store.close()
    finally:
        for each in servers:
            each.stop()


async def test_a_replica_takes_over(failing: tuple[RedisServer, Store]) -> None:
    master, store = failing
    clock = LoopClock(asyncio.get_running_loop())
    assert await store.put("paid", None, b"once", keep=600) is True
    assert ask(master, "WAIT", "1", "5000").startswith(":1"), "the replica has it"
    master.stop()
    with pytest.raises(StoreUnavailable):
        await store.put("new", None, b"1", keep=600)
    refused = 1
    async with asyncio.timeout(30):
        while True:
            try:
                done = await store.put("new", None, b"1", keep=600)
            except StoreUnavailable:
                refused += 1
                await sleep(clock, 0.05)
            else:
                break
    # A put that had no answer may have been done.
    assert done is True or (isinstance(done, Record) and done.value == b"1")
    again = await store.put("paid", None, b"twice", keep=600)
    assert isinstance(again, Record) and again.value == b"once"
