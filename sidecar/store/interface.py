"""What a store can do. Each method is one atomic transition: two sidecars that call it at once see one after the other.

The clock is the store's own (`TIME` of Redis, this host's for SQLite), as that is the one that all who share it share.
Keys are texts that hold nothing secret: policies put a digest in place of what a caller sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from sidecar.store.gcra import Pace
    from sidecar.store.ledger import Allowance, Shortage
    from sidecar.store.records import Record


class StoreUnavailable(Exception):
    """The store gives no answer. The text is for our log, never for a caller; `kind` is one of `KINDS`, for metrics."""

    KINDS = ("unreachable", "timeout", "overloaded", "locked", "read_only", "full", "corrupt", "closed", "error")

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Store(Protocol):
    """Shared limits and budgets. Every method may raise StoreUnavailable, after a bounded time."""

    async def take(self, key: str, pace: Pace, quantity: int = 1, *, peek: bool = False) -> float:
        """Take `quantity` from the limit `key`: 0.0 = taken, else nothing was, and so many seconds are to be waited.

        A negative quantity gives back. With `peek` nothing changes.
        """

    async def reserve(
        self, key: str, allowance: Allowance, reservation: str, amount: int, *, lease: float, peek: bool = False
    ) -> Shortage | None:
        """Hold `amount` units of the budget `key` under the id `reservation`; None = held.

        It expires by itself after `lease` seconds without `renew`, `charge` or `settle`. The same id twice is one.
        """

    async def charge(
        self, key: str, allowance: Allowance, reservation: str, spent: int, *, reserve: int, lease: float
    ) -> Shortage | None:
        """Charge `spent` units and hold `reserve` fresh ones in place of the former; in a shortage hold nothing."""

    async def settle(self, key: str, allowance: Allowance, reservation: str, spent: int) -> None:
        """Charge `spent` units and give back what was held.

        A reservation that has expired is charged all the same; settling one again within a minute changes nothing.
        """

    async def renew(self, reservations: Sequence[tuple[str, str]], *, lease: float) -> None:
        """Let these (key, reservation) pairs live `lease` seconds from now; those that have expired stay so."""

    async def read(self, key: str) -> bytes | None:
        """What `swap` has put under `key`; None = nothing."""

    async def swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        """Put `value` under `key` if what is there is still `expected` (None = nothing); False = it is not."""

    async def lead(self, key: str, owner: str, seconds: float) -> bool:
        """Does `owner` hold the lease `key` for the next `seconds`? Taken if nobody does, renewed if it is its own.

        0 seconds: let go of it.
        """

    async def find(self, key: str) -> Record | None:
        """What `put` has put under `key`, with its age; None = nothing, or its time is over."""

    def put(self, key: str, expected: bytes | None, value: bytes, *, keep: float) -> Awaitable[Record | bool]:
        """Put `value` under `key` for `keep` seconds, durably, if what is there is still `expected` (None = nothing).

        True = done; else what is there, or False: there is nothing (any more).
        """

    async def scan(self, prefix: str, after: str, limit: int) -> list[tuple[str, Record]]:
        """Up to `limit` records whose keys begin with `prefix` and come after `after`, in the order of keys."""

    async def ping(self) -> None:
        """Return if the store answers."""

    async def close(self) -> None:
        """Finish what was begun and let go; later calls raise StoreUnavailable."""
