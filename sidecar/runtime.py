"""What a policy is given: time, chance, ids, metrics, log, state that outlives a reload, and a way to wait.

One `Runtime` exists per process; `scoped` gives each route its view. Nothing in here is looked up per RPC.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar.proxy.recent import RecentRefusals
from sidecar.request_id import new_request_id
from sidecar.store.sealing import Sealing

if TYPE_CHECKING:
    import random

    from sidecar.clock import Clock, Deadlines
    from sidecar.proxy.holding import Holding
    from sidecar.store.interface import Store
    from sidecar.telemetry.logs import LogWriter
    from sidecar.telemetry.metrics import Metrics

T = TypeVar("T")


class KeptState:
    """State that outlives the generation that made it, by key. What no generation asked for is dropped after a reload."""

    def __init__(self) -> None:
        self._values: dict[Hashable, object] = {}
        self._asked: set[Hashable] = set()

    def keep(self, key: Hashable, factory: Callable[[], T]) -> T:
        """The value kept under `key`, made by `factory` the first time."""
        self._asked.add(key)
        if key not in self._values:
            self._values[key] = factory()
        value: T = self._values[key]  # type: ignore[assignment]  # the key stands for what its factory makes
        return value

    def sweep(self) -> None:
        """A generation is complete: drop what it did not ask for."""
        for key in self._values.keys() - self._asked:
            del self._values[key]
        self._asked.clear()


class Tasks:
    """The tasks of waiting hooks and of keyed executions that outlive their caller; each is held until it ends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logging.getLogger("sidecar").error(
                "defect", exc_info=task.exception(), extra={"where": f"task {task.get_name()}"}
            )

    def __len__(self) -> int:
        return len(self._tasks)


class Lag:
    """How late the event loop ran its last tick, in seconds; measured by the process."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0


class Readiness:
    """Whether the sidecar may be given RPCs; the process says how that is found out."""

    __slots__ = ("holds",)

    def __init__(self) -> None:
        self.holds: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class Runtime:
    """The process as a policy sees it; `listener` and `route` say for whom it was scoped."""

    clock: Clock
    deadlines: Deadlines
    random: random.Random
    metrics: Metrics
    log: logging.Logger
    holding: Holding
    kept: KeptState = field(default_factory=KeptState)
    tasks: Tasks = field(default_factory=Tasks)
    lag: Lag = field(default_factory=Lag)
    readiness: Readiness = field(default_factory=Readiness)
    refusals: RecentRefusals = field(default_factory=RecentRefusals)
    lines: LogWriter | None = None
    """Where lines go that somebody else puts into words; None = nobody reads them."""
    node: str = ""
    """Who this sidecar is, as configured."""
    listener: str = ""
    route: str = ""
    direction: str = ""
    closers: list[Callable[[], None]] = field(default_factory=list)
    """Called in a thread when the process has ended its calls: what is buffered goes out. May block."""
    generation: int = 0
    """The number of the configuration that a route belongs to, from 1; 0 = it belongs to none."""
    worker: int = 0
    """Which of several workers this process is, from 1; 0 = it is the only one."""
    store: Store | None = None
    """What is shared with other workers and hosts; None = none is configured."""
    sealing: Sealing = field(default_factory=Sealing)
    """Encrypts what is kept of calls, if keys are configured."""

    def scoped(self, *, listener: str, route: str, direction: str, node: str = "", generation: int = 0) -> Runtime:
        """The same process, seen by one route of one generation."""
        return replace(
            self,
            listener=listener,
            route=route,
            direction=direction,
            node=node or self.node,
            generation=generation or self.generation,
        )

    def keep(self, key: Hashable, factory: Callable[[], T]) -> T:
        """State that survives a reload (buckets, breakers, counts in flight); see `KeptState.keep`."""
        return self.kept.keep(key, factory)

    def new_request_id(self) -> bytes:
        return new_request_id(self.clock.wall(), self.random)

    def defect(self, where: str, error: BaseException) -> None:
        """An exception that should not be: counted, and logged with its text, which no caller sees."""
        self.metrics.defects[where] += 1
        self.log.error("defect", exc_info=error, extra={"where": where, "route": self.route})

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str = "policy") -> asyncio.Task[T]:
        """Run `coroutine` beside the data path; it may outlive the call that started it."""
        return self.tasks.spawn(coroutine, name)
