from __future__ import annotations

import pytest
from pydantic import ValidationError

from sidecar.policies.deadline import Deadline
from sidecar.proxy.rejection import Reason
from tests.support.bench import of

SECTION = "{default: 30s, max: 10m, idle: 5m}"


def remaining(timeout: str | None, section: str = SECTION) -> float:
    bench = of(Deadline, section)
    bench.request(metadata={"grpc-timeout": timeout} if timeout else {})
    call = bench.last
    assert call.deadline is not None
    return call.deadline - call.started


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(None, 30), ("5S", 5), ("31S", 31), ("10M", 600), ("11M", 600), ("1n", 1e-9), ("99999999H", 600)],
)
def test_deadlines_only_shrink(timeout: str | None, seconds: float) -> None:
    assert remaining(timeout) == pytest.approx(seconds, abs=1e-6)


def test_a_cap_is_ours_and_says_so() -> None:
    bench = of(Deadline, "{default: 1s, max: 2s, idle: 10s}")
    bench.request(metadata={"grpc-timeout": "60S"})
    bench.clock.advance(2.1)
    assert [outcome.reason for outcome in bench.outcomes] == [Reason.ROUTE_TIMEOUT]


def test_the_callers_own_deadline_is_not_blamed_on_the_route() -> None:
    bench = of(Deadline, SECTION)
    bench.request(metadata={"grpc-timeout": "1S"})
    bench.clock.advance(1.1)
    assert [outcome.reason for outcome in bench.outcomes] == [Reason.DEADLINE]


def test_silence_ends_a_call() -> None:
    bench = of(Deadline, "{default: 1h, max: 2h, idle: 10s}")
    bench.request(end=False)
    bench.clock.advance(6)
    bench.message(b"still here")
    bench.clock.advance(6)
    assert bench.outcomes == []
    bench.clock.advance(5)
    assert [outcome.reason for outcome in bench.outcomes] == [Reason.IDLE_TIMEOUT]


def test_default_longer_than_max_is_refused() -> None:
    with pytest.raises(ValidationError, match="longer than max"):
        of(Deadline, "{default: 30s, max: 10s, idle: 5s}")
