"""A rollout's place in the store: its state, who leads, and what the sidecars that share it have counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.rollout.state import State

if TYPE_CHECKING:
    from sidecar.store.interface import Store


class Record:
    """Of one cluster and one revision. Every method may raise StoreUnavailable."""

    def __init__(self, store: Store, cluster: str, revision: str, owner: str) -> None:
        self._store = store
        self._key = f"rollout:{cluster}:{revision}"
        self._revision = revision
        self._owner = owner
        # What the store held when we looked last: only who knows it may replace it.
        self._known: bytes | None = None

    async def read(self) -> State:
        """The state, or a fresh one if there is none yet, or if it is none that we understand."""
        self._known = await self._store.read(self._key)
        if self._known is None:
            return State(self._revision)
        try:
            return State.decoded(self._known)
        except ValueError:
            return State(self._revision)

    async def write(self, state: State) -> bool:
        """Replace what was read last; False = somebody else has, meanwhile: read again."""
        encoded = state.encoded()
        if not await self._store.swap(self._key, self._known, encoded):
            return False
        self._known = encoded
        return True

    async def lead(self, seconds: float) -> bool:
        """Is this sidecar the one that decides, for the next `seconds`?"""
        return await self._store.lead(f"{self._key}:leader", self._owner, seconds)

    async def counts(self) -> bytes | None:
        return await self._store.read(f"{self._key}:counts")

    async def tell(self, expected: bytes | None, counts: bytes) -> bool:
        return await self._store.swap(f"{self._key}:counts", expected, counts)
