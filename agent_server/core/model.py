"""Asking a language model: any endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpc import StatusCode

from agent_server.core.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent_server.configuration.settings import Model
    from agent_server.core.context import Usage


async def complete(
    model: Model, messages: Sequence[Mapping[str, str]], usage: Usage, *, schema: Mapping[str, Any] | None = None
) -> str:
    """The model's answer; its tokens are added to `usage`. `schema`: of the JSON that it is to be. Raises Failure MODEL_FAILED."""
    import httpx

    headers = {} if model.api_key is None else {"authorization": f"Bearer {model.api_key.get_secret_value()}"}
    asked: dict[str, Any] = {"model": model.name, "messages": list(messages), "max_tokens": model.max_tokens}
    if schema is not None:
        asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    try:
        # Not the tools' client: the endpoint is the operator's choice, and may be on this machine.
        async with httpx.AsyncClient(timeout=model.timeout, trust_env=False) as client:
            answer = await client.post(f"{model.base_url.rstrip('/')}/chat/completions", json=asked, headers=headers)
    except httpx.HTTPError as error:
        raise _failed(type(error).__name__, StatusCode.UNAVAILABLE) from None
    if answer.status_code != 200:
        is_passing = answer.status_code in (429, 500, 502, 503, 504)
        code = StatusCode.UNAVAILABLE if is_passing else StatusCode.FAILED_PRECONDITION
        raise _failed(f"answered with status {answer.status_code}", code)
    try:
        told = answer.json()
        used = told.get("usage") or {}
        usage.tokens += max(int(used.get("total_tokens") or 0), 0)
        content = told["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise _failed("answered with something else than a chat completion", StatusCode.FAILED_PRECONDITION) from None
    return content if isinstance(content, str) else ""


def json_in(text: str) -> str:
    """The JSON object in an answer that may be fenced or introduced."""
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def _failed(said: str, code: StatusCode) -> Failure:
    retry_after = 1.0 if code is StatusCode.UNAVAILABLE else None
    return Failure(code, "MODEL_FAILED", f"the model: {said}", retry_after=retry_after)
