"""What people do with records: look at them, and settle what nobody knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sidecar.policies.idempotency.executions import KEPT
from sidecar.policies.idempotency.policy import PREFIX
from sidecar.policies.idempotency.record import Execution, State, dump, load
from sidecar.store.records import Record
from sidecar.store.sealing import Unreadable

if TYPE_CHECKING:
    from sidecar.clock import Clock
    from sidecar.store.interface import Store
    from sidecar.store.sealing import Sealing

_AT_ONCE = 200


class CannotSettle(Exception):
    """What is asked makes no sense for this record; the text says why."""


class NoSuchRecord(LookupError):
    """There is no record of this id."""


class Settling:
    """Records of keyed RPCs, for `sidecar idempotency` and the admin addresses. Every method may raise StoreUnavailable."""

    def __init__(self, store: Store | None, sealing: Sealing, clock: Clock) -> None:
        self._store = store
        self._sealing = sealing
        self._clock = clock

    async def list(self, *, after: str = "", limit: int = 100, state: str | None = None) -> list[dict[str, Any]]:
        """Up to `limit` records after the id `after`, in the order of ids; those in `state` alone, if one is given."""
        found: list[dict[str, Any]] = []
        store = self._having()
        while len(found) < limit:
            page = await store.scan(PREFIX, PREFIX + after if after else "", _AT_ONCE)
            for key, record in page:
                after = key.removeprefix(PREFIX)
                shown = self._shown(after, record)
                if state is None or shown["state"] == state:
                    found.append(shown)
                    if len(found) == limit:
                        break
            if len(page) < _AT_ONCE:
                break
        return found

    async def show(self, identifier: str) -> dict[str, Any]:
        """One record. Raises NoSuchRecord."""
        return self._shown(identifier, await self._find(identifier))

    async def resolve(
        self, identifier: str, outcome: Literal["executed", "not_executed"], *, by: str, ttl: float = 86_400.0
    ) -> dict[str, Any]:
        """Settle a record whose outcome is unknown.

        executed: it counts as done, and whoever repeats it learns that its answer is not kept, for `ttl` seconds;
        not_executed: the next RPC with the key is executed. Raises NoSuchRecord, CannotSettle.
        """
        record = await self._find(identifier)
        execution = self._open(record)
        if execution is None:
            raise CannotSettle("it cannot be read with the keys that are configured")
        state = _state(execution, record.age)
        if state != State.UNKNOWN.value:
            raise CannotSettle(f"it is {state}; only what is unknown can be settled")
        now = self._clock.wall()
        if outcome == "executed":
            settled = execution.become(State.DONE, now, messages=None, settled_by=by)
        else:
            settled = execution.become(State.RELEASED, now, settled_by=by)
        keep = ttl if outcome == "executed" else KEPT
        done = await self._having().put(PREFIX + identifier, record.value, self._sealing.seal(dump(settled)), keep=keep)
        if done is not True:
            raise CannotSettle("it has changed meanwhile; look again")
        return self._shown(identifier, Record(self._sealing.seal(dump(settled)), 0.0))

    def _having(self) -> Store:
        if self._store is None:
            raise NoSuchRecord("no store is configured, so nothing is recorded")
        return self._store

    async def _find(self, identifier: str) -> Record:
        record = await self._having().find(PREFIX + identifier)
        if record is None:
            raise NoSuchRecord(f"there is no record {identifier}; sidecar idempotency list shows what there is")
        return record

    def _open(self, record: Record) -> Execution | None:
        try:
            return load(self._sealing.open(record.value))
        except (Unreadable, ValueError):
            return None

    def _shown(self, identifier: str, record: Record) -> dict[str, Any]:
        execution = self._open(record)
        if execution is None:
            return {"record": identifier, "state": "unreadable"}
        return {
            "record": identifier,
            "state": _state(execution, record.age),
            "method": execution.method,
            "identity": execution.identity,
            "began": execution.began,
            "ended": execution.ended,
            "execution": execution.token,
            "code": execution.code if execution.state is State.DONE and execution.messages is not None else None,
            "bytes": None if execution.messages is None else len(execution.messages),
            "settled_by": execution.settled_by or None,
        }


def _state(execution: Execution, age: float) -> str:
    if execution.state is State.RUNNING and age >= execution.lease:
        return State.UNKNOWN.value
    return execution.state.value
