"""What an operation tells."""

from __future__ import annotations

import asyncio

from agent_server.core.context import Context
from agent_server.core.events import Event, Level, Log, Partial, Progress


def test_events_go_to_the_sink_in_order() -> None:
    told: list[Event] = []

    async def sink(event: Event) -> None:
        told.append(event)

    async def work() -> None:
        context = Context("id", sink=sink)
        assert context.is_streaming
        await context.log(Level.WARNING, "careful")
        await context.progress(1, 2, "rows", "one")
        await context.partial("page 1", {"a": 1})

    asyncio.run(work())
    assert told == [Log(Level.WARNING, "careful"), Progress(1, 2, "rows", "one"), Partial("page 1", {"a": 1}, None)]


def test_without_a_sink_telling_is_harmless() -> None:
    async def work() -> None:
        context = Context("id")
        assert not context.is_streaming
        await context.progress(1, 2, "rows")

    asyncio.run(work())
