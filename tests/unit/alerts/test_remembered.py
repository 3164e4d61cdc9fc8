"""What fires is kept in the store."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from sidecar.alerts.alert import Alert
from sidecar.alerts.remembered import Remembered
from sidecar.store.interface import StoreUnavailable
from sidecar.store.memory import MemoryStore
from tests.support.alerts import fake_runtime
from tests.support.clock import FakeClock

ALERT = Alert(
    key="sidecar/orders-1/breaker-open/data/e:1",
    name="breaker-open",
    severity="warning",
    summary="the circuit of e:1 in cluster data is open",
    rule="breaker_open above 0",
    labels=(("cluster", "data"), ("endpoint", "e:1")),
    value=2.0,
    node="orders-1",
    began=1.0,
    runbook="https://wiki.example/breaker",
)


class Kept:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        self.runtime = fake_runtime(self.clock)
        self.swaps = 0

    def remembered(self) -> Remembered:
        return Remembered(self.store, self.runtime)

    async def written(self) -> None:
        await asyncio.gather(*self.runtime.tasks._tasks)


async def test_what_fires_is_found_again_as_it_was() -> None:
    kept = Kept()
    remembered = kept.remembered()
    assert await remembered.recall("orders-1") == []
    remembered.keep([ALERT])
    await kept.written()
    assert await kept.remembered().recall("orders-1") == [ALERT]
    assert await kept.remembered().recall("orders-2") == []
    remembered.keep([])
    await kept.written()
    assert await kept.remembered().recall("orders-1") == []


async def test_a_value_alone_is_not_worth_a_write(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    remembered = kept.remembered()
    await remembered.recall("orders-1")
    remembered.keep([])
    assert len(kept.runtime.tasks) == 0
    remembered.keep([ALERT])
    await kept.written()
    remembered.keep([replace(ALERT, value=1.0)])
    assert len(kept.runtime.tasks) == 0


async def test_the_last_word_is_the_one_of_whoever_runs() -> None:
    kept = Kept()
    ours, theirs = kept.remembered(), kept.remembered()
    await ours.recall("orders-1")
    await theirs.recall("orders-1")
    theirs.keep([ALERT])
    await kept.written()
    ours.keep([replace(ALERT, key="another")])
    await kept.written()
    assert [each.key for each in await kept.remembered().recall("orders-1")] == ["another"]


async def test_a_store_that_is_back_learns_it_then(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    remembered = kept.remembered()
    await remembered.recall("orders-1")
    swap = kept.store.swap

    async def fail(*_: object) -> bool:
        raise StoreUnavailable("unreachable", "")

    monkeypatch.setattr(kept.store, "swap", fail)
    remembered.keep([ALERT])
    await kept.written()
    monkeypatch.setattr(kept.store, "swap", swap)
    remembered.keep([ALERT])
    await kept.written()
    assert await kept.remembered().recall("orders-1") == [ALERT]


@pytest.mark.parametrize("kept_by_another", [b"{", b"7", b'[{"key": "x"}]', json.dumps([{"labels": 1}]).encode()])
async def test_what_another_version_has_kept_is_nothing(kept_by_another: bytes) -> None:
    kept = Kept()
    await kept.store.swap("alerts/orders-1", None, kept_by_another)
    remembered = kept.remembered()
    assert await remembered.recall("orders-1") == []
    remembered.keep([ALERT])
    await kept.written()
    assert await kept.remembered().recall("orders-1") == [ALERT]
