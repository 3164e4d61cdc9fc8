"""Tasks: kept, begun again, watched, rated, charged once, forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from grpc import StatusCode

from agent_server.agents.declare import Agent, Input, Output, agent, operation, spec_of
from agent_server.core.catalogue import Catalogue
from agent_server.core.context import Context
from agent_server.core.events import Level, Log
from agent_server.core.executor import Executor, Order
from agent_server.core.failure import Failure
from agent_server.core.sessions import Sessions
from agent_server.core.store import Store
from agent_server.core.tasks import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, Numbered, Task, Tasks
from agent_server.core.watch import NobodyWatches
from agent_server.tools.addresses import AddressRule
from agent_server.tools.database import Database
from agent_server.tools.toolbox import Toolbox

KEY = Fernet.generate_key().decode()


class WorkInput(Input):
    """What to do."""

    text: str = ""


class WorkOutput(Output):
    """What was done."""

    text: str


class Desk:
    """What the worker does, by the text it is given; shared by all servers of a test."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.active = self.most = 0
        self.hold = asyncio.Event()
        self.arrived = asyncio.Event()


DESK: list[Desk] = []


@agent("worker", summary="Works.")
class Worker(Agent):
    async def _work(self, request: WorkInput, context: Context) -> WorkOutput:
        desk = DESK[-1]
        desk.begun.append(request.text)
        desk.active += 1
        desk.most = max(desk.most, desk.active)
        context.usage.tokens += 7
        try:
            await context.log(Level.INFO, f"at {request.text}")
            desk.arrived.set()
            if request.text.startswith("hold"):
                await desk.hold.wait()
            if request.text == "fail":
                raise Failure(StatusCode.NOT_FOUND, "GONE", "it is gone")
            if request.text == "defect":
                raise KeyError("secret inside")
            return WorkOutput(text=request.text.upper())
        finally:
            desk.active -= 1

    @operation("repeat", text="text", repeatable=True)
    async def repeat(self, request: WorkInput, context: Context) -> WorkOutput:
        """May be begun again."""
        return await self._work(request, context)

    @operation("once")
    async def once(self, request: WorkInput, context: Context) -> WorkOutput:
        """Must not be begun again."""
        return await self._work(request, context)


class Watched(NobodyWatches):
    """Notes what is rated."""

    def __init__(self) -> None:
        self.ratings: dict[str, tuple[int, float]] = {}

    def rated(self, agent: str, version: str, count: int, mean: float) -> None:
        self.ratings[f"{agent} {version}"] = (count, mean)


class Server:
    """The tasks of one server process, on a state file."""

    def __init__(self, path: Path, version: str = "v1", concurrency: int = 2) -> None:
        self.seconds = 1_000_000.0
        self.watched = Watched()
        self.store = Store(path, [KEY])
        tools = Toolbox(Database(None), AddressRule(), now=self.now, wall=self.now, user_agent="t", store=self.store)
        spec = spec_of(Worker)
        assert spec is not None
        ids = iter(range(1_000_000))
        new_id: Callable[[], str] = lambda: f"{version}-{next(ids)}"  # noqa: E731
        executor = Executor(Catalogue([spec], tools), Sessions(), now=self.now, new_id=new_id, timeout=60.0)
        self.tasks = Tasks(
            self.store,
            executor,
            wall=self.now,
            new_id=new_id,
            version=version,
            concurrency=concurrency,
            keep=100.0,
            watch=self.watched,
        )

    def now(self) -> float:
        return self.seconds

    async def open(self) -> Server:
        await self.store.open()
        await self.tasks.open()
        return self

    async def close(self) -> None:
        await self.tasks.close()
        await self.store.close()

    async def submit(self, text: str, operation: str = "repeat", identity: str = "ann", key: str = "") -> Task:
        order = Order(operation=operation, parameters={"text": text}, identity=identity, idempotency_key=key)
        return await self.tasks.submit(order)

    async def ended(self, task: Task, identity: str = "ann", after: int = 0) -> tuple[Task, list[Numbered]]:
        told: list[Numbered] = []
        async for each in self.tasks.watch(identity, task.task_id, after):
            if isinstance(each, Task):
                return each, told
            told.append(each)
        raise AssertionError


@pytest.fixture
def desk() -> Desk:
    DESK.append(Desk())
    return DESK[-1]


@pytest.fixture
async def server(tmp_path: Path, desk: Desk) -> AsyncIterator[Server]:
    server = await Server(tmp_path / "state.db").open()
    yield server
    await server.close()


async def refused(work: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        await work
    return caught.value


async def test_a_task_runs_and_is_watched_to_its_end(server: Server) -> None:
    task = await server.submit("x")
    ended, told = await server.ended(task)
    assert (ended.state, ended.attempts, ended.version) == (SUCCEEDED, 1, "v1")
    assert ended.outcome is not None
    assert ended.outcome.output == {"text": "X"}
    assert [each.event for each in told] == [Log(Level.INFO, "at x")]
    again, after = await server.ended(task, after=told[-1].sequence)
    assert (again, after) == (ended, [])


@pytest.mark.parametrize(("text", "reason"), [("fail", "GONE"), ("defect", "DEFECT")])
async def test_a_task_that_fails_says_why_and_no_more(server: Server, text: str, reason: str) -> None:
    ended, _ = await server.ended(await server.submit(text))
    assert ended.state == FAILED
    assert ended.failure is not None
    assert ended.failure.reason == reason
    assert "secret" not in ended.failure.message


async def test_a_wrong_task_is_refused_at_once(server: Server) -> None:
    order = Order(operation="repeat", parameters={"wrong": 1}, identity="ann")
    assert (await refused(server.tasks.submit(order))).violations[0].field == "parameters.wrong"
    assert await server.tasks.listed("ann", "", 0, 10) == []


async def test_what_may_be_repeated_is_begun_again_and_the_rest_ends_as_failed(tmp_path: Path, desk: Desk) -> None:
    first = await Server(tmp_path / "state.db", concurrency=2).open()
    tasks = {text: await first.submit(text, text.split()[1]) for text in ("hold repeat", "hold once")}
    waiting = await first.submit("x")
    while len(desk.begun) < 2:
        await desk.arrived.wait()
        await asyncio.sleep(0)
    assert (await first.tasks.get("ann", waiting.task_id)).state == QUEUED
    assert (await first.tasks.get("ann", tasks["hold once"].task_id)).state == RUNNING
    await first.close()  # as a kill leaves it: cancelling for the end writes nothing
    desk.hold.set()
    second = await Server(tmp_path / "state.db", version="v2").open()
    again, _ = await second.ended(tasks["hold repeat"])
    lost, _ = await second.ended(tasks["hold once"])
    begun_late, _ = await second.ended(waiting)
    assert (again.state, again.attempts, again.version) == (SUCCEEDED, 2, "v2")
    assert lost.failure is not None
    assert (lost.state, lost.failure.reason) == (FAILED, "INTERRUPTED")
    assert (begun_late.state, begun_late.attempts) == (SUCCEEDED, 1)
    assert sorted(desk.begun) == ["hold once", "hold repeat", "hold repeat", "x"]
    await second.close()


async def test_a_task_that_ends_the_server_each_time_is_not_begun_for_ever(tmp_path: Path, desk: Desk) -> None:
    for attempt in range(1, 7):
        server = await Server(tmp_path / "state.db").open()
        if attempt == 1:
            task = await server.submit("hold")
        if attempt <= 5:
            desk.arrived.clear()
            await desk.arrived.wait() if len(desk.begun) < attempt else None
        found = await server.tasks.get("ann", task.task_id)
        await server.close()
    assert (found.state, len(desk.begun)) == (FAILED, 5)


async def test_no_more_at_a_time_than_allowed(server: Server, desk: Desk) -> None:
    tasks = [await server.submit(f"hold {n}") for n in range(5)]
    desk.hold.set()
    for task in tasks:
        assert (await server.ended(task))[0].state == SUCCEEDED
    assert desk.most == 2


async def test_a_key_names_one_task_of_one_caller(server: Server) -> None:
    task = await server.submit("x", key="k")
    assert (await server.submit("x", key="k")).task_id == task.task_id
    assert (await refused(server.submit("y", key="k"))).reason == "KEY_REUSED"
    other = await server.submit("x", key="k", identity="ben")
    assert other.task_id != task.task_id
    for work in (
        server.tasks.get("ben", task.task_id),
        server.tasks.cancel("ben", task.task_id),
        server.tasks.rate("ben", task.task_id, 5, ""),
    ):
        assert (await refused(work)).code is StatusCode.NOT_FOUND
    assert [each.task_id for each in await server.tasks.listed("ben", "", 0, 10)] == [other.task_id]


async def test_cancelling_waits_for_the_end_of_the_work(server: Server, desk: Desk) -> None:
    running = await server.submit("hold")
    await desk.arrived.wait()
    cancelled = await server.tasks.cancel("ann", running.task_id)
    assert (cancelled.state, desk.active) == (CANCELLED, 0)
    assert (await server.tasks.cancel("ann", running.task_id)).ended == cancelled.ended
    holding = [await server.submit(f"hold {n}") for n in range(2)]
    queued = await server.submit("x")
    assert (await server.tasks.cancel("ann", queued.task_id)).state == CANCELLED
    assert "x" not in desk.begun
    assert [each.task_id for each in await server.tasks.listed("ann", CANCELLED, 0, 10)] == [
        queued.task_id,
        running.task_id,
    ]
    desk.hold.set()
    for task in holding:
        await server.ended(task)


async def test_ratings_by_agent_and_version(tmp_path: Path, desk: Desk) -> None:
    for version, scores in (("v1", (5, 4)), ("v2", (1, 2, 3))):
        server = await Server(tmp_path / "state.db", version=version).open()
        for score in scores:
            task = await server.submit(f"hold {version} {score}")
            assert (await refused(server.tasks.rate("ann", task.task_id, 3, ""))).reason == "TASK_NOT_ENDED"
            desk.hold.set()
            await server.ended(task)
            desk.hold.clear()
            for wrong in (0, 6):
                assert (await refused(server.tasks.rate("ann", task.task_id, wrong, ""))).violations[0].field == "score"
            await server.tasks.rate("ann", task.task_id, 1, "no")
            rating = await server.tasks.rate("ann", task.task_id, score, "yes")  # the second replaces the first
        summary = [(each.agent, each.version, each.count, each.mean) for each in await server.tasks.ratings()]
        assert (rating.version, rating.count) == (version, len(scores))
        watched = server.watched.ratings
        await server.close()
    assert summary == [("worker", "v1", 2, 4.5), ("worker", "v2", 3, 2.0)]
    assert watched == {"worker v1": (2, 4.5), "worker v2": (3, 2.0)}, "those of an earlier version, too"


async def test_what_tasks_used_up_is_told_to_their_caller_once_and_over_a_restart(tmp_path: Path, desk: Desk) -> None:
    server = await Server(tmp_path / "state.db").open()
    for text in ("x", "fail", "defect"):
        await server.ended(await server.submit(text))
    held = await server.submit("hold")
    await desk.arrived.wait()
    await server.tasks.cancel("ann", held.task_id)
    assert (await server.tasks.owed("ben")).tokens == 0
    await server.close()
    server = await Server(tmp_path / "state.db").open()
    assert [(await server.tasks.owed("ann")).tokens for _ in range(2)] == [28, 0]
    await server.close()


async def test_a_task_is_forgotten_after_its_time_and_its_rating_is_not(server: Server) -> None:
    old = await server.submit("x")
    await server.ended(old)
    await server.tasks.rate("ann", old.task_id, 4, "")
    server.seconds += 101
    await server.ended(await server.submit("y"))
    assert (await refused(server.tasks.get("ann", old.task_id))).code is StatusCode.NOT_FOUND
    assert await server.store.read("SELECT COUNT(*) FROM task_events WHERE task_id = ?", old.task_id) == [(0,)]
    assert [each.count for each in await server.tasks.ratings()] == [1]


async def test_nothing_that_was_ordered_is_readable_in_the_file(server: Server, tmp_path: Path) -> None:
    await server.ended(await server.submit("Confidential"))
    raw = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert b"onfidential" not in raw
    assert b"CONFIDENTIAL" not in raw


async def test_watchers_are_told_when_the_server_ends(server: Server, desk: Desk) -> None:
    task = await server.submit("hold")
    await desk.arrived.wait()
    watching = asyncio.create_task(server.ended(task))
    await asyncio.sleep(0)
    await server.tasks.close()
    assert (await refused(watching)).reason == "SERVER_ENDING"
