"""Is the store there?"""

from __future__ import annotations

import asyncio
import logging

import pytest

from sidecar.alerts.presence import Presence
from sidecar.store.interface import StoreUnavailable
from sidecar.store.memory import MemoryStore
from sidecar.telemetry import names
from tests.support.alerts import fake_runtime
from tests.support.clock import FakeClock


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_it_is_asked_again_and_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    store = MemoryStore(clock)
    runtime = fake_runtime(clock, store=store)
    lost = False

    async def ping() -> None:
        if lost:
            raise StoreUnavailable("timeout", "redis://user:password@host")

    monkeypatch.setattr(store, "ping", ping)
    changes: list[bool | None] = []
    presence = Presence(store, runtime, lambda: changes.append(presence.is_up))
    assert runtime.metrics.samples(names.STORE_UP) == {}, "not asked yet"
    presence.begin()
    with caplog.at_level(logging.INFO):
        await turns()
        assert runtime.metrics.samples(names.STORE_UP) == {(): 1.0}
        lost = True
        for _ in range(3):
            clock.advance(5)
            await turns()
        assert runtime.metrics.samples(names.STORE_UP) == {(): 0.0}
        lost = False
        clock.advance(5)
        await turns()
    assert runtime.metrics.samples(names.STORE_UP) == {(): 1.0}
    assert caplog.messages == ["store lost", "store is back"]
    assert changes == [False, True]
    assert "password" not in caplog.text
    presence.stop()
    lost = True
    clock.advance(5)
    await turns()
    assert presence.is_up is True, "what ends here is no loss"
    assert len(runtime.tasks) == 0
