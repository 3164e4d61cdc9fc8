"""A store whose answers are timed: how long each kind of question took, and which had no answer."""

from __future__ import annotations

from asyncio import Future
from typing import TYPE_CHECKING, Any, cast

from sidecar.store.interface import StoreUnavailable
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.clock import Clock
    from sidecar.store.interface import Store
    from sidecar.telemetry.metrics import Metrics

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds: SQLite beside us takes tens of microseconds, a store that is about to be given up more than a second."""


class Timed:
    """Hands everything on to `store`."""

    def __init__(self, store: Store, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics

    def __getattr__(self, name: str) -> Any:
        """A method of the store; looked up once, then it is an attribute of ours."""
        method = getattr(self._store, name)
        if not callable(method):
            return method
        found = self.__dict__[name] = self._timed(name, method)
        return found

    def _timed(self, name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        clock, metrics = self._clock, self._metrics
        seconds = metrics.histogram(names.STORE_SECONDS, BUCKETS, operation=name)

        def answered(began: float, error: BaseException | None) -> None:
            seconds.observe(clock.monotonic() - began)
            if isinstance(error, StoreUnavailable):
                metrics.counter(names.STORE_ERRORS, operation=name, kind=error.kind).inc()

        async def watch(began: float, pending: Awaitable[Any]) -> Any:
            error: BaseException | None = None
            try:
                return await pending
            except BaseException as raised:
                error = raised
                raise
            finally:
                answered(began, error)

        def ask(*given: Any, **named: Any) -> Awaitable[Any]:
            began = clock.monotonic()
            pending = method(*given, **named)
            if isinstance(pending, Future):
                # No coroutine around it: whoever waits for a future needs no task.
                pending.add_done_callback(
                    lambda future: answered(began, None if future.cancelled() else future.exception())
                )
                return pending
            return watch(began, pending)

        return ask

    async def close(self) -> None:
        await self._store.close()


def timed(store: Store, clock: Clock, metrics: Metrics) -> Store:
    """`store`, timed."""
    return cast("Store", Timed(store, clock, metrics))
