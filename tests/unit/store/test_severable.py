from __future__ import annotations

import pytest

from sidecar.store.interface import StoreUnavailable
from sidecar.store.memory import MemoryStore
from sidecar.store.severable import Severable, severable
from tests.support.clock import FakeClock


async def test_hands_everything_on_except_while_it_is_cut_off() -> None:
    store = severable(MemoryStore(FakeClock()))
    assert isinstance(store, Severable)
    assert await store.swap("key", None, b"one")
    store.sever()
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as refused:
            await store.read("key")
        assert refused.value.kind == "unreachable"
    with pytest.raises(StoreUnavailable):
        await store.ping()
    assert store.refused == 3
    store.mend()
    assert await store.read("key") == b"one"
    await store.ping()


async def test_can_be_closed_while_it_is_cut_off() -> None:
    store = Severable(MemoryStore(FakeClock()))
    store.sever()
    await store.close()


def test_what_a_store_cannot_do_it_cannot_either() -> None:
    with pytest.raises(AttributeError):
        _ = Severable(MemoryStore(FakeClock())).levitate
