"""What fires, kept in the store: a sidecar that is started again goes on with it, and tells its end to those who heard of its beginning."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from sidecar.alerts.alert import Alert
from sidecar.store.interface import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.runtime import Runtime
    from sidecar.store.interface import Store

_FIELDS = {each.name for each in fields(Alert)}


class Remembered:
    """One node's. `keep` writes behind; a store that is lost is written to when `keep` is called again."""

    def __init__(self, store: Store, runtime: Runtime) -> None:
        self._store = store
        self._runtime = runtime
        self._key = ""
        # What the store is known to hold, what it is to hold, and whether somebody sees to it.
        self._held: bytes | None = None
        self._wanted: bytes | None = None
        self._is_writing = False
        self._keys: set[str] = set()

    async def recall(self, node: str) -> list[Alert]:
        """What fired when somebody of this name was last heard of; nothing, where the store gives no answer."""
        self._key = f"alerts/{node}"
        try:
            self._held = self._wanted = await self._store.read(self._key)
        except StoreUnavailable:
            return []
        found = _alerts(self._held)
        self._keys = {each.key for each in found}
        return found

    def keep(self, firing: Iterable[Alert]) -> None:
        """This fires now. Values change with every look; that alone is not worth a write."""
        alerts = list(firing)
        keys = {each.key for each in alerts}
        if keys != self._keys:
            self._keys = keys
            self._wanted = json.dumps([asdict(each) for each in alerts]).encode()
        if self._wanted != self._held and not self._is_writing:
            self._is_writing = True
            self._runtime.spawn(self._write(), "alerts remembered")

    async def _write(self) -> None:
        try:
            while self._wanted is not None and self._wanted != self._held:
                wanted = self._wanted
                if await self._store.swap(self._key, self._held, wanted):
                    self._held = wanted
                else:
                    # Somebody of the same name was here; the last word is the one of whoever runs.
                    self._held = await self._store.read(self._key)
        except StoreUnavailable:
            # Alerts say that themselves.
            return
        finally:
            self._is_writing = False


def _alerts(kept: bytes | None) -> list[Alert]:
    """Nothing, where it was written by a version that knew alerts otherwise."""
    try:
        found: list[dict[str, Any]] = json.loads(kept or b"[]")
        return [
            Alert(**{**each, "labels": tuple((str(name), str(value)) for name, value in each["labels"])})
            for each in found
            if set(each) == _FIELDS
        ]
    except (ValueError, TypeError, KeyError):
        return []
