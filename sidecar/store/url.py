"""Which store a URL means: one table. The code of a store is imported when the configuration asks for it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from sidecar.clock import Clock
    from sidecar.store.interface import Store


def open_store(url: str, *, clock: Clock, random: random.Random, directory: Path = Path()) -> Store:
    """The store of `url`; nothing is opened or connected yet. Relative SQLite paths are relative to `directory`.

    Raises ValueError saying what is allowed; it never repeats the URL, which may hold a password.
    """
    scheme = url.partition("://")[0]
    try:
        make = _SCHEMES[scheme]
    except KeyError:
        raise ValueError(_unknown_scheme()) from None
    return make(url, clock, random, directory)


def check_store_url(url: str) -> str:
    """`url` if `open_store` would take it, for the configuration. Raises ValueError saying what is allowed."""
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES:
        raise ValueError(_unknown_scheme())
    if "password=" in urlsplit(url).query:
        # There it would be shown and logged with the rest.
        raise ValueError(f"has a password in its query; write {scheme}://user:password@host")
    if scheme == "sqlite":
        _sqlite_path(url, Path())
    elif scheme == "redis+sentinel":
        _sentinel(url)
    elif scheme in {"redis+cluster", "rediss+cluster"}:
        _cluster(url)
    elif scheme != "memory" and not rest:
        example = "/run/redis.sock" if scheme == "unix" else "host:6379/0"
        raise ValueError(f"names no server; write {scheme}://{example}")
    return url


def without_credentials(url: str) -> str:
    """`url` as errors and logs may show it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _unknown_scheme() -> str:
    return f"has a scheme that is no store's; allowed: {', '.join(f'{each}://' for each in _SCHEMES)}"


def _memory(url: str, clock: Clock, random: random.Random, directory: Path) -> Store:
    from sidecar.store.memory import MemoryStore

    return MemoryStore(clock)


def _sqlite(url: str, clock: Clock, random: random.Random, directory: Path) -> Store:
    from sidecar.store.sqlite import SQLiteStore

    return SQLiteStore(_sqlite_path(url, directory), clock)


def _sqlite_path(url: str, directory: Path) -> Path:
    # As everywhere: three slashes begin a relative path, four an absolute one.
    path = unquote(url.removeprefix("sqlite://"))
    if not path.startswith("/") or path.rstrip("/") == "" or path.endswith("/"):
        raise ValueError("names no file; write sqlite:///relative/path.db or sqlite:////absolute/path.db")
    return directory / path[1:]


def _redis(url: str, clock: Clock, random: random.Random, directory: Path) -> Store:
    _require_redis()
    from redis.asyncio import Redis

    from sidecar.store.redis import RedisStore, options

    return RedisStore(Redis.from_url(url, **options()), without_credentials(url), clock, random)


def _redis_sentinel(url: str, clock: Clock, random: random.Random, directory: Path) -> Store:
    _require_redis()
    from redis.asyncio.sentinel import Sentinel

    from sidecar.store.redis import RedisStore, options

    hosts, service, database, username, password = _sentinel(url)
    settings = options() | {"db": database, "username": username, "password": password}
    # One that hangs must leave time for the next one.
    asking = options() | {"socket_timeout": 0.25}
    sentinel = Sentinel(hosts, sentinel_kwargs=asking, **settings)  # type: ignore[no-untyped-call]
    return RedisStore(sentinel.master_for(service), without_credentials(url), clock, random)


def _redis_cluster(url: str, clock: Clock, random: random.Random, directory: Path) -> Store:
    _require_redis()
    from redis.asyncio.cluster import ClusterNode, RedisCluster

    from sidecar.store.redis import RedisStore, options

    hosts, username, password = _cluster(url)
    client = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in hosts],
        username=username,
        password=password,
        ssl=url.startswith("rediss"),
        **options(),
    )
    return RedisStore(client, without_credentials(url), clock, random)


def _cluster(url: str) -> tuple[list[tuple[str, int]], str | None, str | None]:
    """`redis+cluster://[user:password@]host[:6379],host` → (nodes to ask for the others, user, password)."""
    parts = urlsplit(url)
    hosts, username, password = _hosts(parts.netloc, 6379)
    if not hosts or parts.path.strip("/") or parts.query:
        # A cluster has one database.
        raise ValueError(f"is no cluster URL; write {parts.scheme}://host:6379,host:6379")
    return hosts, username, password


def _hosts(netloc: str, port: int) -> tuple[list[tuple[str, int]], str | None, str | None]:
    """Hosts with their ports, user and password; no hosts if one of them is none."""
    credentials, _, netloc = netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    found = []
    for each in netloc.split(","):
        host, _, given = each.partition(":")
        if not host or not (given or "0").isdigit():
            return [], None, None
        found.append((host, int(given or port)))
    return found, unquote(username) or None, unquote(password) or None


def _sentinel(url: str) -> tuple[list[tuple[str, int]], str, int, str | None, str | None]:
    """`redis+sentinel://[user:password@]host[:26379],host/service[/db]` → (sentinels, service, db, user, password)."""
    parts = urlsplit(url)
    service, _, database = parts.path.strip("/").partition("/")
    hosts, username, password = _hosts(parts.netloc, 26379)
    if not hosts or not service or not (database or "0").isdigit():
        raise ValueError("is no sentinel URL; write redis+sentinel://host:26379,host:26379/service/0")
    return hosts, service, int(database or 0), username, password


def _require_redis() -> None:
    if importlib.util.find_spec("redis") is None:
        raise ValueError("needs the package redis; install the extra: sidecar[redis]")


_SCHEMES: dict[str, Callable[[str, Clock, random.Random, Path], Store]] = {
    "sqlite": _sqlite,
    "redis": _redis,
    "rediss": _redis,
    "unix": _redis,
    "redis+sentinel": _redis_sentinel,
    "redis+cluster": _redis_cluster,
    "rediss+cluster": _redis_cluster,
    "memory": _memory,
}
