from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.clock import Deadlines, LoopClock, Turn, sleep
from tests.support.clock import FakeClock


class Entry:
    """Calls itself due only when it is, as every entry must."""

    def __init__(self, when: float, deadlines: Deadlines) -> None:
        self.when = when
        self.deadlines = deadlines
        self.fired: float | None = None

    def on_deadline(self, now: float) -> None:
        if now < self.when:
            self.deadlines.add(self.when, now, self)
        else:
            self.fired = now


@given(st.lists(st.floats(0, 100), max_size=30))
def test_never_early_and_at_most_a_bucket_late(delays: list[float]) -> None:
    clock = FakeClock()
    deadlines = Deadlines(clock)
    began = clock.monotonic()
    entries = [Entry(began + delay, deadlines) for delay in delays]
    for entry in entries:
        deadlines.add(entry.when, began, entry)
    for _ in range(1030):
        clock.advance(0.1)
    for entry in entries:
        assert entry.fired is not None
        assert entry.when <= entry.fired <= entry.when + 0.2
    assert len(deadlines) == 0


def test_what_left_its_bucket_is_not_called() -> None:
    clock = FakeClock()
    deadlines = Deadlines(clock)
    now = clock.monotonic()
    entry = Entry(now + 1, deadlines)
    bucket = deadlines.add(entry.when, now, entry)
    assert len(deadlines) == 1
    bucket.discard(entry)
    clock.advance(5)
    assert entry.fired is None


def test_an_entry_may_end_another_of_its_bucket() -> None:
    clock = FakeClock()
    deadlines = Deadlines(clock)
    now = clock.monotonic()
    ended = []

    class Pair:
        other: Pair
        bucket: set

        def on_deadline(self, now: float) -> None:
            ended.append(self)
            self.bucket.discard(self.other)

    one, two = Pair(), Pair()
    one.other, two.other = two, one
    one.bucket = two.bucket = deadlines.add(now + 1, now, one)
    assert deadlines.add(now + 1, now, two) is one.bucket
    clock.advance(2)
    assert len(ended) == 1


def test_a_nearer_entry_moves_the_timer() -> None:
    clock = FakeClock()
    deadlines = Deadlines(clock)
    now = clock.monotonic()
    far, near = Entry(now + 60, deadlines), Entry(now + 0.5, deadlines)
    deadlines.add(far.when, now, far)
    deadlines.add(near.when, now, near)
    clock.advance(1)
    assert near.fired is not None
    assert far.fired is None


def test_a_defect_of_one_entry_stops_no_other() -> None:
    clock = FakeClock()
    deadlines = Deadlines(clock)
    now = clock.monotonic()

    class Broken:
        def on_deadline(self, now: float) -> None:
            raise ZeroDivisionError

    late = Entry(now + 2, deadlines)
    deadlines.add(now + 1, now, Broken())
    deadlines.add(late.when, now, late)
    with pytest.raises(ZeroDivisionError):
        clock.advance(1.5)
    clock.advance(1)
    assert late.fired is not None


async def test_sleep_waits_for_its_clock() -> None:
    clock = FakeClock()
    task = asyncio.ensure_future(sleep(clock, 3))
    for _ in range(3):
        await asyncio.wait([task], timeout=0)
    assert not task.done()
    clock.advance(3)
    await task


async def test_a_turn_that_is_given_ends_the_wait() -> None:
    clock, turn = FakeClock(), Turn()
    waiting = asyncio.ensure_future(turn.wait(clock, 1.0))
    await asyncio.sleep(0)
    assert turn.give()
    assert await waiting
    assert turn.is_given
    assert not turn.give(), "once"
    assert not clock.timers


async def test_a_turn_that_does_not_come_in_time_cannot_be_given() -> None:
    clock, turn = FakeClock(), Turn()
    waiting = asyncio.ensure_future(turn.wait(clock, 1.0))
    await asyncio.sleep(0)
    clock.advance(1.0)
    assert not turn.give()
    assert not await waiting
    assert not turn.is_given


async def test_who_gave_up_waiting_may_still_have_been_given_its_turn() -> None:
    clock, turn = FakeClock(), Turn()
    waiting = asyncio.ensure_future(turn.wait(clock, 1.0))
    await asyncio.sleep(0)
    turn.give()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert turn.is_given
    assert not clock.timers


async def test_the_loop_clock_runs_callbacks() -> None:
    clock = LoopClock(asyncio.get_running_loop())
    done = asyncio.Event()
    clock.call_later(0, done.set)
    await asyncio.wait_for(done.wait(), 5)
    assert clock.wall() > 1_700_000_000
    assert clock.monotonic() <= clock.monotonic()
