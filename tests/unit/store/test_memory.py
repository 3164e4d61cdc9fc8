"""The store in memory: what it need not keep it does not keep."""

from __future__ import annotations

from sidecar.store.gcra import NANOSECONDS, Pace
from sidecar.store.ledger import Allowance
from sidecar.store.memory import MemoryStore
from tests.support.clock import FakeClock


async def test_limits_that_are_on_time_again_are_forgotten() -> None:
    clock = FakeClock()
    store = MemoryStore(clock)
    pace = Pace.of(1, 1.0, burst=1)
    for i in range(3 * store.SWEEP_EACH):
        await store.take(f"k{i}", pace)
        clock.advance(0.1)
    assert len(store._due) <= store.SWEEP_EACH + 10  # noqa: SLF001 - what is kept is the promise


async def test_what_was_settled_is_forgotten_after_a_minute() -> None:
    clock = FakeClock()
    store = MemoryStore(clock)
    for i in range(1000):
        await store.settle("k", Allowance(10, NANOSECONDS), f"r{i}", 1)
        clock.advance(1.0)
    assert len(store._settled) <= 60  # noqa: SLF001
