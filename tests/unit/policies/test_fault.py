from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from sidecar.grpc_wire.status import StatusCode
from sidecar.policies.fault import Fault
from sidecar.proxy.rejection import Reason
from sidecar.telemetry import names
from tests.support.bench import Bench, of, refused


def faults(bench: Bench[Fault]) -> dict[str, float]:
    return {values[2]: count for values, count in bench.metrics.samples(names.FAULTS).items()}


def test_a_share_of_the_calls_fails() -> None:
    bench = of(Fault, "{abort: {percent: 30, status: ABORTED}}")
    verdicts = [bench.request() for _ in range(2000)]
    failed = [each for each in verdicts if each is not None]
    assert 0.27 < len(failed) / 2000 < 0.33
    assert {(refused(each).code, refused(each).reason) for each in failed} == {(StatusCode.ABORTED, Reason.FAULT_INJECTED)}
    assert faults(bench)["abort"] == len(failed)


async def test_a_delay_holds_the_call_and_then_lets_it_pass() -> None:
    bench = of(Fault, "{delay: {percent: 100, for: 200ms}}")
    bench.request()
    for _ in range(3):
        await asyncio.sleep(0)
    assert bench.forwarded == 0
    bench.clock.advance(0.2)
    task = bench.last.waiting
    await asyncio.wait_for(task, 5)
    assert bench.forwarded == 1


async def test_no_more_than_max_active_are_held() -> None:
    bench = of(Fault, "{delay: {percent: 100, for: 1s}, max_active: 2}")
    for _ in range(2):
        bench.request()
        await asyncio.sleep(0)
    assert bench.forwarded == 0
    bench.request()
    assert bench.forwarded == 1
    bench.clock.advance(1)
    await asyncio.wait([call.waiting for call in bench.calls if call.waiting is not None], timeout=5)
    assert bench.forwarded == 3


def test_callers_ask_only_where_they_may_and_for_no_more() -> None:
    bench = of(Fault, "{abort: {percent: 100, status: UNAVAILABLE}, by_metadata: true}")
    assert bench.request() is None
    assert refused(bench.request(metadata={"x-fault-abort": "not_found"})).code is StatusCode.NOT_FOUND
    assert bench.request(metadata={"x-fault-abort": "OK"}) is None
    assert bench.request(metadata={"x-fault-abort": "rm -rf"}) is None
    never = of(Fault, "{abort: {percent: 0}, by_metadata: true}")
    assert all(never.request(metadata={"x-fault-abort": "ABORTED"}) is None for _ in range(100))
    deaf = of(Fault, "{abort: {percent: 0}}")
    assert all(deaf.request(metadata={"x-fault-abort": "ABORTED"}) is None for _ in range(100))


def test_explaining_injects_nothing() -> None:
    bench = of(Fault, "{abort: {percent: 100}}")
    assert bench.request(peek=True) is None


@pytest.mark.parametrize("section", ["{}", "{abort: {percent: 101}}", "{abort: {percent: 1, status: OK}}", "{delay: {percent: 1}}"])
def test_wrong_sections(section: str) -> None:
    with pytest.raises(ValidationError):
        of(Fault, section)
