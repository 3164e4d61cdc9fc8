"""What was tried is kept, counted and told."""

from __future__ import annotations

import asyncio
import logging
import random

from sidecar.clock import Deadlines
from sidecar.proxy.holding import Holding
from sidecar.runtime import Runtime
from sidecar.supervision.history import KEPT, History
from sidecar.telemetry import names
from sidecar.telemetry.metrics import Metrics
from tests.support.clock import FakeClock


def runtime(clock: FakeClock) -> Runtime:
    return Runtime(
        clock=clock,
        deadlines=Deadlines(clock),
        holding=Holding(clock),
        random=random.Random(1),
        metrics=Metrics(),
        log=logging.getLogger("sidecar.test"),
    )


async def test_newest_first_bounded_and_all_counted() -> None:
    clock = FakeClock()
    life = runtime(clock)
    history = History(life)
    for number in range(KEPT + 5):
        began = clock.monotonic()
        clock.advance(2.0)
        history.note("crash", "restart", "done", f"number {number}", began=began)
        await asyncio.sleep(0)
    found = history.view()
    assert len(found) == KEPT
    assert (found[0]["cause"], found[0]["seconds"], found[0]["at"]) == (f"number {KEPT + 4}", 2.0, clock.wall())
    counter = life.metrics.counter(names.RECOVERIES, symptom="crash", action="restart", result="done")
    assert counter.value == KEPT + 5
