"""Budgets: one window, one transition, bounded accounts."""

from __future__ import annotations

import pytest

from sidecar.store.gcra import NANOSECONDS
from sidecar.store.ledger import Account, Allowance, Ledger, Shortage, exchange

TEN = Allowance(10, 60 * NANOSECONDS)


def test_the_first_use_opens_the_window() -> None:
    account = Account()
    assert exchange(account, TEN, 5, held=0, spent=0, amount=1) is None
    assert (account.opened, account.used, account.reserved) == (5, 0, 1)


def test_what_does_not_fit_is_told_and_changes_nothing_but_the_charge() -> None:
    account = Account(opened=0, used=3, reserved=4)
    assert exchange(account, TEN, NANOSECONDS, held=2, spent=5, amount=1) == Shortage(8, 2, 59.0)
    assert (account.used, account.reserved) == (8, 2)


def test_the_limit_can_be_used_to_the_last_unit() -> None:
    assert exchange(Account(0, 3, 4), TEN, 1, held=0, spent=0, amount=3) is None
    assert exchange(Account(0, 3, 4), TEN, 1, held=0, spent=0, amount=4) is not None


def test_a_window_that_is_over_begins_anew_and_keeps_reservations() -> None:
    account = Account(opened=0, used=10, reserved=4)
    assert exchange(account, TEN, 60 * NANOSECONDS, held=0, spent=1, amount=5) is None
    assert (account.opened, account.used, account.reserved) == (60 * NANOSECONDS, 1, 9)


def test_a_clock_that_went_back_opens_a_window_then() -> None:
    account = Account(opened=100, used=10)
    assert exchange(account, TEN, 50, held=0, spent=0, amount=1) is None
    assert account.opened == 50


def test_peek_changes_nothing() -> None:
    ledger = Ledger()
    assert ledger.peek("k", TEN, 0, 11) == Shortage(0, 0, 60.0)
    assert len(ledger) == 0
    ledger.exchange("k", TEN, 0, amount=4)
    assert ledger.peek("k", TEN, 0, 6) is None
    assert ledger.peek("k", TEN, 0, 7) == Shortage(0, 4, 60.0)


def test_long_keys_are_kept_short() -> None:
    ledger = Ledger()
    for _ in range(3):
        assert ledger.exchange(("x" * 5000, None), TEN, 0, amount=3) is None
    assert ledger.exchange(("x" * 5000, None), TEN, 0, amount=3) is not None
    assert len(ledger) == 1


def test_what_whoever_has_least_has_left() -> None:
    ledger, allowance = Ledger(), Allowance(100, 10 * NANOSECONDS)
    assert ledger.least_left(allowance, 0) == 1.0
    ledger.exchange("a", allowance, 0, spent=30)
    ledger.exchange("b", allowance, 0, spent=10, amount=50)
    assert ledger.least_left(allowance, NANOSECONDS) == pytest.approx(0.4)
    # The window is over; what is reserved is reserved still.
    assert ledger.least_left(allowance, 10 * NANOSECONDS) == pytest.approx(0.5)
    ledger.exchange("b", allowance, 0, held=50, spent=500)
    assert ledger.least_left(allowance, 0) == 0.0
