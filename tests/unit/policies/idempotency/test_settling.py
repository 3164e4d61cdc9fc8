"""Operators see records as they are, and settle what nobody knows; nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.fernet import Fernet

from sidecar.policies.idempotency.policy import PREFIX
from sidecar.policies.idempotency.record import Execution, State, dump, load
from sidecar.policies.idempotency.settling import CannotSettle, NoSuchRecord, Settling
from sidecar.store.memory import MemoryStore
from sidecar.store.sealing import Sealing
from tests.support.clock import FakeClock

RUNNING = Execution(State.RUNNING, 3, "o", "f", "/pay.v1.Payments/Pay", "spiffe://mesh.local/a", 1.0, lease=60.0)
DONE = replace(RUNNING, state=State.DONE, ended=2.0, messages=b"12345")


class Office:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        self.sealing = Sealing()
        self.settling = Settling(self.store, self.sealing, self.clock)

    async def put(self, identifier: str, execution: Execution) -> None:
        await self.store.put(PREFIX + identifier, None, self.sealing.seal(dump(execution)), keep=1000)

    async def kept(self, identifier: str) -> Execution:
        record = await self.store.find(PREFIX + identifier)
        assert record is not None
        return load(self.sealing.open(record.value))


async def test_records_are_listed_page_by_page_and_by_state() -> None:
    office = Office()
    for i in range(450):
        await office.put(f"{i:03}", DONE if i % 2 else replace(RUNNING, state=State.UNKNOWN))
    page = await office.settling.list(limit=3)
    assert [each["record"] for each in page] == ["000", "001", "002"]
    assert [each["record"] for each in await office.settling.list(after="002", limit=2)] == ["003", "004"]
    unknown = await office.settling.list(state="unknown", limit=1000)
    assert len(unknown) == 225
    assert {each["state"] for each in unknown} == {"unknown"}


async def test_a_record_is_shown_without_its_answer() -> None:
    office = Office()
    await office.put("a", DONE)
    shown = await office.settling.show("a")
    assert (shown["state"], shown["bytes"], shown["execution"]) == ("done", 5, 3)
    assert "12345" not in str(shown)
    with pytest.raises(NoSuchRecord):
        await office.settling.show("b")


async def test_what_runs_is_unknown_when_its_lease_is_over() -> None:
    office = Office()
    await office.put("a", RUNNING)
    assert (await office.settling.show("a"))["state"] == "running"
    with pytest.raises(CannotSettle, match="it is running"):
        await office.settling.resolve("a", "executed", by="ann")
    office.clock.advance(60)
    assert (await office.settling.show("a"))["state"] == "unknown"
    await office.settling.resolve("a", "not_executed", by="ann")
    kept = await office.kept("a")
    assert (kept.state, kept.settled_by, kept.token) == (State.RELEASED, "ann", 3)


async def test_what_was_executed_is_done_without_an_answer() -> None:
    office = Office()
    await office.put("a", replace(RUNNING, state=State.UNKNOWN))
    shown = await office.settling.resolve("a", "executed", by="ann")
    assert (shown["state"], shown["settled_by"], shown["bytes"]) == ("done", "ann", None)
    assert not (await office.kept("a")).is_replayable
    with pytest.raises(CannotSettle, match="it is done"):
        await office.settling.resolve("a", "not_executed", by="bob")


async def test_what_cannot_be_opened_is_listed_and_not_settled() -> None:
    office = Office()
    await office.put("a", DONE)
    office.settling = Settling(office.store, Sealing([Fernet.generate_key().decode()]), office.clock)
    await office.store.put(PREFIX + "b", None, Sealing([Fernet.generate_key().decode()]).seal(b"x"), keep=10)
    assert [each["state"] for each in await office.settling.list()] == ["done", "unreadable"]
    with pytest.raises(CannotSettle, match="cannot be read"):
        await office.settling.resolve("b", "executed", by="ann")


async def test_without_a_store_there_are_no_records() -> None:
    with pytest.raises(NoSuchRecord, match="no store"):
        await Settling(None, Sealing(), FakeClock()).list()
