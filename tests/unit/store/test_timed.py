from __future__ import annotations

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
