"""The parent of the workers: opens the addresses, starts N of them, replaces those that die, drains all."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from sidecar.control.workers.worker import Given, Worker, WorkerState
from sidecar.supervision.ended import Ended
from sidecar.telemetry import names
from sidecar.transport.bind import bind_shared, shown_address

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sidecar.config.root import Root
    from sidecar.runtime import Runtime
    from sidecar.telemetry.metrics import Sample

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
"""Seconds before a worker that died is replaced; doubled each time, until one has lived long enough."""
_PROVEN = 30.0
_GRACE = 5.0
"""Seconds beyond drain_timeout after which a worker that has not ended is not waited for."""


class Fleet:
    """N workers on shared addresses. `start`, then `wait`; `drain` and `stop` end it."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], folder: Path, runtime: Runtime) -> None:
        """`command` starts one worker; `folder`, private to us, holds the sockets of their admin endpoints."""
        self.workers: list[Worker] = []
        self.restarts: list[int] = []
        self.addresses: dict[str, str] = {}
        self.is_draining = False
        self._command = tuple(command)
        self._environ = environ
        self._folder = folder
        self._runtime = runtime
        self._clock = runtime.clock
        self._log = runtime.log
        self._sockets: list[dict[str, socket.socket]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._readied = asyncio.Event()
        self._ending = asyncio.Event()
        self._failed_to_start = False
        self._drain_timeout = 0.0
        runtime.metrics.read(names.WORKERS, self._count_states)
        runtime.metrics.read(names.WORKER_RESTARTS, lambda: [((str(i + 1),), n) for i, n in enumerate(self.restarts)])

    # ── start ──

    async def start(self, root: Root, public_admin: str) -> bool:
        """Open the addresses and start every worker; False = one could not start, and all are gone. Raises BindError."""
        self._drain_timeout = root.drain_timeout
        self._bind(root)
        for number in range(1, root.workers + 1):
            given = Given(
                number=number,
                count=root.workers,
                command=self._command,
                environ=self._environ,
                sockets=self._sockets[number - 1],
                folder=self._folder,
                public_admin=public_admin,
            )
            self.restarts.append(0)
            self.workers.append(Worker(given, 0, self._runtime, self._on_ready))
            self._tasks.append(self._runtime.spawn(self._keep(given), f"worker {number}"))
        await self._readied.wait()
        if self._failed_to_start:
            self.stop()
            await self.wait()
            return False
        return True

    def _bind(self, root: Root) -> None:
        self._sockets = [{} for _ in range(root.workers)]
        try:
            for config in root.listeners:
                shared = bind_shared(config.bind, root.workers)
                self.addresses[config.name] = shown_address(shared[0])
                for place, each in zip(self._sockets, shared, strict=True):
                    place[config.name] = each
        except BaseException:
            self._close_sockets()
            raise

    def _on_ready(self) -> None:
        if all(each.state is WorkerState.READY for each in self.workers):
            self._readied.set()

    async def _keep(self, given: Given) -> None:
        """Have one worker at this place, as long as we live."""
        pause = _FIRST_PAUSE
        attempt = 0
        while not self._ending.is_set():
            worker = self.workers[given.number - 1]
            began = self._clock.monotonic()
            try:
                ended = await worker.run()
            except OSError as error:
                self._log.error("worker cannot be started", extra={"worker": given.number, "cause": str(error)})
                ended = Ended(1)
            if self.is_draining or self._ending.is_set():
                return
            if not self._readied.is_set():
                # It has said why; the same would happen again.
                self._failed_to_start = True
                self._readied.set()
                return
            pause = _FIRST_PAUSE if self._clock.monotonic() - began >= _PROVEN else pause
            wait = pause * (1 + 0.2 * self._runtime.random.random())
            extra = {"worker": given.number, "exit": str(ended), "seconds": round(wait, 3)}
            self._log.error("worker died, its connections are lost; another one follows", extra=extra)
            self.restarts[given.number - 1] += 1
            attempt += 1
            try:
                async with asyncio.timeout(wait):
                    await self._ending.wait()
            except TimeoutError:
                pause = min(pause * 2, _LONGEST_PAUSE)
            self.workers[given.number - 1] = Worker(given, attempt, self._runtime, self._on_ready)

    # ── the end ──

    def reload(self) -> None:
        for each in self.workers:
            each.signal(signal.SIGHUP)

    def drain(self) -> None:
        """All workers finish what they have; a worker that dies meanwhile is not replaced."""
        if not self.is_draining:
            self.is_draining = True
            self._log.info("draining", extra={"workers": len(self.workers)})
            self._end(signal.SIGTERM)
            # Workers have theirs, and close them now; as long as ours stay open, callers would queue where nobody serves.
            self._close_sockets()
            self._runtime.clock.call_later(self._drain_timeout + _GRACE, self._kill)

    def _kill(self) -> None:
        for each in self.workers:
            if each.state is not WorkerState.GONE:
                self._log.error("worker does not end, and is killed", extra={"worker": each.number})
                each.signal(signal.SIGKILL)

    def stop(self) -> None:
        """End at once."""
        self.is_draining = True
        self._end(signal.SIGTERM)
        # The second one is what ends a worker that drains.
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        self._ending.set()
        for each in self.workers:
            each.signal(number)

    async def wait(self) -> None:
        """Until every worker has ended for good."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._close_sockets()

    def _close_sockets(self) -> None:
        for place in self._sockets:
            for each in place.values():
                each.close()

    # ── what is shown ──

    @property
    def is_ready(self) -> bool:
        return not self.is_draining and all(each.state is WorkerState.READY for each in self.workers)

    def _count_states(self) -> list[Sample]:
        return [
            ((state.value,), sum(each.state is state for each in self.workers))
            for state in (WorkerState.STARTING, WorkerState.READY, WorkerState.DRAINING, WorkerState.GONE)
        ]

    def view(self) -> list[dict[str, object]]:
        return [
            {"worker": each.number, "pid": each.pid, "state": each.state.value, "restarts": restarts}
            for each, restarts in zip(self.workers, self.restarts, strict=True)
        ]
