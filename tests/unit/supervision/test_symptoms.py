"""From what is seen of an agent to a symptom, with time as an argument."""

from __future__ import annotations

import random

import pytest

from sidecar.supervision.config import BackoffConfig, GiveUpConfig, MemoryWhenConfig, WedgedWhenConfig
from sidecar.supervision.symptoms import Growth, Patience, Since, Standing, Wedge


def wedge(progress: float | None = 10.0, silent: float | None = 5.0) -> Wedge:
    return Wedge(WedgedWhenConfig(in_flight_without_progress=progress, health_silent=silent))


def test_since_begins_anew_after_each_break() -> None:
    since = Since()
    assert since.seconds(True, 1.0) == 0.0
    assert since.seconds(True, 4.0) == 3.0
    assert since.seconds(False, 5.0) is None
    assert since.seconds(True, 6.0) == 0.0


def test_rpcs_that_wait_without_any_answer_are_a_wedge() -> None:
    found = wedge()
    assert found.progress(Standing(3, "a"), 0.0) is None
    assert found.progress(Standing(3, "a"), 1.0) is None
    assert found.progress(Standing(3, "a"), 10.5) is None
    said = found.progress(Standing(4, "a"), 11.0)
    assert said == "4 RPCs wait for it without progress for 10.0 s; the limit is 10s"


def test_any_answer_is_progress() -> None:
    found = wedge()
    for second in range(60):
        assert found.progress(Standing(5, second // 6), float(second)) is None


def test_who_is_owed_nothing_does_not_wait() -> None:
    found = wedge()
    for second in range(60):
        assert found.progress(Standing(0, "idle stream"), float(second)) is None


def test_silence_is_a_wedge_and_a_bad_word_is_not() -> None:
    found = wedge()
    assert found.health(False, 0.0) is None
    assert found.health(True, 4.0) is None
    assert found.health(False, 5.0) is None
    assert found.health(False, 10.0) == "no answer to health checks for 5.0 s; the limit is 5s"


def test_what_is_not_configured_is_not_watched_for() -> None:
    found = wedge(None, None)
    for second in (0.0, 1.0, 1000.0):
        assert found.progress(Standing(3, "a"), second) is None
        assert found.health(False, second) is None


def test_growth_must_last() -> None:
    found = Growth(MemoryWhenConfig.model_validate({"rss_above": 100 << 20, "for": 60.0}))
    assert found.look(101 << 20, 0.0) is None
    assert found.look(99 << 20, 59.0) is None
    assert found.look(200 << 20, 60.0) is None
    assert found.look(200 << 20, 119.0) is None
    assert found.look(200 << 20, 120.0) == "200 MiB resident for 60.0 s; the limit is 100MiB for 1m"


class Middle(random.Random):
    """Always the middle."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def patience(restarts: int = 3) -> Patience:
    backoff = BackoffConfig.model_validate({"initial": 1.0, "max": 3.0})
    return Patience(backoff, GiveUpConfig(restarts=restarts, within=100.0), Middle())


def test_waits_are_doubled_up_to_the_longest() -> None:
    found = patience(10)
    assert [found.failed(float(at), 0.0) for at in range(4)] == [1.0, 2.0, 3.0, 3.0]


def test_one_that_has_served_long_enough_begins_with_the_shortest_wait() -> None:
    found = patience(10)
    assert [found.failed(0.0, 0.0), found.failed(1.0, 29.9), found.failed(2.0, 30.0)] == [1.0, 2.0, 1.0]


def test_too_many_within_the_time_are_given_up_and_old_ones_are_forgotten() -> None:
    found = patience(3)
    assert [found.failed(at, 0.0) is None for at in (0.0, 1.0, 2.0, 3.0)] == [False, False, False, True]
    assert found.failed(100.5, 0.0) is not None
    assert found.failed(100.6, 0.0) is None
    assert found.said == "3 restarts within 100s"


def test_whoever_intervenes_begins_anew() -> None:
    found = patience(1)
    assert (found.failed(0.0, 0.0), found.failed(1.0, 0.0)) == (1.0, None)
    found.begin_anew()
    assert found.failed(2.0, 0.0) == 1.0


@pytest.mark.parametrize("chance", [0, 1, 2])
def test_waits_differ_by_chance_within_a_fifth(chance: int) -> None:
    found = Patience(BackoffConfig(), GiveUpConfig(), random.Random(chance))
    wait = found.failed(0.0, 0.0)
    assert wait is not None
    assert 0.8 <= wait <= 1.2
