"""A store in this process's memory: the plainest reading of the interface, for tests and for a single sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.store.gcra import NANOSECONDS, Pace, advance
from sidecar.store.interface import StoreUnavailable
from sidecar.store.ledger import SETTLED_FOR, Allowance, Ledger, Shortage
from sidecar.store.records import Record, Records
from sidecar.store.registers import Registers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.clock import Clock


class MemoryStore:
    """Nothing is shared but within the process, and nothing outlives it."""

    SWEEP_EACH = 4096
    """Takes between two looks for limits that are on time again, which need not be kept."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[str, int] = {}
        self._ledger = Ledger()
        # Reservation → (units held, when the lease ends, their allowance).
        self._leases: dict[str, dict[str, tuple[int, int, Allowance]]] = {}
        # Reservation → until when it is known to be settled; in the order of time.
        self._settled: dict[str, int] = {}
        self._registers = Registers()
        self._records = Records()
        self._takes = 0
        self._closed = False

    async def take(self, key: str, pace: Pace, quantity: int = 1, *, peek: bool = False) -> float:
        now = self._now()
        wait, due = advance(self._due.get(key, 0), now, pace, quantity)
        if not peek:
            self._due[key] = due
            self._takes += 1
            if self._takes % self.SWEEP_EACH == 0:
                self._due = {key: due for key, due in self._due.items() if due > now}
        return wait / NANOSECONDS

    async def reserve(
        self, key: str, allowance: Allowance, reservation: str, amount: int, *, lease: float, peek: bool = False
    ) -> Shortage | None:
        now = self._now()
        self._expire(key, now)
        if peek:
            return self._ledger.peek(key, allowance, now, amount)
        return self._exchange(key, allowance, reservation, now, spent=0, amount=amount, lease=lease)

    async def charge(
        self, key: str, allowance: Allowance, reservation: str, spent: int, *, reserve: int, lease: float
    ) -> Shortage | None:
        now = self._now()
        self._expire(key, now)
        return self._exchange(key, allowance, reservation, now, spent=spent, amount=reserve, lease=lease)

    async def settle(self, key: str, allowance: Allowance, reservation: str, spent: int) -> None:
        now = self._now()
        self._expire(key, now)
        while self._settled and (oldest := next(iter(self._settled.items())))[1] <= now:
            del self._settled[oldest[0]]
        if reservation not in self._settled:
            self._settled[reservation] = now + SETTLED_FOR
            self._exchange(key, allowance, reservation, now, spent=spent, amount=0, lease=0)

    async def renew(self, reservations: Sequence[tuple[str, str]], *, lease: float) -> None:
        now = self._now()
        for key, reservation in reservations:
            self._expire(key, now)
            leases = self._leases.get(key, {})
            if reservation in leases:
                held, _, allowance = leases[reservation]
                leases[reservation] = (held, now + round(lease * NANOSECONDS), allowance)

    async def read(self, key: str) -> bytes | None:
        self._now()
        return self._registers.values.get(key)

    async def swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        self._now()
        return self._registers.swap(key, expected, value)

    async def lead(self, key: str, owner: str, seconds: float) -> bool:
        return self._registers.lead(key, owner, round(seconds * NANOSECONDS), self._now())

    async def find(self, key: str) -> Record | None:
        return self._records.find(key, self._now())

    async def put(self, key: str, expected: bytes | None, value: bytes, *, keep: float) -> Record | bool:
        return self._records.put(key, expected, value, round(keep * NANOSECONDS), self._now())

    async def scan(self, prefix: str, after: str, limit: int) -> list[tuple[str, Record]]:
        return self._records.scan(prefix, after, limit, self._now())

    async def ping(self) -> None:
        self._now()

    async def close(self) -> None:
        self._closed = True

    def _now(self) -> int:
        if self._closed:
            raise StoreUnavailable("closed", "the store is closed")
        return round(self._clock.monotonic() * NANOSECONDS)

    def _exchange(
        self, key: str, allowance: Allowance, reservation: str, now: int, *, spent: int, amount: int, lease: float
    ) -> Shortage | None:
        leases = self._leases.setdefault(key, {})
        held = leases.pop(reservation, (0,))[0]
        shortage = self._ledger.exchange(key, allowance, now, held=held, spent=spent, amount=amount)
        if amount and shortage is None:
            leases[reservation] = (amount, now + round(lease * NANOSECONDS), allowance)
        if not leases:
            del self._leases[key]
        return shortage

    def _expire(self, key: str, now: int) -> None:
        leases = self._leases.get(key)
        if leases is None:
            return
        for reservation, (held, ends, allowance) in list(leases.items()):
            if ends <= now:
                del leases[reservation]
                self._ledger.exchange(key, allowance, now, held=held)
        if not leases:
            del self._leases[key]
