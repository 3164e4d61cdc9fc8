"""A data agent on a database of its own, run by one loop per test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from agent_server.agents.declare import IngestOutput, Kind
from agent_server.core.catalogue import Catalogue, load_specs
from agent_server.core.events import Event, Outcome, Record
from agent_server.core.executor import Executor, Order
from agent_server.core.sessions import Sessions
from agent_server.tools.addresses import AddressRule
from agent_server.tools.database import Database
from agent_server.tools.toolbox import Toolbox


class Desk:
    """Takes orders for the data agent; time stands still unless a test moves it."""

    def __init__(self, runner: asyncio.Runner, path: Path | None, *, timeout: float = 60.0) -> None:
        self.runner = runner
        self.seconds = 1_000_000.0
        self.tools = Toolbox(
            Database(path),
            AddressRule(),
            now=lambda: self.seconds,
            wall=lambda: self.seconds,
            user_agent="test",
        )
        self.catalogue = Catalogue(load_specs(["agent_server.agents.data"]), self.tools)
        ids = iter(range(1_000_000))
        self.executor = Executor(
            self.catalogue,
            Sessions(),
            now=lambda: self.seconds,
            new_id=lambda: f"run-{next(ids)}",
            timeout=timeout,
        )

    def order(self, operation: str = "", **parameters: Any) -> Outcome:
        return self.place(Order(operation=operation, parameters=parameters))

    def place(self, order: Order) -> Outcome:
        return self.runner.run(self._place(order))

    def streamed(self, operation: str, **parameters: Any) -> list[Event | Outcome]:
        async def collect() -> list[Event | Outcome]:
            work = self.executor.prepare(Order(operation=operation, parameters=parameters))
            async with aclosing(self.executor.stream(work)) as events:
                return [event async for event in events]

        return self.runner.run(collect())

    def ingest(self, records: list[Any], **parameters: Any) -> IngestOutput:
        async def stream() -> Any:
            for index, fields in enumerate(records):
                yield Record(index, f"r{index}", fields, 100)

        async def work() -> IngestOutput:
            prepared = self.executor.prepare(Order(parameters=parameters), Kind.INGEST)
            return (await self.executor.ingest(prepared, stream()))[0]

        return self.runner.run(work())

    def rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        table = self.order("query", sql=sql, params=list(params)).table
        assert table is not None
        return list(table.rows)

    async def _place(self, order: Order) -> Outcome:
        return await self.executor.run(self.executor.prepare(order))


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def desk(runner: asyncio.Runner, tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(runner, tmp_path / "data.db")
    runner.run(desk.tools.open())
    yield desk
    runner.run(desk.tools.close())
