"""The memory agent: keeps what a session should remember, and finds it again."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from agent_server.agents.declare import Agent, Input, Output, agent, operation
from agent_server.core.failure import invalid

if TYPE_CHECKING:
    from agent_server.core.context import Context


class RememberInput(Input):
    """What to keep."""

    text: str = Field(min_length=1, max_length=1 << 20)


class RememberOutput(Output):
    """Where it is."""

    number: int


class SearchInput(Input):
    """What to find."""

    text: str = Field(default="", max_length=10_000, description="All of its words; empty: the newest.")
    limit: int = Field(default=20, ge=1, le=1000)


class Item(BaseModel):
    """What was kept."""

    number: int
    at: str
    text: str


class SearchOutput(Output):
    """What was found, the best first."""

    items: list[Item]


class ForgetInput(Input):
    """Nothing: the session says what."""


class ForgetOutput(Output):
    """What is gone."""

    forgotten: int


@agent("memory", summary="Remembers texts per session, encrypted, and finds them by their words.")
class MemoryAgent(Agent):
    """The agent."""

    @operation("remember")
    async def remember(self, request: RememberInput, context: Context) -> RememberOutput:
        """Keeps a text for the session."""
        return RememberOutput(
            number=await self.tools.memory.remember(context.identity, _session(context), request.text)
        )

    @operation("search", read_only=True, text="text")
    async def search(self, request: SearchInput, context: Context) -> SearchOutput:
        """Finds texts of the session."""
        found = await self.tools.memory.search(context.identity, _session(context), request.text, request.limit)
        return SearchOutput(
            items=[
                Item(
                    number=each.number,
                    at=dt.datetime.fromtimestamp(each.at, dt.UTC).isoformat(),
                    text=each.text,
                )
                for each in found
            ]
        )

    @operation("forget")
    async def forget(self, request: ForgetInput, context: Context) -> ForgetOutput:
        """Forgets what the session remembers."""
        return ForgetOutput(forgotten=await self.tools.memory.forget(context.identity, _session(context)))


def _session(context: Context) -> str:
    if context.session is None:
        raise invalid("session_id", "is required: what is remembered belongs to a session")
    return context.session.session_id
