"""Pages in a browser."""

from __future__ import annotations

from pydantic import Field

from agent_server.agents.declare import Input, Output
from agent_server.tools.declare import Use, tool


class ExtractInput(Input):
    """What to take from a page."""

    url: str = Field(min_length=1, max_length=8192)
    rows: str = Field(default="", description="CSS selector of the elements that repeat; empty: the page is one.")
    fields: dict[str, str] = Field(min_length=1, description="Name → CSS selector within, or selector@attribute.")
    timeout: float = Field(default=20.0, gt=0, le=300)


class ExtractOutput(Output):
    """What was found."""

    rows: list[dict[str, str | None]]


@tool("browser.extract", changes=False)
async def extract(request: ExtractInput, use: Use) -> ExtractOutput:
    """Shows a page in the browser, scripts and all, and takes texts or attributes from it."""
    run = use.context.execution_id if use.context is not None else ""
    rows = await use.tools.browser.extract(request.url, request.rows, request.fields, request.timeout, run=run)
    return ExtractOutput(rows=rows)
