"""A real redis-server on a free port with a temporary folder; killed and started again by those who test its loss."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest


class RedisServer:
    """One redis-server process. `stop` kills it (SIGKILL), `start` brings it back on the same port."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._directory = directory
        self.arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.socket = directory / "redis.sock"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = shutil.which("redis-server")
        if command is None:
            pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
        self._process = subprocess.Popen(  # noqa: S603 - a fixed command
            [
                command,
                *self.arguments,
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)),
                *("--unixsocket", str(self.socket), "--save", "", "--logfile", str(self._directory / "redis.log")),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"redis-server did not start: {(self._directory / 'redis.log').read_text()}")

    def stop(self) -> None:
        """Kill it, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        return False
