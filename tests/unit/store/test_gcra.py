"""GCRA on integers: exact, never early, and bounded in memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.store.gcra import Buckets, Pace, advance, bounded, digest


def test_an_interval_is_rounded_up_so_that_the_rate_is_never_exceeded() -> None:
    assert Pace.of(3, 1.0, burst=1).interval == 333_333_334
    assert Pace.of(100, 60.0, burst=1).interval == 600_000_000
    assert Pace.of(10**12, 1.0, burst=1).interval == 1


@pytest.mark.parametrize("burst", [1, 7, 10_000])
def test_a_burst_of_one_instant_passes_to_the_last_one(burst: int) -> None:
    pace = Pace.of(3, 1.0, burst)
    buckets = Buckets()
    now = 123_456_789_012_345
    assert sum(buckets.take("k", pace.interval, pace.slack, now) == 0 for _ in range(burst + 5)) == burst


@given(
    steps=st.lists(st.tuples(st.integers(0, 10**9), st.integers(-3, 8), st.booleans()), max_size=60),
    interval=st.integers(1, 10**9),
    burst=st.integers(1, 8),
)
def test_a_transition_keeps_what_is_due_between_now_and_a_burst_ahead(
    steps: list[tuple[int, int, bool]], interval: int, burst: int
) -> None:
    pace = Pace(interval, burst)
    due = now = 0
    for pause, quantity, is_back in steps:
        now = max(0, now - pause) if is_back else now + pause
        before = due
        wait, due = advance(due, now, pace, quantity)
        assert now <= due <= now + pace.span
        if wait:
            assert due == min(max(before, now), now + pace.span)
            assert advance(due, now + wait, pace, quantity)[0] == 0 or quantity > burst
            assert advance(due, now + wait - 1, pace, quantity)[0] > 0


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10**9)), max_size=200), st.integers(2, 20))
def test_buckets_are_bounded_and_a_key_that_fits_is_exact(uses: list[tuple[int, int]], capacity: int) -> None:
    buckets, exact = Buckets(capacity), Buckets(10**6)
    now = 0
    for key, pause in uses:
        now += pause
        got, wanted = (each.take(key, 10**8, 3 * 10**8, now) for each in (buckets, exact))
        assert len(buckets) <= capacity
        # Forgetting lets more through, never less.
        assert got <= wanted


def test_a_place_in_the_line_is_taken_in_any_case() -> None:
    buckets = Buckets()
    assert [buckets.take_place("k", 10, 10, 0) for _ in range(5)] == [0, 0, 10, 20, 30]
    assert buckets.take("k", 10, 10, 0) == 40


def test_what_is_given_back_can_be_taken_again() -> None:
    buckets = Buckets()
    assert buckets.take("k", 10, 0, 0) == 0
    buckets.give_back("k", 10)
    buckets.give_back("never seen", 10)
    assert buckets.take("k", 10, 0, 0) == 0
    assert buckets.take("k", 10, 0, 0) == 10


def test_digests_tell_parts_apart() -> None:
    lists: list[tuple[str | bytes | None, ...]] = [
        *(("a", "b"), ("ab",), ("a", "b", ""), ("a", "b", None), ("", "ab"), (None, "ab"), ("1:a",), ()),
        ("\udcff",),
    ]
    assert len({digest(each) for each in lists}) == len(lists)
    assert digest(("a",)) == digest((b"a",))


def test_keys_are_kept_as_they_are_up_to_a_length() -> None:
    assert bounded("x" * 256) == "x" * 256
    assert bounded(("x" * 128, b"y" * 128, None)) == ("x" * 128, b"y" * 128, None)
    assert isinstance(bounded(("x" * 128, b"y" * 129)), bytes)
    assert bounded(None) is None
