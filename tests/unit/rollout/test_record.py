from __future__ import annotations

import pytest

from sidecar.rollout.record import Record
from sidecar.rollout.state import Phase, State
from sidecar.store.memory import MemoryStore
from tests.support.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return MemoryStore(clock)


def moved(state: State, percent: float) -> State:
    return state.moved(Phase.PROGRESSING, percent, "on", "test", 1.0, None)


async def test_what_one_wrote_the_other_reads(store: MemoryStore) -> None:
    one, two = (Record(store, "agent", "r1", each) for each in ("one", "two"))
    state = moved(await one.read(), 10)
    assert await one.write(state)
    assert await two.read() == state
    assert await Record(store, "agent", "r2", "one").read() == State("r2"), "another revision begins anew"


async def test_who_has_not_seen_the_last_state_cannot_replace_it(store: MemoryStore) -> None:
    one, two = (Record(store, "agent", "r1", each) for each in ("one", "two"))
    fresh = await one.read()
    assert await two.read() == fresh
    assert await one.write(moved(fresh, 10))
    assert not await two.write(moved(fresh, 50))
    assert (await two.read()).percent == 10
    assert await two.write(moved(fresh, 50))


async def test_a_state_of_a_sidecar_that_knows_more_is_begun_anew(store: MemoryStore) -> None:
    await store.swap("rollout:agent:r1", None, b'{"revision": "r1", "of": "the future"}')
    record = Record(store, "agent", "r1", "one")
    state = await record.read()
    assert state == State("r1")
    assert await record.write(moved(state, 10)), "and can be replaced"


async def test_one_leads_until_its_lease_ends(store: MemoryStore, clock: FakeClock) -> None:
    one, two = (Record(store, "agent", "r1", each) for each in ("one", "two"))
    assert await one.lead(2.0)
    assert not await two.lead(2.0)
    clock.advance(1.5)
    assert await one.lead(2.0)
    clock.advance(1.5)
    assert not await two.lead(2.0)
    clock.advance(0.6)
    assert await two.lead(2.0)
    assert await two.lead(0.0) is not None
    assert await one.lead(2.0), "who let go does not hold it up"


async def test_counts_are_told_in_one_register(store: MemoryStore) -> None:
    one, two = (Record(store, "agent", "r1", each) for each in ("one", "two"))
    assert await one.counts() is None
    assert await one.tell(None, b"{1}")
    assert not await two.tell(None, b"{2}")
    assert await two.tell(await two.counts(), b"{2}")
    assert await one.counts() == b"{2}"
