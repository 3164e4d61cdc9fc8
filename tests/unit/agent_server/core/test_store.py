"""The state file: sealed, sealed anew, and not of a later release."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from agent_server.cli import main
from agent_server.core.memory import Memory
from agent_server.core.store import Store, StoreError
from agent_server.core.vault import VaultError
from agent_server.workflows.checkpoints import Checkpoints
from agent_server.workflows.definition import parse

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
WORKFLOW = parse({"name": "w", "steps": [{"id": "a", "tool": "t"}]})


async def filled(path: Path) -> None:
    store = Store(path, [OLD])
    await store.open()
    checkpoints = Checkpoints(store, lambda: 1.0)
    await checkpoints.begin("ann", "run", WORKFLOW, {})
    await checkpoints.keep("ann", "run", "a", {"x": 1})
    await Memory(store, wall=lambda: 1.0, ttl=100, max_bytes=1000).remember("ann", "s", "one two")
    await store.close()


async def read(path: Path, *keys: str) -> tuple[object, list[str]]:
    store = Store(path, keys)
    await store.open()
    try:
        done = await Checkpoints(store, lambda: 2.0).begin("ann", "run", WORKFLOW, {})
        found = await Memory(store, wall=lambda: 2.0, ttl=100, max_bytes=1000).search("ann", "s", "two", 5)
        return done, [each.text for each in found]
    finally:
        await store.close()


async def test_all_is_sealed_with_the_newest_key_and_the_old_one_can_go(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await filled(path)
    with pytest.raises(VaultError):
        await read(path, NEW)
    store = Store(path, [NEW, OLD])
    await store.open()
    assert await store.renew() == 3
    await store.close()
    assert await read(path, NEW) == ({"a": {"x": 1}}, ["one two"])


async def test_without_the_old_key_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await filled(path)
    store = Store(path, [NEW])
    await store.open()
    with pytest.raises(VaultError):
        await store.renew()
    await store.close()
    assert (await read(path, OLD))[1] == ["one two"]


async def test_a_file_of_a_later_release_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="later release"):
        await Store(path, [OLD]).open()


def test_the_command(tmp_path: Path) -> None:
    import asyncio

    from click.testing import CliRunner

    path = tmp_path / "state.db"
    asyncio.run(filled(path))
    (tmp_path / "a.yaml").write_text(f"state: {path}\nencryption_keys: ['{NEW}', '{OLD}']\n")
    done = CliRunner().invoke(main, ["reseal", "-c", str(tmp_path / "a.yaml")])
    assert (done.exit_code, done.output) == (0, f"{path}: 3 values are encrypted with the newest key\n")
    assert asyncio.run(read(path, NEW))[1] == ["one two"]
    (tmp_path / "b.yaml").write_text(f"state: {path}\nencryption_keys: ['{OLD}']\n")
    refused = CliRunner().invoke(main, ["reseal", "-c", str(tmp_path / "b.yaml")])
    assert refused.exit_code == 1
    assert "cannot be opened" in refused.output
    (tmp_path / "c.yaml").write_text(f"state: {tmp_path}/none.db\n")
    assert "no state file" in CliRunner().invoke(main, ["reseal", "-c", str(tmp_path / "c.yaml")]).output
