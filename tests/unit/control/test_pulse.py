from __future__ import annotations

import pytest

from sidecar.control.pulse import Pulse
from sidecar.telemetry import names
from tests.support.alerts import fake_runtime
from tests.support.clock import FakeClock


def test_as_late_as_a_tick_comes_so_late_is_all_and_what_is_felt_is_told(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    runtime = fake_runtime(clock)
    looks: list[float] = []
    pulse = Pulse(runtime, lambda: looks.append(clock.monotonic()))
    pulse.start()
    clock.advance(1.05)
    assert len(looks) == 11
    assert runtime.lag.seconds == pytest.approx(0, abs=1e-9)
    for blocked, told in ((0.4, 0), (3.0, 1)):
        clock.block(clock.timers[0].when - clock.monotonic() + blocked)
        clock.advance(0)
        assert runtime.lag.seconds == pytest.approx(blocked)
        assert [each.getMessage() for each in caplog.records] == ["the event loop stood still"] * told
    # The last tick is on time again; the sum is kept for whoever looks once a minute.
    clock.advance(1.0)
    assert runtime.lag.seconds == pytest.approx(0, abs=1e-9)
    assert runtime.metrics.samples(names.LOOP_LATE)[()] == pytest.approx(3.4)
    pulse.stop()
    assert clock.timers == []
