"""A store that can be cut off on purpose, as a drill does: every question fails as if nothing answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sidecar.store.interface import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.store.interface import Store


class Severable:
    """Hands everything on to `store`, except while it is severed. `refused`: questions that failed for that."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._severed = False
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        """A method of the store; once for each, then it is an attribute of ours."""
        method: Callable[..., Awaitable[Any]] = getattr(self._store, name)
        if not callable(method):
            return method

        def ask(*given: Any, **named: Any) -> Awaitable[Any]:
            return self._refuse() if self._severed else method(*given, **named)

        self.__dict__[name] = ask
        return ask

    async def _refuse(self) -> None:
        self.refused += 1
        raise StoreUnavailable("unreachable", "cut off by a drill")

    async def close(self) -> None:
        """A store that is cut off is still to be closed."""
        await self._store.close()

    def sever(self) -> None:
        self._severed = True
        self.refused = 0

    def mend(self) -> None:
        self._severed = False


def severable(store: Store) -> Store:
    """`store`, such that a drill can cut it off."""
    return cast("Store", Severable(store))
