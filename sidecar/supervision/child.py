"""One process that we start and are responsible for: its group, its output, whether it serves, how it ends.

    child = Child(Launch(("python", "agent.py"), address="127.0.0.1:50051"), runtime)
    await child.start()                 # OSError: it cannot be started
    await child.serving(timeout=30)     # NotServing: it ended, or time is over
    ended = await child.stop(grace=10)  # TERM to its group, KILL after the grace time; harmless when it has ended

It is the leader of a process group of its own, so what it started ends with it, and it does not outlive us, however we end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.supervision import keeper
from sidecar.supervision.ended import Ended, killed_for_memory
from sidecar.supervision.output import Lines
from sidecar.supervision.serving import Answer, ask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.clock import Clock
    from sidecar.runtime import Runtime

_ASK_EVERY = 0.05
"""Seconds between two questions while it starts."""
_ASK_TIMEOUT = 1.0
_LAST_OUTPUT = 1.0
"""Seconds in which output is read on after the end; who inherited the pipe may hold it open for ever."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a process is started, and where it will answer."""

    command: tuple[str, ...]
    address: str | None = None
    """Where it serves, `host:port` or `unix:/path`."""
    service: str = ""
    """What to ask its health service for; empty = the whole server."""
    environ: Mapping[str, str] | None = None
    """Its whole environment; None = ours."""
    folder: Path | None = None
    """Where it runs; None = where we run."""
    name: str = "agent"
    """What it is called in the log."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """More fields for its log lines."""
    passes_output: bool = False
    """Its output goes where ours goes, as it is, and not into our log."""


class NotServing(Exception):
    """The process has ended, or does not serve in time; the text says which. `ended`: how it ended, if it has."""

    def __init__(self, text: str, ended: Ended | None = None) -> None:
        super().__init__(text)
        self.ended = ended


class Child:
    """See the module. One `Child` is one process; a restart is another `Child`."""

    def __init__(self, launch: Launch, runtime: Runtime) -> None:
        self.launch = launch
        self.ended: Ended | None = None
        self.has_health_service: bool | None = None
        """None until it has been asked."""
        self._runtime = runtime
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: asyncio.Task[Ended] | None = None
        self._killed_before = 0

    # ── life ──

    async def start(self) -> None:
        """Raises OSError when there is no such command, or it cannot be run."""
        launch = self.launch
        command = _found(launch)
        self._killed_before = killed_for_memory()
        outputs = {} if launch.passes_output else {name: os.pipe() for name in ("stdout", "stderr")}
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                keeper.__file__,
                str(os.getpid()),
                *command,
                env=None if launch.environ is None else dict(launch.environ),
                cwd=launch.folder,
                stdin=asyncio.subprocess.DEVNULL,
                # Pipes of our own: asyncio's would make the end of the process wait for whoever holds them open.
                stdout=outputs["stdout"][1] if outputs else None,
                stderr=outputs["stderr"][1] if outputs else None,
                # A session, so a group, of its own: a Ctrl-C reaches us only, and what it starts can be ended with it.
                start_new_session=True,
            )
        except BaseException:
            for ours, _ in outputs.values():
                os.close(ours)
            raise
        finally:
            for _, theirs in outputs.values():
                os.close(theirs)
        readers = [await self._read(name, ours) for name, (ours, _) in outputs.items()]
        self._waiting = self._runtime.spawn(self._wait(self._process, readers), f"{launch.name} {self._process.pid}")

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self.ended is None

    async def wait(self) -> Ended:
        """Until it has ended, and its output has been read."""
        assert self._waiting is not None, "start() it first"
        return await asyncio.shield(self._waiting)

    async def stop(self, grace: float) -> Ended | None:
        """TERM to its group, KILL after `grace` seconds. None = it was never started."""
        if self._process is None:
            return None
        if self.ended is None:
            self.signal(signal.SIGTERM)
            timer = self._runtime.clock.call_later(grace, self.kill)
            try:
                await self.wait()
            finally:
                timer.cancel()
        return self.ended

    def kill(self) -> None:
        """End it, and what it started, at once."""
        if self.is_running:
            self._runtime.log.warning("process is killed", extra={"child": self.launch.name, "pid": self.pid})
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send `number` to its whole group, if the process still runs."""
        if self.is_running:
            assert self._process is not None
            _to_group(self._process.pid, number)

    async def _wait(self, process: asyncio.subprocess.Process, readers: list[_Reader]) -> Ended:
        code = await process.wait()
        # The leader is gone; whatever it left behind would keep its port, and answer in its place.
        _to_group(process.pid, signal.SIGKILL)
        self.ended = Ended.of(code, self._killed_before)
        if readers:
            await asyncio.wait([each.ended for each in readers], timeout=_LAST_OUTPUT)
            for each in readers:
                each.close()
        return self.ended

    async def _read(self, stream: str, pipe: int) -> _Reader:
        log, launch = self._runtime.log, self.launch
        extra = {"child": launch.name, "pid": self.pid, "stream": stream, **launch.labels}

        def write(line: str) -> None:
            if line:
                log.info("output", extra={**extra, "line": line})

        def skipped(count: int) -> None:
            log.warning("output left out: too many lines in a second", extra={**extra, "lines": count})

        lines, clock = Lines(write, skipped), self._runtime.clock
        _, reader = await asyncio.get_running_loop().connect_read_pipe(
            lambda: _Reader(lines, clock), os.fdopen(pipe, "rb", buffering=0)
        )
        return reader

    # ── does it serve? ──

    async def serving(self, timeout: float) -> None:
        """Wait until it serves: SERVING by grpc.health.v1, or, where it has no health service, that it accepts connections.

        Raises NotServing.
        """
        assert self.launch.address is not None, "its address is not known"
        assert self._waiting is not None, "start() it first"
        clock = self._runtime.clock
        ends = clock.monotonic() + timeout
        answer = Answer.NOBODY
        while self.ended is None:
            answer = await self.ask(min(_ASK_TIMEOUT, max(0.05, ends - clock.monotonic())))
            if self.ended is not None:
                break
            if answer.serves:
                return
            if clock.monotonic() >= ends:
                raise NotServing(f"it does not serve after {timeout:g} s: {answer.value}")
            await asyncio.wait({self._waiting}, timeout=_ASK_EVERY)
        raise NotServing(f"it ended with {self.ended} before it served", self.ended)

    async def ask(self, timeout: float) -> Answer:
        """Ask once, on a connection of its own: is it SERVING?"""
        assert self.launch.address is not None, "its address is not known"
        answer = await ask(self.launch.address, self.launch.service, self._runtime, timeout)
        if answer.serves:
            self.has_health_service = answer is Answer.SERVING
        return answer

    # ── what it uses ──

    def memory(self) -> int:
        """Resident bytes of its whole group; 0 = not known, or it has ended."""
        if not self.is_running:
            return 0
        assert self._process is not None
        return group_memory(self._process.pid)


class _Reader(asyncio.Protocol):
    """What comes out of one pipe; `ended` when it is closed on the other side, or here."""

    def __init__(self, lines: Lines, clock: Clock) -> None:
        self._lines = lines
        self._clock = clock
        self._transport: asyncio.BaseTransport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._lines.feed(data, self._clock.monotonic())

    def connection_lost(self, error: Exception | None) -> None:
        self._lines.close(self._clock.monotonic())
        if not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _found(launch: Launch) -> tuple[str, ...]:
    """The command with its full path. Raises OSError now, and not as exit code 127 later."""
    name = launch.command[0]
    where = None if launch.environ is None else launch.environ.get("PATH")
    if launch.folder is not None and not launch.folder.is_dir():
        raise FileNotFoundError(2, "no such folder", str(launch.folder))
    if "/" in name:
        path = (launch.folder or Path.cwd()) / name
        if not path.exists():
            raise FileNotFoundError(2, "no such command", name)
        if not os.access(path, os.X_OK) or path.is_dir():
            raise PermissionError(13, "not executable", name)
        return launch.command
    found = shutil.which(name, path=where)
    if found is None:
        raise FileNotFoundError(2, "no such command", name)
    return (found, *launch.command[1:])


def _to_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def group_memory(group: int) -> int:
    """Resident bytes of every process of a group (Linux, /proc); 0 elsewhere. A page that two share counts twice."""
    total = 0
    page = os.sysconf("SC_PAGE_SIZE")
    for pid in _pids():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            # After the name: state, ppid, pgrp …; rss is the 24th field of all (proc_pid_stat(5)).
            if int(fields[2]) == group:
                total += int(fields[21]) * page
        except (OSError, IndexError, ValueError):
            continue
    return total


def _pids() -> list[str]:
    try:
        return [each for each in os.listdir("/proc") if each.isdigit()]  # noqa: PTH208 - names are enough
    except OSError:
        return []
