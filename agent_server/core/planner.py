"""From a task in words to a workflow: by the `match` rules of known workflows, or else by the configured model."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpc import StatusCode

from agent_server.core.failure import Failure
from agent_server.workflows.definition import Workflow, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent_server.configuration.settings import Model
    from agent_server.core.context import Context
    from agent_server.tools.declare import ToolSpec

_ASK = """You plan work. Answer with one JSON object and nothing else: a workflow that does the user's task with the tools below.
Its steps run as soon as the steps they refer to have ended. In a step, `with` is the tool's input; strings in it are Jinja2
templates that see `steps.<id>.output`. `for_each` is a template that gives a list; `with` then sees `item` and `index`.
Tools, with the JSON Schema of their input:
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """A workflow and its inputs."""

    workflow: Workflow
    inputs: dict[str, Any]
    origin: str
    """`rule` or `model`."""


def by_rule(task: str, library: Mapping[str, Workflow]) -> Plan | None:
    """The first workflow with a rule that fits the whole task."""
    for workflow in library.values():
        for pattern in workflow.match:
            if found := re.fullmatch(pattern, task.strip(), re.IGNORECASE | re.DOTALL):
                given = {name: value for name, value in found.groupdict().items() if value is not None}
                return Plan(workflow, {name: _typed(workflow, name, value) for name, value in given.items()}, "rule")
    return None


async def plan(
    task: str, library: Mapping[str, Workflow], tools: Mapping[str, ToolSpec], model: Model | None, context: Context
) -> Plan:
    """A checked plan. Raises Failure: NO_PLAN when nothing fits, MODEL_FAILED or PLAN_INVALID when the model does not deliver."""
    if (found := by_rule(task, library)) is not None:
        return found
    if model is None:
        known = ", ".join(sorted(library))
        text = f"no workflow's rules fit the task, and no model is configured; there is: {known}"
        raise Failure(StatusCode.FAILED_PRECONDITION, "NO_PLAN", text)
    return await _by_model(task, tools, model, context)


async def _by_model(task: str, tools: Mapping[str, ToolSpec], model: Model, context: Context) -> Plan:
    described = [
        {"name": spec.name, "summary": spec.summary, "input": spec.input_model.model_json_schema()}
        for spec in tools.values()
    ]
    messages = [
        {"role": "system", "content": _ASK + json.dumps(described)},
        {"role": "user", "content": task},
    ]
    problem: Failure | None = None
    for _ in range(2):  # told what is wrong with its first answer, a model often gives a good one
        answer = await _complete(messages, model, context)
        try:
            workflow = parse(_json_in(answer), "plan")
            workflow.check_tools(tools, "plan")
            return Plan(workflow, workflow.with_defaults({}, "plan.inputs"), "model")
        except Failure as failure:
            problem = failure
            messages += [
                {"role": "assistant", "content": answer},
                {
                    "role": "user",
                    "content": f"That cannot be used: {failure.message}. Answer with the corrected JSON object.",
                },
            ]
    assert problem is not None
    text = f"the model gave no workflow that can be used: {problem.message}"
    raise Failure(StatusCode.FAILED_PRECONDITION, "PLAN_INVALID", text)


async def _complete(messages: list[dict[str, str]], model: Model, context: Context) -> str:
    import httpx

    headers = {} if model.api_key is None else {"authorization": f"Bearer {model.api_key.get_secret_value()}"}
    asked = {
        "model": model.name,
        "messages": messages,
        "max_tokens": model.max_tokens,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "workflow", "schema": Workflow.model_json_schema()},
        },
    }
    try:
        # Not the tools' client: the endpoint is the operator's choice, and may be on this machine.
        async with httpx.AsyncClient(timeout=model.timeout, trust_env=False) as client:
            answer = await client.post(f"{model.base_url.rstrip('/')}/chat/completions", json=asked, headers=headers)
    except httpx.HTTPError as error:
        raise _model_failed(type(error).__name__, StatusCode.UNAVAILABLE) from None
    if answer.status_code != 200:
        is_passing = answer.status_code in (429, 500, 502, 503, 504)
        code = StatusCode.UNAVAILABLE if is_passing else StatusCode.FAILED_PRECONDITION
        raise _model_failed(f"answered with status {answer.status_code}", code)
    try:
        told = answer.json()
        usage = told.get("usage") or {}
        context.usage.tokens += int(usage.get("total_tokens") or 0)
        content = told["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise _model_failed(
            "answered with something else than a chat completion", StatusCode.FAILED_PRECONDITION
        ) from None
    return content if isinstance(content, str) else ""


def _model_failed(said: str, code: StatusCode) -> Failure:
    return Failure(
        code, "MODEL_FAILED", f"the model: {said}", retry_after=1.0 if code is StatusCode.UNAVAILABLE else None
    )


def _json_in(text: str) -> str:
    """The object in an answer that may be fenced. YAML reads JSON too, and says what is wrong with it."""
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def _typed(workflow: Workflow, name: str, value: str) -> Any:
    field = workflow.inputs.get(name)
    if field is not None and field.type in ("integer", "number"):
        try:
            return int(value) if field.type == "integer" else float(value)
        except ValueError:
            return value
    return value
