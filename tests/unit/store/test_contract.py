"""What every store promises, run against each of them: memory, SQLite, and a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from sidecar.clock import LoopClock
from sidecar.store.gcra import NANOSECONDS, Pace
from sidecar.store.interface import Store, StoreUnavailable
from sidecar.store.ledger import Allowance
from sidecar.store.memory import MemoryStore
from sidecar.store.records import Record
from sidecar.store.url import open_store
from tests.support.clock import FakeClock
from tests.support.redis import RedisServer

pytestmark = pytest.mark.asyncio

HOUR = Allowance(1000, 3600 * NANOSECONDS)


@dataclass
class Subject:
    """Two clients of one store, as two sidecars would have, and a way to let its time pass."""

    one: Store
    other: Store
    advance: Callable[[float], Awaitable[None]]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest_asyncio.fixture(params=["memory", "sqlite", "redis", "redis by unix socket"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param in {"memory", "sqlite"}:
        clock = FakeClock()

        async def advance(seconds: float) -> None:
            clock.advance(seconds)

        if request.param == "memory":
            one: Store = MemoryStore(clock)
            other = one
        else:
            one, other = (
                open_store("sqlite:///state/s.db", clock=clock, random=random.Random(1), directory=tmp_path)
                for _ in range(2)
            )
        subject = Subject(one, other, advance)
    else:
        server = request.getfixturevalue("redis_server")
        url = server.url if request.param == "redis" else f"unix://{server.socket}?db=1"
        real = LoopClock(asyncio.get_running_loop())
        one, other = (open_store(url, clock=real, random=random.Random(1)) for _ in range(2))

        async def pass_time(seconds: float) -> None:
            # Redis keeps its own time; what is left to do is to wait for it.
            until = real.wall() + seconds
            while real.wall() <= until:
                await one.ping()

        subject = Subject(one, other, pass_time)
        await _empty(server, 0 if request.param == "redis" else 1)
    yield subject
    await subject.one.close()
    await subject.other.close()


async def _empty(server: RedisServer, database: int) -> None:
    import redis.asyncio

    async with redis.asyncio.from_url(f"redis://127.0.0.1:{server.port}/{database}") as client:
        await client.flushdb()


# ── limits ──


async def test_a_burst_passes_at_once_and_the_next_one_is_told_when(subject: Subject) -> None:
    pace = Pace.of(10, 100.0, burst=5)
    assert [await subject.one.take("k", pace) for _ in range(5)] == [0.0] * 5
    wait = await subject.one.take("k", pace)
    assert 9.0 < wait <= 10.0


async def test_a_wait_that_was_told_is_enough(subject: Subject) -> None:
    pace = Pace.of(100, 5.0, burst=3)
    for _ in range(3):
        assert await subject.one.take("k", pace) == 0.0
    await subject.advance(await subject.one.take("k", pace))
    assert await subject.one.take("k", pace) == 0.0
    assert await subject.one.take("k", pace) > 0.0


async def test_a_refusal_takes_nothing(subject: Subject) -> None:
    pace = Pace.of(1, 1000.0, burst=1)
    assert await subject.one.take("k", pace) == 0.0
    first = await subject.one.take("k", pace)
    for _ in range(20):
        assert await subject.one.take("k", pace) <= first


async def test_keys_do_not_share(subject: Subject) -> None:
    pace = Pace.of(1, 1000.0, burst=1)
    assert await subject.one.take("a", pace) == 0.0
    assert await subject.one.take("b", pace) == 0.0
    assert await subject.one.take("a", pace) > 0.0


async def test_peek_takes_nothing_and_tells_the_same(subject: Subject) -> None:
    pace = Pace.of(1, 1000.0, burst=1)
    for _ in range(3):
        assert await subject.one.take("k", pace, peek=True) == 0.0
    assert await subject.one.take("k", pace) == 0.0
    assert await subject.one.take("k", pace, peek=True) > 990.0


async def test_several_are_taken_together_or_not_at_all(subject: Subject) -> None:
    pace = Pace.of(1, 100.0, burst=10)
    assert await subject.one.take("k", pace, 8) == 0.0
    assert 590.0 < await subject.one.take("k", pace, 8) <= 600.0
    assert await subject.one.take("k", pace, 2) == 0.0


async def test_what_is_given_back_can_be_taken_again(subject: Subject) -> None:
    pace = Pace.of(1, 1000.0, burst=2)
    for _ in range(2):
        assert await subject.one.take("k", pace) == 0.0
    await subject.one.take("k", pace, -1)
    assert await subject.one.take("k", pace) == 0.0
    assert await subject.one.take("k", pace) > 0.0


async def test_giving_back_too_much_does_not_raise_the_burst(subject: Subject) -> None:
    pace = Pace.of(1, 1000.0, burst=2)
    await subject.one.take("k", pace, -5)
    assert [await subject.one.take("k", pace) > 0.0 for _ in range(3)] == [False, False, True]


async def test_a_slower_pace_from_a_new_configuration_locks_nobody_out_for_longer_than_its_burst(
    subject: Subject,
) -> None:
    slow = Pace.of(1, 10_000.0, burst=50)
    for _ in range(50):
        assert await subject.one.take("k", slow) == 0.0
    assert await subject.one.take("k", Pace.of(1, 1.0, burst=2)) <= 1.0


async def test_two_sidecars_at_once_never_let_more_through_than_the_burst(subject: Subject) -> None:
    pace = Pace.of(1, 1000.0, burst=10)
    waits = await asyncio.gather(*((subject.one, subject.other)[i % 2].take("k", pace) for i in range(200)))
    assert waits.count(0.0) == 10


async def test_over_some_time_no_more_than_rate_and_burst_passes(subject: Subject) -> None:
    pace = Pace.of(1000, 1.0, burst=7)
    begun = time.monotonic()
    passed = 0
    for _ in range(12):
        waits = await asyncio.gather(*((subject.one, subject.other)[i % 2].take("k", pace) for i in range(40)))
        passed += waits.count(0.0)
        await subject.advance(0.004)
    # Time that is faked passes as told; real time has passed at least so long.
    elapsed = max(time.monotonic() - begun, 12 * 0.004)
    assert 7 + 11 * 3 <= passed <= 7 + elapsed * 1000


# ── budgets ──


async def test_two_hundred_at_once_against_a_budget_for_ten(subject: Subject) -> None:
    budget = Allowance(10 * 50, 3600 * NANOSECONDS)
    answers = await asyncio.gather(
        *((subject.one, subject.other)[i % 2].reserve("k", budget, f"r{i}", 50, lease=60) for i in range(200))
    )
    assert answers.count(None) == 10
    shortage = next(each for each in answers if each is not None)
    assert (shortage.used, shortage.reserved) == (0, 500)
    assert 3590 < shortage.resets_in <= 3600


async def test_the_rest_of_a_reservation_is_given_back(subject: Subject) -> None:
    assert await subject.one.reserve("k", HOUR, "a", 1000, lease=60) is None
    assert await subject.other.reserve("k", HOUR, "b", 1, lease=60) is not None
    await subject.one.settle("k", HOUR, "a", 300)
    assert await subject.other.reserve("k", HOUR, "b", 700, lease=60) is None
    shortage = await subject.one.reserve("k", HOUR, "c", 1, lease=60)
    assert shortage is not None
    assert (shortage.used, shortage.reserved) == (300, 700)


async def test_more_spent_than_reserved_is_charged_all_the_same(subject: Subject) -> None:
    assert await subject.one.reserve("k", HOUR, "a", 10, lease=60) is None
    await subject.one.settle("k", HOUR, "a", 5000)
    shortage = await subject.one.reserve("k", HOUR, "b", 1, lease=60)
    assert shortage is not None
    assert (shortage.used, shortage.reserved) == (5000, 0)


async def test_a_window_that_is_over_gives_all_of_it_again(subject: Subject) -> None:
    short = Allowance(10, NANOSECONDS // 20)
    assert await subject.one.reserve("k", short, "a", 10, lease=60) is None
    await subject.one.settle("k", short, "a", 10)
    shortage = await subject.one.reserve("k", short, "b", 10, lease=60)
    if shortage is not None:
        assert shortage.resets_in <= 0.05
        await subject.advance(shortage.resets_in)
    assert await subject.one.reserve("k", short, "b", 10, lease=60) is None


async def test_a_reservation_counts_in_the_next_window_too(subject: Subject) -> None:
    short = Allowance(10, NANOSECONDS // 50)
    assert await subject.one.reserve("k", short, "a", 8, lease=60) is None
    await subject.advance(0.03)
    assert await subject.one.reserve("k", short, "b", 3, lease=60) is not None


async def test_charging_in_the_middle_renews_the_reservation(subject: Subject) -> None:
    assert await subject.one.reserve("k", HOUR, "a", 400, lease=60) is None
    assert await subject.one.charge("k", HOUR, "a", 450, reserve=400, lease=60) is None
    shortage = await subject.one.charge("k", HOUR, "a", 200, reserve=400, lease=60)
    assert shortage is not None
    assert (shortage.used, shortage.reserved) == (650, 0)
    await subject.one.settle("k", HOUR, "a", 50)
    shortage = await subject.one.reserve("k", HOUR, "b", 301, lease=60)
    assert shortage is not None
    assert shortage.used == 700


async def test_the_reservation_of_a_dead_sidecar_expires_and_is_charged_if_it_comes_late(subject: Subject) -> None:
    assert await subject.one.reserve("k", HOUR, "a", 1000, lease=0.03) is None
    assert await subject.one.reserve("k", HOUR, "a2", 1000, lease=0.03) is not None
    await subject.advance(0.04)
    assert await subject.other.reserve("k", HOUR, "b", 500, lease=60) is None
    await subject.one.settle("k", HOUR, "a", 100)
    shortage = await subject.other.reserve("k", HOUR, "c", 401, lease=60)
    assert shortage is not None
    assert (shortage.used, shortage.reserved) == (100, 500)


async def test_a_lease_that_is_renewed_lives(subject: Subject) -> None:
    assert await subject.one.reserve("k", HOUR, "a", 1000, lease=0.2) is None
    await subject.one.renew([("k", "a"), ("k", "never was")], lease=60)
    await subject.advance(0.25)
    assert await subject.other.reserve("k", HOUR, "b", 1, lease=60) is not None


async def test_the_same_reservation_twice_is_one(subject: Subject) -> None:
    for _ in range(3):
        assert await subject.one.reserve("k", HOUR, "a", 900, lease=60) is None


async def test_peek_reserves_nothing(subject: Subject) -> None:
    for _ in range(3):
        assert await subject.one.reserve("k", HOUR, "p", 1000, lease=60, peek=True) is None
    assert await subject.one.reserve("k", HOUR, "a", 1000, lease=60) is None
    assert await subject.one.reserve("k", HOUR, "p", 1, lease=60, peek=True) is not None


async def test_settling_again_charges_once(subject: Subject) -> None:
    assert await subject.one.reserve("k", HOUR, "a", 500, lease=60) is None
    for store in (subject.one, subject.other, subject.one):
        await store.settle("k", HOUR, "a", 400)
    shortage = await subject.one.reserve("k", HOUR, "b", 601, lease=60)
    assert shortage is not None
    assert (shortage.used, shortage.reserved) == (400, 0)


async def test_settling_what_was_never_reserved_charges_it(subject: Subject) -> None:
    await subject.one.settle("k", HOUR, "a", 1000)
    assert await subject.one.reserve("k", HOUR, "b", 1, lease=60) is not None


# ── records ──


async def test_a_record_is_put_by_whoever_knows_what_is_there(subject: Subject) -> None:
    assert await subject.one.find("r:a") is None
    assert await subject.one.put("r:a", None, b"1\x00\xff", keep=60) is True
    taken = await subject.other.put("r:a", None, b"2", keep=60)
    assert isinstance(taken, Record)
    assert taken.value == b"1\x00\xff"
    assert await subject.other.put("r:a", taken.value, b"2", keep=60) is True
    late = await subject.one.put("r:a", b"1\x00\xff", b"3", keep=60)
    assert isinstance(late, Record)
    assert late.value == b"2"
    found = await subject.one.find("r:a")
    assert found is not None
    assert found.value == b"2"


async def test_nothing_is_replaced_where_there_is_nothing(subject: Subject) -> None:
    assert await subject.one.put("r:a", b"1", b"2", keep=60) is False
    assert await subject.one.find("r:a") is None


async def test_a_record_is_forgotten_when_its_time_is_over(subject: Subject) -> None:
    assert await subject.one.put("r:a", None, b"1", keep=0.2) is True
    await subject.advance(0.25)
    assert await subject.other.find("r:a") is None
    assert await subject.other.put("r:a", b"1", b"2", keep=60) is False
    assert await subject.other.put("r:a", None, b"3", keep=60) is True


async def test_the_age_of_a_record_counts_from_its_last_put(subject: Subject) -> None:
    await subject.one.put("r:a", None, b"1", keep=60)
    await subject.advance(0.2)
    old = await subject.other.find("r:a")
    assert old is not None
    assert old.age >= 0.2
    assert await subject.one.put("r:a", b"1", b"1", keep=60) is True
    young = await subject.other.find("r:a")
    assert young is not None
    assert young.age < old.age


async def test_of_many_who_put_at_once_one_wins(subject: Subject) -> None:
    stores = (subject.one, subject.other)
    results = await asyncio.gather(*(stores[i % 2].put("r:a", None, b"%d" % i, keep=60) for i in range(20)))
    assert sum(each is True for each in results) == 1
    values = {each.value for each in results if isinstance(each, Record)}
    assert values == {b"%d" % next(i for i, each in enumerate(results) if each is True)}


async def test_records_are_listed_by_prefix_page_by_page(subject: Subject) -> None:
    for key in ("r:c", "r:a", "r:b", "s:a"):
        await subject.one.put(key, None, key.encode(), keep=60)
    first = await subject.other.scan("r:", "", 2)
    assert [key for key, _ in first] == ["r:a", "r:b"]
    rest = await subject.other.scan("r:", "r:b", 2)
    assert [(key, record.value) for key, record in rest] == [("r:c", b"r:c")]


# ── life ──


async def test_a_closed_store_says_so(subject: Subject) -> None:
    await subject.one.ping()
    await subject.one.close()
    await subject.one.close()
    with pytest.raises(StoreUnavailable) as caught:
        await subject.one.take("k", Pace.of(1, 1.0, burst=1))
    assert caught.value.kind == "closed"


async def test_a_caller_that_gives_up_harms_nobody(subject: Subject) -> None:
    pace = Pace.of(1, 1000.0, burst=50)
    tasks = [asyncio.ensure_future(subject.one.take("k", pace)) for _ in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            assert await task == 0.0
    assert await subject.one.take("k", pace) == 0.0
