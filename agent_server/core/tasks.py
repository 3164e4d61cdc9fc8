"""Operations that run in the background and outlive the process: kept when they are taken, begun again when the server was cut off."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from grpc import StatusCode

from agent_server.core.context import Usage
from agent_server.core.events import Event, Level, Log, Outcome, Partial, Progress, Started
from agent_server.core.executor import Order
from agent_server.core.failure import Failure, Violation, invalid
from agent_server.core.watch import NobodyWatches
from agent_server.tools.once import _table_from, _table_to, fingerprint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agent_server.core.executor import Executor, Work
    from agent_server.core.store import Store
    from agent_server.core.watch import Watch

log = logging.getLogger(__name__)

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = "queued", "running", "succeeded", "failed", "cancelled"
ENDED = frozenset({SUCCEEDED, FAILED, CANCELLED})
_EVENTS_KEPT = 1000
_ATTEMPTS = 5
"""Begun so often and never ended: the task is what ends the server."""
_MOST_WAITING = 10_000
_COLUMNS = "number, task_id, identity, agent, operation, state, attempts, created, ended, version, ordered, outcome"


@dataclass(frozen=True, slots=True)
class Task:
    """How a task stands. Times are seconds since the epoch."""

    number: int
    task_id: str
    identity: str
    agent: str
    operation: str
    state: str
    attempts: int
    created: float
    ended: float | None
    version: str
    order: Order
    outcome: Outcome | None = None
    failure: Failure | None = None
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Numbered:
    """An event of a task."""

    sequence: int
    at: float
    event: Event


@dataclass(frozen=True, slots=True)
class Rating:
    """Ratings of an agent in a version."""

    agent: str
    version: str
    count: int
    mean: float


class Tasks:
    """All tasks of a server."""

    def __init__(
        self,
        store: Store,
        executor: Executor,
        *,
        wall: Callable[[], float],
        new_id: Callable[[], str],
        version: str,
        concurrency: int,
        keep: float = 7 * 24 * 3600.0,
        watch: Watch | None = None,
    ) -> None:
        """`concurrency` tasks run at the same time; one that has ended is known for `keep` seconds."""
        self._store = store
        self._executor = executor
        self._wall = wall
        self._new_id = new_id
        self._version = version
        self._places = asyncio.Semaphore(concurrency)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()
        self._changed: dict[str, asyncio.Event] = {}
        self._is_closing = False
        self._keep = keep
        self._watch = watch or NobodyWatches()
        self._owing: set[str] = set()

    async def open(self) -> None:
        """Begin again what was cut off. What must not be repeated ends as failed."""
        owing = await self._store.read("SELECT DISTINCT identity FROM tasks WHERE tokens > 0 AND is_charged = 0")
        self._owing = {str(identity) for (identity,) in owing}
        for each in await self.ratings():
            self._watch.rated(each.agent, each.version, each.count, each.mean)
        rows = await self._store.read(
            f"SELECT {_COLUMNS} FROM tasks WHERE state IN (?, ?) ORDER BY number", QUEUED, RUNNING
        )
        for row in rows:
            task = self._task(row)
            try:
                work = self._executor.prepare(task.order)
                is_safe = work.operation.read_only or work.operation.repeatable
                if task.state == RUNNING and not is_safe:
                    text = "the server ended in the middle, and the operation must not be repeated"
                    raise Failure(StatusCode.ABORTED, "INTERRUPTED", text)
                if task.attempts >= _ATTEMPTS:
                    text = f"begun {task.attempts} times and never ended"
                    raise Failure(StatusCode.ABORTED, "INTERRUPTED", text)
            except Failure as failure:
                await self._end(task.task_id, FAILED, failure)
                continue
            self._begin(task.task_id, work)

    async def close(self) -> None:
        """Stop what runs; it is begun again at the next start."""
        self._is_closing = True
        running = list(self._running.values())
        for each in running:
            each.cancel()
        if running:
            await asyncio.wait(running)
        for changed in self._changed.values():
            changed.set()

    async def submit(self, order: Order) -> Task:
        """Take a task. Raises Failure when its input is wrong, or when too many wait."""
        if len(self._running) >= _MOST_WAITING:
            text = f"{len(self._running)} tasks wait"
            raise Failure(StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_TASKS", text, retry_after=10.0)
        work = self._executor.prepare(order)
        task_id = self._new_id()
        key = order.idempotency_key
        # What callers repeat is the message they sent, so that is what is compared.
        said = fingerprint(order.task, order.agent, order.operation, json.dumps(order.parameters, sort_keys=True))
        kept = Order(
            **{**asdict(order), "parameters": dict(order.parameters), "idempotency_key": key or f"task-{task_id}"}
        )
        sealed = self._store.vault.seal(asdict(kept))
        created = self._wall()

        def insert(db: sqlite3.Connection) -> tuple[str, bool]:
            old = "SELECT task_id FROM tasks WHERE ended < ?"
            for (gone,) in db.execute(old, (created - self._keep,)).fetchall():
                db.execute("DELETE FROM task_events WHERE task_id = ?", (gone,))
                db.execute("DELETE FROM tasks WHERE task_id = ?", (gone,))
            if key:
                select = "SELECT task_id, fingerprint FROM tasks WHERE identity = ? AND key = ?"
                if (row := db.execute(select, (order.identity, key)).fetchone()) is not None:
                    if row[1] != said:
                        text = "the idempotency key was used for another task before"
                        raise Failure(StatusCode.INVALID_ARGUMENT, "KEY_REUSED", text, metadata={"key": key})
                    return row[0], False
            db.execute(
                "INSERT INTO tasks (task_id, identity, key, fingerprint, agent, operation, state, attempts, created, version, ordered)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
                (
                    task_id,
                    order.identity,
                    key,
                    said,
                    work.agent.name,
                    work.operation.name,
                    QUEUED,
                    created,
                    self._version,
                    sealed,
                ),
            )
            return task_id, True

        found, is_new = await self._store.write(insert)
        if is_new:
            self._begin(task_id, self._executor.prepare(kept))
        return await self.get(order.identity, found)

    async def get(self, identity: str, task_id: str) -> Task:
        """A task of this caller. Raises Failure NOT_FOUND."""
        rows = await self._store.read(
            f"SELECT {_COLUMNS} FROM tasks WHERE identity = ? AND task_id = ?", identity, task_id
        )
        if not rows:
            raise Failure(StatusCode.NOT_FOUND, "TASK_UNKNOWN", "no such task", metadata={"task_id": task_id[:64]})
        events = await self._store.read(
            "SELECT sealed FROM task_events WHERE task_id = ? ORDER BY sequence DESC LIMIT 20", task_id
        )
        found = (_event_from(self._store.vault.open(sealed)) for (sealed,) in events)  # type: ignore[arg-type]
        return self._task(rows[0], next((each for each in found if isinstance(each, Progress)), None))

    async def listed(self, identity: str, state: str, before: int, limit: int) -> list[Task]:
        """Tasks of this caller with a number below `before` (0: all), the newest first. `state` empty: all."""
        rows = await self._store.read(
            f"SELECT {_COLUMNS} FROM tasks WHERE identity = ? AND (? = '' OR state = ?) AND (? = 0 OR number < ?)"
            " ORDER BY number DESC LIMIT ?",
            identity,
            state,
            state,
            before,
            before,
            limit,
        )
        return [self._task(row) for row in rows]

    async def cancel(self, identity: str, task_id: str) -> Task:
        """End a task, and wait until its work has ended. Raises Failure NOT_FOUND."""
        task = await self.get(identity, task_id)
        if task.state in ENDED:
            return task
        self._cancelled.add(task_id)
        running = self._running.get(task_id)
        if running is not None:
            running.cancel()
            await asyncio.wait({running})
        self._cancelled.discard(task_id)
        if (task := await self.get(identity, task_id)).state not in ENDED:
            await self._end(task_id, CANCELLED, Failure(StatusCode.CANCELLED, "CANCELLED", "cancelled by its caller"))
        return await self.get(identity, task_id)

    async def watch(self, identity: str, task_id: str, after: int) -> AsyncIterator[Numbered | Task]:
        """Events after number `after`, as they come, and the task when it has ended. Raises Failure NOT_FOUND."""
        await self.get(identity, task_id)
        while True:
            changed = self._changed.setdefault(task_id, asyncio.Event())
            task = await self.get(identity, task_id)
            while rows := await self._store.read(
                "SELECT sequence, at, sealed FROM task_events WHERE task_id = ? AND sequence > ? ORDER BY sequence LIMIT 100",
                task_id,
                after,
            ):
                for sequence, at, sealed in rows:
                    after = sequence  # type: ignore[assignment]
                    yield Numbered(after, at, _event_from(self._store.vault.open(sealed)))  # type: ignore[arg-type]
            if task.state in ENDED:
                self._changed.pop(task_id, None)
                yield task
                return
            if self._is_closing:
                text = "the server ends; the task goes on when it is back"
                raise Failure(StatusCode.UNAVAILABLE, "SERVER_ENDING", text, retry_after=1.0)
            await changed.wait()

    async def rate(self, identity: str, task_id: str, score: int, comment: str) -> Rating:
        """Rate a task that has ended. Raises Failure."""
        if not 1 <= score <= 5:
            raise invalid("score", "must be 1 to 5")
        if len(comment) > 2000:
            raise invalid("comment", "must be at most 2000 characters")
        task = await self.get(identity, task_id)
        if task.state not in ENDED:
            raise Failure(StatusCode.FAILED_PRECONDITION, "TASK_NOT_ENDED", "a task is rated when it has ended")
        values = (task_id, task.agent, task.version, score, self._store.vault.seal(comment), self._wall())
        insert = "INSERT OR REPLACE INTO ratings VALUES (?, ?, ?, ?, ?, ?)"
        await self._store.write(lambda db: db.execute(insert, values))
        rating = next(each for each in await self.ratings(task.agent) if each.version == task.version)
        self._watch.rated(rating.agent, rating.version, rating.count, rating.mean)
        return rating

    async def ratings(self, agent: str = "") -> list[Rating]:
        """By agent and version."""
        rows = await self._store.read(
            "SELECT agent, version, COUNT(*), AVG(score) FROM ratings WHERE ? = '' OR agent = ? GROUP BY agent, version"
            " ORDER BY agent, version",
            agent,
            agent,
        )
        return [Rating(*row) for row in rows]  # type: ignore[arg-type]

    async def owed(self, identity: str) -> Usage:
        """What this caller's ended tasks have used up and he has not been told yet. Told once: budgets add it up."""
        if identity not in self._owing:
            return Usage()
        self._owing.discard(identity)
        update = "UPDATE tasks SET is_charged = 1 WHERE identity = ? AND is_charged = 0 AND tokens > 0 RETURNING tokens"
        rows = await self._store.write(lambda db: db.execute(update, (identity,)).fetchall())
        return Usage(sum(tokens for (tokens,) in rows))

    def _begin(self, task_id: str, work: Work) -> None:
        running = asyncio.get_running_loop().create_task(self._run(task_id, work), name=f"task {task_id}")
        self._running[task_id] = running
        running.add_done_callback(lambda _: self._running.pop(task_id, None))

    async def _run(self, task_id: str, work: Work) -> None:
        try:
            async with self._places:
                update = "UPDATE tasks SET state = ?, attempts = attempts + 1, version = ? WHERE task_id = ?"
                await self._store.write(lambda db: db.execute(update, (RUNNING, self._version, task_id)))

                async def told(event: Event) -> None:
                    if not isinstance(event, Started):
                        await self._tell(task_id, event)

                # The server's limit is for those who wait on a line; a task has CancelTask.
                outcome = await self._executor.run(work, told, takes_parts=False, is_limited=False)
                await self._end(task_id, SUCCEEDED, outcome, work)
        except asyncio.CancelledError:
            if task_id in self._cancelled:
                await self._end(
                    task_id, CANCELLED, Failure(StatusCode.CANCELLED, "CANCELLED", "cancelled by its caller"), work
                )
            raise
        except Failure as failure:
            await self._end(task_id, FAILED, failure, work)
        except Exception:
            log.exception("defect in task %s", task_id)
            text = "the agent failed; its log says why"
            await self._end(task_id, FAILED, Failure(StatusCode.INTERNAL, "DEFECT", text), work)

    async def _tell(self, task_id: str, event: Event) -> None:
        sealed, at = self._store.vault.seal(_event_to(event)), self._wall()

        def work(db: sqlite3.Connection) -> None:
            last = db.execute("SELECT MAX(sequence) FROM task_events WHERE task_id = ?", (task_id,)).fetchone()[0] or 0
            db.execute("INSERT INTO task_events VALUES (?, ?, ?, ?)", (task_id, last + 1, at, sealed))
            db.execute(
                "DELETE FROM task_events WHERE task_id = ? AND sequence <= ?", (task_id, last + 1 - _EVENTS_KEPT)
            )

        await self._store.write(work)
        self._wake(task_id)

    async def _end(self, task_id: str, state: str, what: Outcome | Failure, work: Work | None = None) -> None:
        sealed = self._store.vault.seal(_outcome_to(what) if isinstance(what, Outcome) else _failure_to(what))
        tokens = work.usage.tokens if work is not None else 0
        values = (state, self._wall(), sealed, tokens, task_id)
        update = "UPDATE tasks SET state = ?, ended = ?, outcome = ?, tokens = tokens + ? WHERE task_id = ?"
        await self._store.write(lambda db: db.execute(update, values))
        if work is not None and tokens:
            self._owing.add(work.order.identity)
        self._wake(task_id)

    def _wake(self, task_id: str) -> None:
        if (changed := self._changed.pop(task_id, None)) is not None:
            changed.set()

    def _task(self, row: tuple[Any, ...], progress: Progress | None = None) -> Task:
        ordered, sealed = row[-2:]
        told = self._store.vault.open(sealed) if sealed is not None else {}
        outcome = _outcome_from(told["outcome"]) if "outcome" in told else None
        failure = _failure_from(told["failure"]) if "failure" in told else None
        order = Order(**self._store.vault.open(ordered))
        values: list[Any] = [*row[:-2], order, outcome, failure, progress]
        return Task(*values)


def _event_to(event: Event) -> dict[str, Any]:
    match event:
        case Progress():
            return {"progress": [event.completed, event.total, event.unit, event.message]}
        case Log():
            return {"log": [event.level.value, event.message]}
        case Partial():
            return {"partial": [event.item, event.output, _table_to(event.table)]}
        case Started():
            return {"log": [Level.DEBUG.value, "started"]}


def _event_from(told: dict[str, Any]) -> Event:
    if "progress" in told:
        return Progress(*told["progress"])
    if "log" in told:
        level, message = told["log"]
        return Log(Level(level), message)
    item, output, table = told["partial"]
    return Partial(item, output, _table_from(table))


def _outcome_to(outcome: Outcome) -> dict[str, Any]:
    values = {name: getattr(outcome, name) for name in Outcome.__slots__ if name != "table"}
    return {"outcome": {**values, "table": _table_to(outcome.table)}}


def _outcome_from(told: dict[str, Any]) -> Outcome:
    return Outcome(**{**told, "table": _table_from(told["table"])})


def _failure_to(failure: Failure) -> dict[str, Any]:
    violations = [[each.field, each.description] for each in failure.violations]
    return {"failure": [failure.code.name, failure.reason, failure.message, failure.metadata, violations]}


def _failure_from(told: list[Any]) -> Failure:
    code, reason, message, metadata, violations = told
    return Failure(
        StatusCode[code], reason, message, metadata=metadata, violations=[Violation(*each) for each in violations]
    )
