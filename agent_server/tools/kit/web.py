"""HTTP APIs."""

from __future__ import annotations

import json
from typing import Any, Literal

from grpc import StatusCode
from pydantic import Field

from agent_server.agents.declare import Input, Output
from agent_server.core.failure import Failure
from agent_server.tools.declare import Use, tool
from agent_server.tools.headers import Headers


class GetInput(Input):
    """What to get."""

    url: str = Field(min_length=1, max_length=8192)
    headers: Headers = Field(default_factory=dict)
    timeout: float = Field(default=10.0, gt=0, le=300)
    max_bytes: int = Field(default=1 << 20, ge=0, le=16 << 20)
    cache_seconds: float = Field(default=0.0, ge=0, le=86400)


class SendInput(Input):
    """What to send: `json_body`, or `text`."""

    url: str = Field(min_length=1, max_length=8192)
    method: Literal["POST", "PUT", "PATCH", "DELETE"] = "POST"
    headers: Headers = Field(default_factory=dict)
    json_body: Any = None
    text: str = ""
    timeout: float = Field(default=10.0, gt=0, le=300)
    max_bytes: int = Field(default=1 << 20, ge=0, le=16 << 20)


class Answered(Output):
    """A good answer."""

    url: str
    status: int
    text: str
    data: Any = Field(default=None, description="The body, if it is JSON.")
    truncated: bool = False
    cached: bool = False


@tool("http.get", changes=False)
async def get(request: GetInput, use: Use) -> Answered:
    """Gets one URL; an answer of 400 or above is an error."""
    return await _call(use, "GET", request, {}, b"", request.cache_seconds)


@tool("http.send", changes=True)
async def send(request: SendInput, use: Use) -> Answered:
    """Sends to one URL, with the step's idempotency key in the header `idempotency-key`."""
    own: dict[str, str] = {"idempotency-key": use.idempotency_key} if use.idempotency_key else {}
    content = request.text.encode()
    if request.json_body is not None:
        content = json.dumps(request.json_body).encode()
        own["content-type"] = "application/json"
    return await _call(use, request.method, request, own, content, 0.0)


async def _call(
    use: Use, method: str, request: GetInput | SendInput, own: dict[str, str], content: bytes, cache: float
) -> Answered:
    from agent_server.tools.http_calls import Call, is_passing

    calls = use.tools.http_calls
    # Once: the workflow tries again.
    answer, was_kept = await calls.call(
        Call(
            request.url,
            method,
            {**request.headers, **own},
            content,
            request.timeout,
            request.max_bytes,
            cache_seconds=cache,
            identity=use.identity,
        )
    )
    metadata = {"url": request.url}
    if answer.status is None or answer.status >= 400:
        reason = answer.reason or "HTTP_STATUS"
        said = answer.message or f"answered with status {answer.status}"
        code = StatusCode.UNAVAILABLE if is_passing(answer) else StatusCode.FAILED_PRECONDITION
        if answer.status is not None:
            metadata["status"] = str(answer.status)
        raise Failure(code, reason, f"{request.url}: {said}", metadata=metadata)
    try:
        body = answer.body.decode(answer.charset, "replace")
    except LookupError:  # a charset that nobody knows
        body = answer.body.decode("utf-8", "replace")
    data: Any = None
    if "json" in answer.headers.get("content-type", "") and not answer.is_truncated:
        try:
            data = json.loads(body)
        except ValueError:
            text = f"{request.url}: the answer says it is JSON and is not"
            raise Failure(StatusCode.FAILED_PRECONDITION, "BAD_ANSWER", text, metadata=metadata) from None
    return Answered(
        url=answer.final_url, status=answer.status, text=body, data=data, truncated=answer.is_truncated, cached=was_kept
    )
