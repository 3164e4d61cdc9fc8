from __future__ import annotations

import asyncio

import pytest

from sidecar.control.memory import AGAIN_AFTER, LOOK_EVERY, WORTH, Tidying, give_back, resident_bytes
from tests.support.alerts import fake_runtime
from tests.support.clock import FakeClock

MIB = 1024 * 1024


class Heap:
    """So much is in use, and so much is free between it until somebody gives it back."""

    def __init__(self) -> None:
        self.used, self.free = 60 * MIB, 0
        self.given = 0

    def resident(self) -> int:
        return self.used + self.free

    def give_back(self) -> None:
        self.given += 1
        self.free = 0


@pytest.fixture
def heap() -> Heap:
    return Heap()


class Watched:
    def __init__(self, heap: Heap) -> None:
        self.clock = FakeClock()
        self.runtime = fake_runtime(self.clock)
        self.tidying = Tidying(self.runtime, heap.resident, heap.give_back)
        self.tidying.start()

    async def looks(self, seconds: float) -> None:
        for _ in range(round(seconds / LOOK_EVERY)):
            self.clock.advance(LOOK_EVERY)
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*tasks)


async def test_what_a_burst_has_left_is_given_back(heap: Heap) -> None:
    watched = Watched(heap)
    await watched.looks(60)
    assert heap.given == 0
    heap.free = WORTH - 1
    await watched.looks(60)
    assert heap.given == 0, "not worth it"
    heap.free = 300 * MIB
    await watched.looks(LOOK_EVERY)
    assert (heap.given, heap.resident()) == (1, 60 * MIB)
    watched.tidying.stop()
    assert watched.clock.timers == []


async def test_what_is_in_use_is_not_searched_again_and_again_but_when_it_grows_or_after_a_while(heap: Heap) -> None:
    watched = Watched(heap)
    heap.used = 200 * MIB
    await watched.looks(LOOK_EVERY)
    assert heap.given == 1
    await watched.looks(AGAIN_AFTER - LOOK_EVERY)
    assert heap.given == 1
    heap.used += WORTH
    await watched.looks(LOOK_EVERY)
    assert heap.given == 2
    # The burst is over; nothing has grown, and still it is found.
    heap.used, heap.free = 60 * MIB, 140 * MIB
    await watched.looks(AGAIN_AFTER)
    assert (heap.given, heap.free) == (3, 0)


def test_the_real_one() -> None:
    assert resident_bytes() > MIB
    give_back()
