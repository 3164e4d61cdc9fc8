"""Budgets: what a key has used and reserved in its window, and the one transition that changes it.

Which window? The fixed one that users of `100000/1h` expect, opened by the first use of the key: in each window of that
length at most the limit, then all of it again. It is not aligned to the wall clock, so that not every key is
refilled at the same second. A charge counts in the window in which it becomes known; a reservation counts until it is
settled, in whatever window.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.store.gcra import NANOSECONDS, bounded

if TYPE_CHECKING:
    from collections.abc import Hashable


SETTLED_FOR = 60 * NANOSECONDS
"""Nanoseconds for which a store knows that a reservation was settled: settling again, for want of an answer, is harmless."""

_LOOKED_AT = 10_000
"""Accounts that one scrape looks at."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a key may use: `limit` units per `window` nanoseconds."""

    limit: int
    window: int


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a reservation did not fit: units used in this window, held by RPCs that run, and seconds to the next window."""

    used: int
    reserved: int
    resets_in: float


class Account:
    """One key: when its window opened (nanoseconds, -1 = never), units used in it, units reserved."""

    __slots__ = ("opened", "reserved", "used")

    def __init__(self, opened: int = -1, used: int = 0, reserved: int = 0) -> None:
        self.opened = opened
        self.used = used
        self.reserved = reserved


def exchange(
    account: Account, allowance: Allowance, now: int, *, held: int, spent: int, amount: int
) -> Shortage | None:
    """Give back `held` reserved units, charge `spent`, and reserve `amount` if that fits; all in one step.

    What was spent is charged in any case, as it is gone. `amount` 0 always fits.
    """
    # Also true where the clock was set back to before the window.
    if not 0 <= account.opened <= now < account.opened + allowance.window:
        account.opened, account.used = now, 0
    account.used += spent
    account.reserved -= held
    if amount and account.used + account.reserved + amount > allowance.limit:
        return Shortage(account.used, account.reserved, (account.opened + allowance.window - now) / NANOSECONDS)
    account.reserved += amount
    return None


class Ledger:
    """The accounts of one local budget, bounded as `gcra.Buckets` are; one with a reservation is never dropped."""

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, capacity: int = 100_000) -> None:
        self._half = max(1, capacity // 2)
        self._young: dict[Hashable, Account] = {}
        self._old: dict[Hashable, Account] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def exchange(
        self, key: Hashable, allowance: Allowance, now: int, *, held: int = 0, spent: int = 0, amount: int = 0
    ) -> Shortage | None:
        """`exchange` on the account of `key`, which is opened if there is none."""
        return exchange(self._account(key), allowance, now, held=held, spent=spent, amount=amount)

    def peek(self, key: Hashable, allowance: Allowance, now: int, amount: int) -> Shortage | None:
        """What a reservation of `amount` would meet; nothing changes."""
        key = bounded(key)
        found = self._young.get(key) or self._old.get(key) or Account()
        copy = Account(found.opened, found.used, found.reserved)
        return exchange(copy, allowance, now, held=0, spent=0, amount=amount)

    def least_left(self, allowance: Allowance, now: int) -> float:
        """What the account that has least left has left, of the limit (0 to 1); of those that were opened last."""
        most = 0
        for account in itertools.islice(reversed(self._young.values()), _LOOKED_AT):
            used = account.used if 0 <= account.opened <= now < account.opened + allowance.window else 0
            most = max(most, used + account.reserved)
        return max(0.0, 1 - most / allowance.limit)

    def _account(self, key: Hashable) -> Account:
        account = self._young.get(key)
        if account is not None:
            return account
        key = bounded(key)
        account = self._young.get(key) or self._old.pop(key, None)
        if len(self._young) >= self._half:
            # Bounded all the same: so many reservations at a time are RPCs that run.
            kept = {key: account for key, account in self._old.items() if account.reserved > 0}
            self._old, self._young = self._young, kept
        if account is None:
            account = Account()
        return self._young.setdefault(key, account)
