from __future__ import annotations

import pytest

from sidecar.control.wall_clock import WallClock
from tests.support.clock import FakeClock


@pytest.mark.parametrize("seconds", [3600.0, -3600.0, 1.5])
def test_a_jump_is_told_once(seconds: float) -> None:
    clock, told = FakeClock(), list[float]()
    watch = WallClock(clock, told.append)
    clock.advance(10)
    watch.look()
    assert not told
    clock.jump(seconds)
    watch.look()
    watch.look()
    assert told == [pytest.approx(seconds)]


def test_drift_is_told_when_it_has_added_up() -> None:
    clock, told = FakeClock(), list[float]()
    watch = WallClock(clock, told.append)
    for _ in range(6):
        clock.jump(0.25)
        watch.look()
    assert told == [pytest.approx(1.25)]
