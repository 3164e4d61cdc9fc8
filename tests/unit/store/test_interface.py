"""What is said of a store that gives no answer."""

from __future__ import annotations

from sidecar.store.interface import StoreUnavailable


def test_the_kind_is_for_metrics_and_the_text_for_the_log() -> None:
    error = StoreUnavailable("locked", "/var/lib/s.db: database is locked (SQLITE_BUSY)")
    assert error.kind in StoreUnavailable.KINDS
    assert str(error) == "/var/lib/s.db: database is locked (SQLITE_BUSY)"
