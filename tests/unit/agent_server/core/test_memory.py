"""What sessions remember, sealed in a file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from agent_server.core.failure import Failure
from agent_server.core.memory import Memory
from agent_server.core.store import Store, StoreError

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


class Shelf:
    def __init__(self, runner: asyncio.Runner, path: Path, keys: tuple[str, ...] = (OLD,)) -> None:
        self.runner = runner
        self.seconds = 1000.0
        self.store = Store(path, keys)
        runner.run(self.store.open())
        self.memory = Memory(self.store, wall=lambda: self.seconds, ttl=100.0, max_bytes=60)

    def keep(self, text: str, session: str = "s", identity: str = "i") -> None:
        self.runner.run(self.memory.remember(identity, session, text))

    def found(self, text: str, session: str = "s", identity: str = "i") -> list[str]:
        return [each.text for each in self.runner.run(self.memory.search(identity, session, text, 10))]

    def close(self) -> None:
        self.runner.run(self.store.close())


@pytest.fixture
def shelf(runner: asyncio.Runner, tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(runner, tmp_path / "state.db")
    yield shelf
    shelf.close()


def test_found_by_all_words_in_the_own_session_only(shelf: Shelf) -> None:
    shelf.keep("The blue house")
    shelf.keep("A red house")
    assert shelf.found("HOUSE blue") == ["The blue house"]
    assert shelf.found("") == ["A red house", "The blue house"]
    assert shelf.found("house", session="t") == shelf.found("house", identity="j") == []
    assert shelf.runner.run(shelf.memory.forget("i", "s")) == 2
    assert shelf.found("house") == []


def test_gone_after_its_time(shelf: Shelf) -> None:
    shelf.keep("old")
    shelf.seconds += 100
    assert shelf.found("old") == []


def test_the_oldest_go_when_there_is_too_much(shelf: Shelf) -> None:
    for name in ("one", "two", "three"):
        shelf.keep(name + "." * 20)
    assert shelf.found("one") == []
    assert len(shelf.found("")) == 2
    with pytest.raises(Failure) as caught:
        shelf.keep("x" * 61)
    assert caught.value.reason == "MEMORY_FULL"


def test_nothing_readable_is_in_the_file_and_keys_can_be_rotated(runner: asyncio.Runner, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    for keys in ((OLD,), (NEW, OLD), (NEW, OLD)):
        shelf = Shelf(runner, path, keys)
        if keys == (OLD,):
            shelf.keep("elephants")
        assert shelf.found("elephants") == ["elephants"]
        shelf.close()
    for each in tmp_path.iterdir():
        assert b"elephants" not in each.read_bytes()


def test_a_key_is_made_once_and_kept_to_its_owner(runner: asyncio.Runner, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    for _ in range(2):
        shelf = Shelf(runner, path, ())
        shelf.keep("word")
        shelf.close()
    assert (tmp_path / "state.db.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(StoreError, match="encryption key 0: not 32 bytes"):
        runner.run(Store(path, ("short",)).open())
