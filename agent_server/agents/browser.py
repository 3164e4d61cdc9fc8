"""The browser agent: what pages show, many at a time, each with its own outcome."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urljoin

from pydantic import BaseModel, Field, StringConstraints

from agent_server.agents.declare import Agent, Input, Output, agent, operation
from agent_server.core.events import Level
from agent_server.core.failure import Failure

if TYPE_CHECKING:
    from agent_server.core.context import Context

Url = Annotated[str, StringConstraints(min_length=1, max_length=8192)]
Seconds = Annotated[float, Field(gt=0, le=300)]


class ExtractInput(Input):
    """Pages, and what to take from each."""

    urls: list[Url] = Field(min_length=1, max_length=1000)
    rows: str = Field(default="", description="CSS selector of the elements that repeat; empty: a page is one.")
    fields: dict[str, str] = Field(min_length=1, description="Name → CSS selector within, or selector@attribute.")
    next: str = Field(
        default="", description="Selector of the link to the next page, as selector@attribute; followed from each URL."
    )
    max_pages: int = Field(default=20, ge=1, le=1000, description="Pages from each URL at most, where `next` is given.")
    timeout: Seconds = 20.0


class PageItem(BaseModel):
    """What came of one URL."""

    url: str
    ok: bool
    pages: int = Field(description="Pages that were shown.")
    rows: list[dict[str, str | None]]
    reason: str = Field(default="", description="PAGE_TIMEOUT, HTTP_STATUS, TLS_FAILED, ADDRESS_REFUSED, …")
    message: str = ""


class ExtractOutput(Output):
    """What came of all URLs, in the order they were asked. Rows that went out as parts are not repeated."""

    items: list[PageItem]
    row_count: int
    failed_count: int


class ReadInput(Input):
    """A page to read."""

    url: Url
    timeout: Seconds = 20.0
    max_chars: int = Field(default=100_000, ge=1, le=1_000_000)


class ReadOutput(Output):
    """What people see."""

    url: str = Field(description="After redirects.")
    title: str
    text: str
    truncated: bool


class ScreenshotInput(Input):
    """A page to take a picture of."""

    url: Url
    timeout: Seconds = 20.0
    whole: bool = Field(default=False, description="The whole page, and not only what fits into the window.")
    width: int = Field(default=1280, ge=100, le=4000)
    height: int = Field(default=800, ge=100, le=4000)


class ScreenshotOutput(Output):
    """The picture."""

    url: str
    png: str = Field(description="In base64.")


@agent("browser", summary="Shows pages in a browser, scripts and all, and takes texts, rows and pictures from them.")
class BrowserAgent(Agent):
    """The agent."""

    @operation("extract", read_only=True)
    async def extract(self, request: ExtractInput, context: Context) -> ExtractOutput:
        """Takes rows from many pages at a time; follows `next` from page to page."""
        found: list[PageItem | None] = [None] * len(request.urls)
        telling = asyncio.Lock()
        done = 0

        async def one(index: int, url: str) -> None:
            nonlocal done
            item = await self._followed(url, request, context.execution_id)
            async with telling:
                if context.is_streaming:
                    await context.partial(url, item.model_dump(mode="json"))
                found[index] = item.model_copy(update={"rows": []}) if context.is_streaming else item
                done += 1
                if not item.ok:
                    await context.log(Level.WARNING, f"{url}: {item.reason}: {item.message}")
                await context.progress(done, len(found), "urls", url)
            counts[index] = len(item.rows)

        counts = [0] * len(request.urls)
        try:
            async with asyncio.TaskGroup() as tasks:  # the pool bounds how many pages there are at a time
                for index, url in enumerate(request.urls):
                    tasks.create_task(one(index, url))
        finally:
            await self.tools.run_ended(context.execution_id)
        items = [item for item in found if item is not None]
        return ExtractOutput(items=items, row_count=sum(counts), failed_count=sum(not item.ok for item in items))

    async def _followed(self, url: str, request: ExtractInput, run: str) -> PageItem:
        rows: list[dict[str, str | None]] = []
        seen: set[str] = set()
        where: str | None = url
        problem: dict[str, Any] = {}
        while where is not None and where not in seen and len(seen) < (request.max_pages if request.next else 1):
            seen.add(where)
            try:
                shown, link = await self.tools.browser.extract_and_next(
                    where, request.rows, request.fields, request.next, request.timeout, run=run
                )
            except Failure as failure:
                seen.discard(where)
                problem = {"reason": failure.reason, "message": failure.message}
                break
            rows += shown
            where = urljoin(where, link) if link else None
        return PageItem(url=url, ok=not problem, pages=len(seen), rows=rows, **problem)

    @operation("read", read_only=True, text="url")
    async def read(self, request: ReadInput, context: Context) -> ReadOutput:
        """Gives the text that people see on a page."""
        url, title, text = await self.tools.browser.text(request.url, request.timeout)
        is_cut = len(text) > request.max_chars
        return ReadOutput(url=url, title=title, text=text[: request.max_chars], truncated=is_cut)

    @operation("screenshot", read_only=True)
    async def screenshot(self, request: ScreenshotInput, context: Context) -> ScreenshotOutput:
        """Takes a picture of a page."""
        png = await self.tools.browser.screenshot(
            request.url, request.timeout, whole=request.whole, width=request.width, height=request.height
        )
        return ScreenshotOutput(url=request.url, png=base64.b64encode(png).decode())
