from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.clusters.ejection import Ejection, OutlierEjectionConfig
from tests.support.clock import FakeClock


class Bench:
    """One endpoint's ejection; `allowed` is what the cluster says."""

    def __init__(self, **config: Any) -> None:
        self.clock = FakeClock()
        self.allowed = True
        self.changes: list[bool] = []
        self.ejection = Ejection(
            OutlierEjectionConfig(**config),
            self.clock,
            may_eject=lambda: self.allowed,
            changed=lambda: self.changes.append(self.ejection.is_ejected),
        )

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.ejection.failed(self.clock.monotonic())

    def serve(self, times: int = 1) -> None:
        for _ in range(times):
            self.ejection.succeeded(self.clock.monotonic())

    def ejected_for(self) -> float:
        assert self.ejection.until is not None
        return self.ejection.until - self.clock.monotonic()


def test_failures_in_a_row_eject() -> None:
    bench = Bench(consecutive_failures=3, min_success_rate=0.0)
    bench.fail(2)
    bench.serve()
    bench.fail(2)
    assert not bench.ejection.is_ejected
    bench.fail()
    assert bench.ejection.is_ejected
    assert (bench.changes, bench.ejection.why) == ([True], "3 failures in a row")


def test_a_low_success_rate_ejects_although_failures_are_spread() -> None:
    bench = Bench(consecutive_failures=100)
    for _ in range(4):
        bench.serve(3)
        bench.fail()
        bench.clock.advance(0.5)
    assert bench.ejection.is_ejected, "3 of 4 is below 80 %"


def test_a_rate_of_fewer_than_five_says_nothing() -> None:
    bench = Bench(consecutive_failures=100)
    bench.fail(4)
    assert not bench.ejection.is_ejected
    bench.fail()
    assert bench.ejection.is_ejected


def test_eighty_percent_is_enough() -> None:
    bench = Bench(consecutive_failures=100)
    for _ in range(20):
        bench.serve(4)
        bench.fail()
        bench.clock.advance(0.3)
    assert not bench.ejection.is_ejected


def test_what_is_older_than_ten_seconds_does_not_count() -> None:
    bench = Bench(consecutive_failures=100)
    bench.fail(4)
    bench.clock.advance(12)
    bench.fail(4)
    assert not bench.ejection.is_ejected


def test_a_rate_of_zero_turns_that_rule_off() -> None:
    bench = Bench(consecutive_failures=100, min_success_rate=0.0)
    bench.fail(99)
    assert not bench.ejection.is_ejected


def test_each_ejection_is_longer_up_to_the_longest() -> None:
    bench = Bench(base_ejection=30.0, max_ejection=100.0)
    times = []
    for _ in range(5):
        bench.fail(5)
        times.append(bench.ejected_for())
        bench.clock.advance(times[-1])
        assert not bench.ejection.is_ejected
    assert times == [30, 60, 90, 100, 100]


def test_quiet_intervals_are_forgiven_one_by_one() -> None:
    bench = Bench(base_ejection=30.0)
    for _ in range(3):
        bench.fail(5)
        bench.clock.advance(bench.ejected_for())
    bench.clock.advance(20)
    bench.fail(5)
    assert bench.ejected_for() == 60, "three ejections, two intervals of quiet, and one more"
    bench.clock.advance(60 + 1000)
    bench.fail(5)
    assert bench.ejected_for() == 30


def test_who_is_needed_stays_until_it_is_not() -> None:
    bench = Bench()
    bench.allowed = False
    bench.fail(20)
    assert not bench.ejection.is_ejected
    bench.allowed = True
    bench.fail()
    assert bench.ejection.is_ejected


def test_late_answers_do_not_lengthen_an_ejection() -> None:
    bench = Bench()
    bench.fail(5)
    until = bench.ejection.until
    bench.clock.advance(10)
    bench.fail(50)
    assert bench.ejection.until == until
    bench.clock.advance(20)
    bench.fail(4)
    assert not bench.ejection.is_ejected, "what failed meanwhile is forgotten"


def test_a_release_before_time_forgets_all() -> None:
    bench = Bench()
    bench.fail(5)
    bench.ejection.release()
    assert bench.changes == [True, False]
    assert not bench.clock.timers
    bench.fail(4)
    assert not bench.ejection.is_ejected


def test_closed_down_it_leaves_no_timer() -> None:
    bench = Bench()
    bench.fail(5)
    bench.ejection.close()
    assert not bench.clock.timers


@settings(deadline=None, max_examples=300)
@given(
    st.integers(1, 6),
    st.sampled_from([0.0, 50.0, 80.0, 100.0]),
    st.lists(
        st.one_of(st.sampled_from(["ok", "fail"]), st.integers(1, 30)),
        max_size=120,
    ),
)
def test_it_does_what_the_model_does(row: int, rate: float, steps: list[str | int]) -> None:
    """The model keeps every answer with its time. Whole seconds: the window is counted in seconds that end."""
    bench = Bench(consecutive_failures=row, min_success_rate=rate, base_ejection=10.0, max_ejection=25.0)
    answers: list[tuple[float, bool]] = []
    until, count, released, in_row = None, 0, 0.0, 0
    for step in steps:
        now = bench.clock.monotonic()
        if isinstance(step, int):
            for _ in range(step):
                bench.clock.advance(1)
                now = bench.clock.monotonic()
                if until is not None and now >= until:
                    until, released, in_row, answers = None, now, 0, []
            assert bench.ejection.is_ejected == (until is not None)
            continue
        if step == "ok":
            bench.serve()
            in_row = 0
            answers.append((now, True))
        else:
            bench.fail()
            if until is None:
                in_row += 1
                answers.append((now, False))
                window = [ok for when, ok in answers if when + 1 > now - 10]
                bad = len(window) >= 5 and sum(window) * 100 < rate * len(window)
                if in_row >= row or bad:
                    count = max(0, count - int((now - released) / 10)) + 1
                    until = now + min(10 * count, 25)
        assert bench.ejection.until == until
    bench.ejection.close()
