"""The API agent: many calls at a time, each with its own outcome, in the order they were asked."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from agent_server.agents.declare import Agent, Input, Output, agent, operation
from agent_server.core.events import Level
from agent_server.tools.headers import Headers

if TYPE_CHECKING:
    from agent_server.core.context import Context
    from agent_server.tools.http import Fetched

_ROOM = 3 << 20
"""Bytes of all bodies of one answer: below the 4 MiB that gRPC clients take unless told otherwise."""

Url = Annotated[str, StringConstraints(min_length=1, max_length=8192)]


class ApiCall(BaseModel):
    """One call."""

    model_config = Input.model_config

    url: Url
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    headers: Headers = Field(default_factory=dict)
    body: Any = Field(default=None, description="Sent as JSON.")


class CallInput(Input):
    """Calls to make."""

    calls: list[ApiCall] = Field(min_length=1, max_length=1000)
    concurrency: int = Field(default=20, ge=1, le=100, description="At a time; also bounded per host (http_per_host).")
    attempts: int = Field(
        default=3,
        ge=1,
        le=10,
        description="Of a call that may pass at another try. Changing ones need an idempotency key.",
    )
    timeout: float = Field(default=10.0, gt=0, le=300, description="Seconds of one attempt.")
    max_bytes: int = Field(default=1 << 20, ge=0, le=16 << 20, description="Of each body; the rest is cut off.")
    cache_seconds: float = Field(
        default=0.0, ge=0, le=86400, description="Answers of GET that are so young are not asked again."
    )


class CallItem(BaseModel):
    """What came of one call."""

    url: str
    ok: bool = Field(description="There was an answer, and its status is below 400.")
    status: int | None = None
    data: Any = Field(default=None, description="The body, if it is JSON.")
    text: str = Field(default="", description="The body, if it is something else.")
    truncated: bool = False
    cached: bool = False
    reason: str = Field(default="", description="HTTP_STATUS, TIMEOUT, ADDRESS_REFUSED, CONNECT_FAILED, TLS_FAILED, …")
    message: str = ""


class CallOutput(Output):
    """What came of all calls, in their order. Bodies that went out as parts are not repeated."""

    items: list[CallItem]
    ok_count: int
    failed_count: int


@agent("api", summary="Calls HTTP APIs concurrently: retries, limits per host, a cache, and a complete result.")
class ApiAgent(Agent):
    """The agent."""

    @operation("call", repeatable=True)
    async def call(self, request: CallInput, context: Context) -> CallOutput:
        """Makes all calls; under an idempotency key each changing one carries a key of its own."""
        from agent_server.tools.http_calls import SAFE, Call

        places = asyncio.Semaphore(request.concurrency)
        found: list[CallItem | None] = [None] * len(request.calls)
        telling = asyncio.Lock()
        done = 0
        room = _ROOM

        async def one(index: int, each: ApiCall) -> None:
            nonlocal done, room
            headers = dict(each.headers)
            content = b""
            if each.body is not None:
                content = json.dumps(each.body).encode()
                headers.setdefault("content-type", "application/json")
            if each.method not in SAFE and context.idempotency_key:
                said = f"{context.identity}\0{context.idempotency_key}\0{index}"
                headers.setdefault("idempotency-key", hashlib.sha256(said.encode()).hexdigest()[:40])
            async with places:
                answer, was_kept = await self.tools.http_calls.call(
                    Call(
                        each.url,
                        each.method,
                        headers,
                        content,
                        request.timeout,
                        request.max_bytes,
                        attempts=request.attempts,
                        cache_seconds=request.cache_seconds,
                        identity=context.identity,
                    )
                )
            async with telling:
                item, size = _item(each.url, answer, was_kept, _ROOM if context.is_streaming else room)
                if context.is_streaming:
                    await context.partial(each.url, item.model_dump(mode="json"))
                    item = item.model_copy(update={"data": None, "text": ""})
                else:
                    room -= size
                found[index] = item
                done += 1
                if not item.ok:
                    await context.log(Level.WARNING, f"{each.url}: {item.reason}: {item.message}")
                await context.progress(done, len(found), "calls", each.url)

        async with asyncio.TaskGroup() as tasks:
            for index, each in enumerate(request.calls):
                tasks.create_task(one(index, each))
        items = [item for item in found if item is not None]
        good = sum(item.ok for item in items)
        return CallOutput(items=items, ok_count=good, failed_count=len(items) - good)


def _item(url: str, answer: Fetched, was_kept: bool, room: int) -> tuple[CallItem, int]:
    """The outcome, and about the bytes of its body."""
    ok = answer.status is not None and answer.status < 400
    item: dict[str, Any] = {"url": url, "ok": ok, "status": answer.status, "cached": was_kept}
    if not ok:
        item["reason"] = answer.reason or "HTTP_STATUS"
        item["message"] = answer.message or f"answered with status {answer.status}"
    body = answer.body[: max(room, 0)]
    is_cut = answer.is_truncated or len(body) < len(answer.body)
    if "json" in answer.headers.get("content-type", "") and not is_cut:
        try:
            return CallItem(**item, data=json.loads(body)), len(body)
        except ValueError:
            item |= {"ok": False, "reason": "BAD_ANSWER", "message": "the answer says it is JSON and is not"}
    try:
        text = body.decode(answer.charset, "replace")
    except LookupError:
        text = body.decode("utf-8", "replace")
    return CallItem(**item, text=text, truncated=is_cut), len(body)
