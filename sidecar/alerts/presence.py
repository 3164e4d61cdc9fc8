"""Is the store there? Asked every few seconds, beside what policies ask: a store that nobody needs just now can be lost, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.clock import sleep
from sidecar.store.interface import StoreUnavailable
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.runtime import Runtime
    from sidecar.store.interface import Store

_EVERY = 5.0


class Presence:
    """Asks from `begin` to `stop`; the gauge shows the last answer."""

    def __init__(self, store: Store, runtime: Runtime, changed: Callable[[], object]) -> None:
        """`changed` is called when the answer is another one."""
        self._store = store
        self._changed = changed
        self._runtime = runtime
        self._stopped = False
        self.is_up: bool | None = None
        runtime.metrics.read(names.STORE_UP, lambda: [] if self.is_up is None else [((), float(self.is_up))])

    def begin(self) -> None:
        self._runtime.spawn(self._run(), "store presence")

    def stop(self) -> None:
        self._stopped = True

    async def _run(self) -> None:
        while not self._stopped:
            try:
                await self._store.ping()
            except StoreUnavailable as error:
                self._say(is_up=False, kind=error.kind)
            else:
                self._say(is_up=True)
            await sleep(self._runtime.clock, _EVERY)

    def _say(self, *, is_up: bool, kind: str = "") -> None:
        # What ends here closes its store as well; that is no loss.
        if self._stopped:
            return
        if is_up is False and self.is_up is not False:
            self._runtime.log.warning("store lost", extra={"kind": kind})
        elif is_up and self.is_up is False:
            self._runtime.log.info("store is back")
        has_changed = self.is_up is not None and is_up is not self.is_up
        self.is_up = is_up
        if has_changed:
            self._changed()
