from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from sidecar.store.interface import Store, StoreUnavailable
from sidecar.store.memory import MemoryStore
from sidecar.store.timed import timed
from sidecar.telemetry import names
from sidecar.telemetry.metrics import Metrics
from tests.support.clock import FakeClock


class Slow:
    """Takes 20 ms for an answer, or gives none."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.closed = False

    async def read(self, key: str) -> bytes:
        self._clock.advance(0.02)
        return key.encode()

    async def ping(self) -> None:
        raise StoreUnavailable("timeout", "no answer")

    async def close(self) -> None:
        self.closed = True


async def test_how_long_an_answer_takes() -> None:
    clock, metrics = FakeClock(), Metrics()
    slow = Slow(clock)
    store = timed(cast("Store", slow), clock, metrics)
    assert await store.read("a") == b"a"
    with pytest.raises(StoreUnavailable):
        await store.ping()
    await store.close()
    assert slow.closed
    found: dict[Any, Any] = metrics.histograms(names.STORE_SECONDS)
    assert found[("read",)].sum == pytest.approx(0.02)
    assert sum(found[("ping",)].counts) == 1
    assert metrics.samples(names.STORE_ERRORS) == {("ping", "timeout"): 1}


async def test_it_is_the_store_it_was() -> None:
    clock = FakeClock()
    store = timed(MemoryStore(clock), clock, Metrics())
    assert await store.swap("k", None, b"v")
    assert await store.read("k") == b"v"


class Prompt:
    """Answers by a future, as a store does that has a thread."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[bool]] = []

    def put(self, key: str, expected: bytes | None, value: bytes, *, keep: float) -> asyncio.Future[bool]:
        self.asked.append(asyncio.get_running_loop().create_future())
        return self.asked[-1]


async def test_an_answer_by_a_future_is_timed_and_stays_a_future() -> None:
    clock, metrics, prompt = FakeClock(), Metrics(), Prompt()
    store = timed(cast("Store", prompt), clock, metrics)
    pending = [store.put("k", None, b"", keep=1) for _ in range(3)]
    # Before they are answered: it hears of each after whoever timed it.
    gathered = asyncio.gather(*pending, return_exceptions=True)
    clock.advance(0.02)
    prompt.asked[0].set_result(True)
    prompt.asked[1].set_exception(StoreUnavailable("full", "no space"))
    prompt.asked[2].cancel()
    assert all(isinstance(each, asyncio.Future) for each in pending)
    assert [type(each) for each in await gathered] == [bool, StoreUnavailable, asyncio.CancelledError]
    assert metrics.histograms(names.STORE_SECONDS)[("put",)].sum == pytest.approx(0.06)
    assert metrics.samples(names.STORE_ERRORS) == {("put", "full"): 1}
