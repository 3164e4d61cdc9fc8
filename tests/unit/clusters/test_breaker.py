from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.clusters.breaker import Breaker, BreakerState, CircuitBreakerConfig
from tests.support.clock import FakeClock


class Bench:
    """A breaker, its clock, and what it told."""

    def __init__(self, **config: Any) -> None:
        self.clock = FakeClock()
        self.states: list[BreakerState] = []
        self.told = 0
        self.breaker = Breaker(CircuitBreakerConfig(**config), self.clock, self._changed)
        self._number = 0

    def _changed(self, before: BreakerState) -> None:
        self.told += 1
        if self.breaker.state != before:
            self.states.append(self.breaker.state)

    def start(self) -> Hashable:
        self._number += 1
        self.breaker.started(self._number)
        return self._number

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.record(self.start(), failed=True)

    def serve(self, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.record(self.start(), failed=False)


def test_failures_in_a_row_open_it() -> None:
    bench = Bench(failure_threshold=3)
    bench.fail(2)
    bench.serve()
    bench.fail(2)
    assert (bench.breaker.state, bench.breaker.failures) == ("closed", 2)
    bench.fail()
    assert bench.breaker.state == "open"
    assert not bench.breaker.admits


def test_what_says_nothing_of_the_endpoint_changes_nothing() -> None:
    bench = Bench(failure_threshold=2)
    bench.fail()
    bench.breaker.record(bench.start(), failed=None)
    bench.fail()
    assert bench.states == ["open"]


def test_time_alone_makes_it_half_open() -> None:
    bench = Bench(failure_threshold=1, open_for=60.0)
    bench.fail()
    assert bench.breaker.retry_after(bench.clock.monotonic()) == 60.0
    bench.clock.advance(59.9)
    assert bench.breaker.state == "open"
    # The wall clock is not asked: an administrator may set it.
    bench.clock.jump(3600)
    assert bench.breaker.state == "open"
    bench.clock.advance(0.1)
    assert bench.breaker.state == "half-open"
    assert bench.breaker.admits


def test_few_probe_at_a_time() -> None:
    bench = Bench(failure_threshold=1, open_for=1.0, half_open_max=2, success_threshold=3)
    bench.fail()
    bench.clock.advance(1)
    one, other = bench.start(), bench.start()
    assert not bench.breaker.admits
    bench.breaker.record(one, failed=False)
    assert bench.breaker.admits
    bench.breaker.record(other, failed=None)
    assert bench.breaker.state == "half-open"
    bench.serve(2)
    assert bench.states == ["open", "half-open", "closed"]
    assert not bench.clock.timers


def test_each_failed_probe_doubles_the_time_up_to_ten_times() -> None:
    bench = Bench(failure_threshold=1, open_for=10.0)
    bench.fail()
    waits = []
    for _ in range(7):
        waits.append(bench.breaker.retry_after(bench.clock.monotonic()))
        bench.clock.advance(waits[-1])
        bench.fail()
    assert waits == [10, 20, 40, 80, 100, 100, 100]


def test_having_closed_it_starts_from_the_first_time_again() -> None:
    bench = Bench(failure_threshold=1, open_for=10.0, success_threshold=2)
    bench.fail()
    bench.clock.advance(10)
    bench.fail()
    bench.clock.advance(20)
    bench.serve(2)
    assert bench.breaker.state == "closed"
    bench.fail()
    assert bench.breaker.retry_after(bench.clock.monotonic()) == 10


def test_late_answers_are_no_news() -> None:
    bench = Bench(failure_threshold=1, open_for=10.0, success_threshold=1)
    early = [bench.start() for _ in range(4)]
    bench.fail()
    bench.breaker.record(early[0], failed=False)
    assert bench.breaker.state == "open"
    bench.clock.advance(10)
    # They began before it opened: no probes.
    bench.breaker.record(early[1], failed=False)
    bench.breaker.record(early[2], failed=True)
    assert bench.breaker.state == "half-open"
    bench.serve()
    assert bench.breaker.state == "closed"


def test_a_probe_that_runs_on_gives_up_its_place() -> None:
    bench = Bench(failure_threshold=1, open_for=10.0, success_threshold=1)
    bench.fail()
    bench.clock.advance(10)
    stream = bench.start()
    bench.clock.advance(9)
    assert not bench.breaker.admits
    bench.clock.advance(1)
    assert bench.breaker.admits
    bench.breaker.record(stream, failed=True)
    assert bench.breaker.state == "half-open"
    bench.serve()
    assert bench.breaker.state == "closed"


def test_closed_down_it_leaves_no_timer() -> None:
    bench = Bench(failure_threshold=1)
    bench.fail()
    bench.breaker.close()
    assert not bench.clock.timers


class Model:
    """The same in the fewest words: what each step must lead to."""

    def __init__(self, failures: int, successes: int, places: int) -> None:
        self.limits = (failures, successes, places)
        self.state = "closed"
        self.count = 0
        self.opened = 0
        self.until = 0.0
        self.probes: dict[int, float] = {}

    def tick(self, now: float) -> None:
        if self.state == "open" and now >= self.until:
            self.state, self.count, self.probes = "half-open", 0, {}
        self.probes = {each: began for each, began in self.probes.items() if now - began < 8}

    def admits(self) -> bool:
        return self.state == "closed" or (self.state == "half-open" and len(self.probes) < self.limits[2])

    def start(self, number: int, now: float) -> None:
        if self.state == "half-open":
            self.probes[number] = now

    def record(self, number: int, failed: bool | None, now: float) -> None:
        if self.state == "closed":
            if failed is not None:
                self.count = self.count + 1 if failed else 0
            if self.count == self.limits[0]:
                self._open(now)
        elif self.state == "half-open" and self.probes.pop(number, None) is not None:
            if failed:
                self._open(now)
            elif failed is False:
                self.count += 1
                if self.count == self.limits[1]:
                    self.state, self.count, self.opened, self.probes = "closed", 0, 0, {}

    def _open(self, now: float) -> None:
        self.opened += 1
        self.state, self.count, self.probes = "open", 0, {}
        self.until = now + 8 * min(2 ** (self.opened - 1), 10)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.just(0)),
        st.tuples(st.sampled_from(["ok", "fail", "ignore"]), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.integers(1, 40)),
    ),
    max_size=80,
)


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), STEPS)
def test_it_does_what_the_model_does(failures: int, successes: int, places: int, steps: list[tuple[str, int]]) -> None:
    bench = Bench(failure_threshold=failures, success_threshold=successes, half_open_max=places, open_for=8.0)
    breaker, model = bench.breaker, Model(failures, successes, places)
    running: list[Any] = []
    for step, value in steps:
        now = bench.clock.monotonic()
        if step == "wait":
            for _ in range(value):
                bench.clock.advance(1)
                model.tick(bench.clock.monotonic())
        elif step == "start":
            if breaker.admits:
                number = bench.start()
                model.start(number, now)
                running.append(number)
        elif running:
            number = running.pop(value % len(running))
            failed = {"ok": False, "fail": True, "ignore": None}[step]
            breaker.record(number, failed)
            model.record(number, failed, now)
        assert (breaker.state, breaker.admits) == (model.state, model.admits())
    breaker.close()
    assert not bench.clock.timers


@pytest.mark.parametrize("state", ["closed", "open", "half-open"])
def test_changes_are_told_after_they_have_been_made(state: BreakerState) -> None:
    bench = Bench(failure_threshold=1, success_threshold=1, open_for=1.0)
    bench.fail()
    bench.clock.advance(1)
    bench.serve()
    assert state in bench.states
    assert bench.states == ["open", "half-open", "closed"]
