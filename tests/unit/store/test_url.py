"""Store URLs: which store, which file, and nothing secret in what is said of them."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.store.memory import MemoryStore
from sidecar.store.redis import RedisStore
from sidecar.store.sqlite import SQLiteStore
from sidecar.store.url import check_store_url, open_store, without_credentials
from tests.support.clock import FakeClock


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///./state/s.db", Path("/etc/sidecar/state/s.db")),
        ("sqlite:///s.db", Path("/etc/sidecar/s.db")),
        ("sqlite:////var/lib/s.db", Path("/var/lib/s.db")),
        ("sqlite:///a%20b.db", Path("/etc/sidecar/a b.db")),
    ],
)
def test_where_a_sqlite_file_is(url: str, path: Path) -> None:
    store = open_store(url, clock=FakeClock(), random=random.Random(1), directory=Path("/etc/sidecar"))
    assert isinstance(store, SQLiteStore)
    assert store._path == path  # noqa: SLF001


@pytest.mark.parametrize(
    "url",
    [
        *("redis://host:6379/0", "rediss://u:p@host:6379/1", "unix:///run/redis.sock?db=1"),
        *("redis+sentinel://a:26379,b/mesh", "redis+sentinel://u:p%40@a/mesh/3"),
        *("redis+cluster://a:6379,b", "rediss+cluster://u:p%40@a:6380"),
    ],
)
def test_redis_in_all_its_ways(url: str) -> None:
    assert check_store_url(url) == url
    assert isinstance(open_store(url, clock=FakeClock(), random=random.Random(1)), RedisStore)


def test_memory() -> None:
    assert isinstance(open_store("memory://", clock=FakeClock(), random=random.Random(1)), MemoryStore)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("mysql://host/db", "scheme that is no store's; allowed: sqlite://"),
        ("", "scheme that is no store's"),
        ("sqlite://s.db", "names no file; write sqlite:///relative"),
        ("sqlite:///", "names no file"),
        ("sqlite:///folder/", "names no file"),
        ("redis://", "names no server; write redis://host:6379/0"),
        ("unix://", "names no server; write unix:///run/redis.sock"),
        ("redis+cluster://", "is no cluster URL; write redis+cluster://host:6379"),
        ("redis+cluster://a:6379,b:x", "is no cluster URL"),
        ("redis+cluster://a/1", "is no cluster URL"),
        ("redis+sentinel://host:26379", "is no sentinel URL; write redis"),
        ("redis+sentinel://host:port/mesh", "is no sentinel URL"),
        ("redis+sentinel://,/mesh", "is no sentinel URL"),
        ("redis://host/0?password=hunter2", "password in its query; write redis://user:password@host"),
    ],
)
def test_what_cannot_be_meant_is_refused(url: str, what: str) -> None:
    with pytest.raises(ValueError, match=what.replace("+", r"\+")) as caught:
        check_store_url(url)
    assert "hunter2" not in str(caught.value)


def test_credentials_are_not_shown() -> None:
    assert without_credentials("redis://user:pass@host:1/0?x=1") == "redis://host:1/0"


def test_a_store_is_imported_when_it_is_asked_for() -> None:
    code = "import sys, sidecar.store.url, sidecar.policies; print(sorted({'redis', 'sqlite3'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
