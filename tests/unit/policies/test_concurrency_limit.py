from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from sidecar.grpc_wire.status import StatusCode
from sidecar.http2.errors import ErrorCode
from sidecar.policies.concurrency_limit import ConcurrencyLimit
from sidecar.proxy.policy import Outcome
from sidecar.telemetry import names
from tests.support.bench import Bench, config_of, of, refused

DEADLINE = (("grpc-timeout", "300m"),)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def counted(bench: Bench[ConcurrencyLimit], cause: str) -> float:
    return bench.metrics.samples(names.OVERLOADED)["bench", "bench", cause]


def queued(bench: Bench[ConcurrencyLimit]) -> float:
    return bench.metrics.samples(names.QUEUED)["bench", "bench"]


def test_more_than_may_run_is_refused_and_an_end_makes_place() -> None:
    bench = of(ConcurrencyLimit, "{max_in_flight: 2}")
    assert bench.request() is None
    assert bench.request() is None
    rejection = refused(bench.request())
    assert (rejection.reason.name, rejection.code) == ("OVERLOADED", StatusCode.UNAVAILABLE)
    assert rejection.message == "2 RPCs of route bench are running"
    assert rejection.metadata == {"route": "bench", "limit": "2"}
    assert rejection.retry_after == 0.1
    assert counted(bench, "limit") == 1
    bench.end(call=bench.calls[0])
    assert bench.request() is None
    assert bench.request() is not None


def test_a_refused_call_gives_back_nothing() -> None:
    bench = of(ConcurrencyLimit, "{max_in_flight: 1}")
    bench.request()
    for _ in range(5):
        refused(bench.request())
    bench.end(call=bench.calls[0])
    assert bench.request() is None
    refused(bench.request())


def test_a_caller_that_goes_away_makes_place() -> None:
    bench = of(ConcurrencyLimit, "{max_in_flight: 1}")
    bench.request()
    bench.cancel()
    assert bench.request() is None


def test_explaining_takes_no_place() -> None:
    bench = of(ConcurrencyLimit, "{max_in_flight: 1}")
    assert bench.request(peek=True) is None
    assert bench.request() is None
    refused(bench.request(peek=True))
    assert counted(bench, "limit") == 0


def test_a_reload_keeps_who_is_inside() -> None:
    bench = of(ConcurrencyLimit, "{max_in_flight: 1}")
    bench.request()
    later = ConcurrencyLimit(config_of(ConcurrencyLimit, "{max_in_flight: 1}"), bench.runtime)
    refused(later.on_request(bench.last))


async def test_who_waits_gets_its_turn_in_the_order_of_arrival() -> None:
    bench = of(ConcurrencyLimit, "{max_in_flight: 1, queue: {max: 3, wait: 1s}}")
    for _ in range(4):
        bench.request()
    await turns()
    assert (bench.forwarded, queued(bench)) == (1, 3)
    refused(bench.request())
    for number in range(4):
        assert bench.forwarded == number + 1
        assert bench.cluster.endpoint.waiting[-1].call is bench.calls[number]
        bench.end(call=bench.calls[number])
        await turns()
    assert queued(bench) == 0
    assert bench.request() is None
    assert not bench.clock.timers or len(bench.runtime.tasks) == 0


async def test_a_place_goes_to_the_queue_not_to_who_comes_next() -> None:
    bench = of(ConcurrencyLimit, "{max_in_flight: 1, queue: {max: 2, wait: 1s}}")
    bench.request()
    bench.request()
    await turns()
    bench.end(call=bench.calls[0])
    # The waiting one has not run yet; the place is its own already.
    bench.request()
    await turns()
    assert [each.call for each in bench.cluster.endpoint.waiting] == bench.calls[:2]


async def test_waiting_has_an_end() -> None:
    bench = of(ConcurrencyLimit, "{max_in_flight: 1, queue: {max: 2, wait: 250ms}}")
    bench.request()
    bench.request()
    await turns()
    bench.clock.advance(0.25)
    await turns()
    assert [each.reason.name for each in bench.outcomes if each.reason] == ["OVERLOADED"]
    assert bench.outcomes[0].message == "1 RPCs of route bench are running, and none ended within 0.25 s"
    assert queued(bench) == 0
    bench.end(call=bench.calls[0])
    assert bench.request() is None


async def test_nobody_waits_beyond_its_deadline() -> None:
    bench = of(ConcurrencyLimit, "{max_in_flight: 1, queue: {max: 2, wait: 10s}}")
    bench.request()
    bench.request(metadata=DEADLINE)
    await turns()
    bench.clock.advance(0.4)
    await turns()
    assert [each.code for each in bench.outcomes] == [StatusCode.DEADLINE_EXCEEDED]
    assert queued(bench) == 0
    assert len(bench.runtime.tasks) == 0


async def test_who_goes_away_while_waiting_takes_nothing_along() -> None:
    bench = of(ConcurrencyLimit, "{max_in_flight: 1, queue: {max: 2, wait: 10s}}")
    bench.request()
    bench.request()
    await turns()
    bench.cancel()
    await turns()
    assert queued(bench) == 0
    bench.end(call=bench.calls[0])
    assert bench.request() is None
    refused_or_waiting = bench.request()
    assert refused_or_waiting is not None


async def test_who_goes_away_before_it_began_to_wait() -> None:
    bench = of(ConcurrencyLimit, "{max_in_flight: 1, queue: {max: 1, wait: 10s}}")
    bench.request()
    bench.request()
    bench.cancel()
    await turns()
    assert queued(bench) == 0
    bench.end(call=bench.calls[0])
    assert bench.request() is None


async def test_who_goes_away_in_the_moment_of_its_turn_passes_it_on() -> None:
    bench = of(ConcurrencyLimit, "{max_in_flight: 1, queue: {max: 2, wait: 10s}}")
    for _ in range(3):
        bench.request()
    await turns()
    bench.end(call=bench.calls[0])
    bench.streams[1].reset(ErrorCode.CANCEL)
    bench.wire.run()
    await turns()
    assert [each.call for each in bench.cluster.endpoint.waiting] == [bench.calls[0], bench.calls[2]]
    bench.end(call=bench.calls[2])
    await turns()
    assert bench.request() is None


async def test_any_order_of_ends_leaves_all_places_free() -> None:
    bench = of(ConcurrencyLimit, "{max_in_flight: 3, queue: {max: 20, wait: 5s}}")
    rng = bench.runtime.random
    for _ in range(300):
        match rng.randrange(5):
            case 0 | 1:
                bench.request()
            case 2:
                running = [call for call in bench.calls if not call.ended and call.attempt is not None]
                if running:
                    bench.end(call=rng.choice(running))
            case 3:
                stream = rng.choice(bench.streams) if bench.streams else None
                if stream is not None and not stream.local_closed:
                    stream.reset(ErrorCode.CANCEL)
                    bench.wire.run()
            case _:
                await turns(rng.randrange(3))
                bench.clock.advance(rng.random())
        inside = sum(1 for call in bench.calls if not call.ended and call.attempt is not None)
        assert inside <= 3
    for call in bench.calls:
        call.end(Outcome(StatusCode.OK, "", bench.outcomes[0].origin))
    await turns(20)
    for call in bench.calls:
        if not call.ended:
            bench.end(call=call)
    await turns(20)
    assert queued(bench) == 0
    assert [bench.request() is None for _ in range(4)] == [True, True, True, False]


def test_a_sidecar_that_is_late_takes_nothing_new() -> None:
    bench = of(ConcurrencyLimit, "{max_in_flight: 10, shed_above_lag: 200ms}")
    bench.runtime.lag.seconds = 0.2
    assert bench.request() is None
    bench.runtime.lag.seconds = 0.35
    rejection = refused(bench.request())
    assert rejection.reason.name == "OVERLOADED"
    assert rejection.message == "the sidecar is 350 ms late; route bench takes no more than 200 ms"
    assert counted(bench, "lag") == 1
    bench.runtime.lag.seconds = 0.0
    assert bench.request() is None


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{max_in_flight: 0}",
        "{max_in_flight: 1, queue: {}}",
        "{max_in_flight: 1, queue: {max: 0}}",
        "{max_in_flight: 1, queue: {max: 1, wait: 0s}}",
        "{max_in_flight: 1, shed_above_lag: 0s}",
    ],
)
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(ValidationError):
        config_of(ConcurrencyLimit, text)
