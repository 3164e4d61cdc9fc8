from __future__ import annotations

from sidecar.http2.flow import WindowGrowth


def test_a_window_that_was_the_limit_doubles_up_to_the_cap() -> None:
    growth = WindowGrowth(64, 200)
    assert growth.start(64) == 32
    assert growth.answered(43) == 64
    assert growth.window == 128
    assert growth.start(128) == 64
    assert growth.answered(128) == 72
    assert growth.window == 200
    assert growth.start(200) > 1 << 40


def test_a_sender_that_was_the_limit_changes_nothing() -> None:
    growth = WindowGrowth(64, 200)
    assert growth.answered(42) == 0
    assert growth.window == 64
