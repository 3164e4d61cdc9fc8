"""A PostgreSQL cluster of a test's own, in a temporary folder on a free port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_LIMIT = 60.0


def _tools() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda each: int(each.parts[-3]))
    return found[-1].parent if found else None


needs_postgres = pytest.mark.skipif(
    _tools() is None or (os.geteuid() == 0 and shutil.which("runuser") is None),
    reason="PostgreSQL is not installed (Debian: apt-get install postgresql)",
)


class Cluster:
    """`url` is for SQLAlchemy. `stop` and `start`: as when it is restarted."""

    def __init__(self, folder: Path) -> None:
        tools = _tools()
        assert tools is not None
        self._tools, self._folder, self._data = tools, folder, folder / "data"
        # PostgreSQL refuses to run as root.
        self._user = ["runuser", "-u", "nobody", "--"] if os.geteuid() == 0 else []
        if self._user:
            shutil.chown(folder, "nobody")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"postgresql+asyncpg://employee@127.0.0.1:{self._port}/postgres"
        self._run(tools / "initdb", "-D", self._data, "-U", "employee", "--auth=trust", "--no-sync")

    def start(self) -> None:
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run(self._tools / "pg_ctl", "-D", self._data, "-l", self._folder / "log", "-w", "-o", options, "start")

    def stop(self) -> None:
        self._run(self._tools / "pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    def _run(self, *command: object) -> None:
        subprocess.run(
            [*self._user, *map(str, command)], check=True, capture_output=True, timeout=_LIMIT, cwd=self._folder
        )


@contextmanager
def cluster() -> Iterator[Cluster]:
    # Not below pytest's folder: another user has to reach it, and the path of a socket is short.
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        found = Cluster(Path(folder))
        found.start()
        try:
            yield found
        finally:
            found.stop()
