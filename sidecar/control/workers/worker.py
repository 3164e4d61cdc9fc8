"""One worker, as its parent sees it: started, ready, watched, replaced."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import os
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.clock import sleep
from sidecar.control.workers.place import VARIABLE, Place
from sidecar.supervision.ended import Ended, killed_for_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sidecar.runtime import Runtime

_LOOK_EVERY = 5.0
_LOOK_TIMEOUT = 3.0
_LOOKS = 3
"""A worker whose loop has not answered so many looks in a row is ended, and replaced."""


class WorkerState(enum.Enum):
    """Where a worker stands in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Given:
    """What every worker of one place is given, again after each death. `sockets` stay open here, so that nothing waits in vain."""

    number: int
    count: int
    command: tuple[str, ...]
    environ: Mapping[str, str]
    sockets: Mapping[str, socket.socket]
    folder: Path
    public_admin: str


class Worker:
    """One process. `run` starts it and says how it has ended."""

    def __init__(self, given: Given, attempt: int, runtime: Runtime, on_ready: Callable[[], None]) -> None:
        self._runtime = runtime
        self.number = given.number
        self.state = WorkerState.STARTING
        self.admin_path = given.folder / f"worker-{given.number}-{attempt}.sock"
        self._given = given
        self._on_ready = on_ready
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def run(self) -> Ended:
        """Until it has ended. Raises OSError when it cannot be started."""
        killed_before = killed_for_memory()
        given = self._given
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                place = Place(
                    number=given.number,
                    count=given.count,
                    sockets={name: each.fileno() for name, each in given.sockets.items()},
                    admin=f"unix:{self.admin_path}",
                    public_admin=given.public_admin,
                    line=theirs.fileno(),
                )
                self._process = await asyncio.create_subprocess_exec(
                    *given.command,
                    env={**given.environ, VARIABLE: place.to_environ()},
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), *place.sockets.values()),
                    # A Ctrl-C reaches the parent, which tells its workers in its own words.
                    start_new_session=True,
                )
            listening = self._runtime.spawn(self._listen(ours), f"worker {self.number} line")
            watching = self._runtime.spawn(self._watch(), f"worker {self.number} watch")
            try:
                return Ended.of(await self._process.wait(), killed_before)
            finally:
                for task in (listening, watching):
                    task.cancel()
                await asyncio.gather(listening, watching, return_exceptions=True)
        finally:
            self.state = WorkerState.GONE
            ours.close()
            self.admin_path.unlink(missing_ok=True)

    async def _listen(self, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        buffered = b""
        while received := await loop.sock_recv(ours, 4096):
            *lines, buffered = (buffered + received).split(b"\n")
            for line in lines:
                self._told(json.loads(line))

    def _told(self, facts: dict[str, Any]) -> None:
        if facts.get("state") == "ready" and self.state is WorkerState.STARTING:
            self.state = WorkerState.READY
            self._on_ready()

    async def _watch(self) -> None:
        """A loop that is stuck serves nobody, and its connections wait for ever."""
        failures = 0
        while True:
            await sleep(self._runtime.clock, _LOOK_EVERY)
            if self.state is not WorkerState.READY:
                continue
            try:
                async with asyncio.timeout(_LOOK_TIMEOUT):
                    is_alive = await self._is_alive()
            except (OSError, TimeoutError):
                is_alive = False
            failures = 0 if is_alive else failures + 1
            if failures >= _LOOKS:
                self.signal(signal.SIGKILL)
                return

    async def _is_alive(self) -> bool:
        reader, writer = await asyncio.open_unix_connection(str(self.admin_path))
        try:
            writer.write(b"GET /livez HTTP/1.0\r\n\r\n")
            await writer.drain()
            return b" 200 " in await reader.readline()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def signal(self, number: signal.Signals) -> None:
        """Send `number`, if the process still runs."""
        if self._process is not None and self._process.returncode is None:
            if number is signal.SIGTERM and self.state is not WorkerState.GONE:
                self.state = WorkerState.DRAINING
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)
