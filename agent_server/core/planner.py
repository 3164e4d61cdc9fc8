"""From a task in words to a workflow: by the `match` rules of known workflows, or else by the configured model."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpc import StatusCode
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from agent_server.core.failure import Failure, invalid
from agent_server.core.model import complete, json_in
from agent_server.workflows.definition import Workflow, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent_server.configuration.settings import Model
    from agent_server.core.context import Context
    from agent_server.tools.declare import ToolSpec

_ASK = """You plan work. Answer with one JSON object and nothing else. Where one of the known workflows does the user's task, it is
{"workflow": its name, "inputs": its inputs}. Otherwise it is a workflow that does the task with the tools below.
No values are put into texts of statements (`sql`): they go by `params`, as :name.
Its steps run as soon as the steps they refer to have ended. In a step, `with` is the tool's input; strings in it are Jinja2
templates that see `steps.<id>.output`. `for_each` is a template that gives a list; `with` then sees `item` and `index`.
"""


class _Choice(BaseModel):
    """A known workflow."""

    model_config = ConfigDict(extra="forbid")

    workflow: str
    inputs: dict[str, Any] = Field(default_factory=dict)


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
    return await _by_model(task, library, tools, model, context)


async def _by_model(
    task: str, library: Mapping[str, Workflow], tools: Mapping[str, ToolSpec], model: Model, context: Context
) -> Plan:
    known = [
        {
            "name": each.name,
            "summary": each.summary,
            "inputs": {
                name: field.model_dump(mode="json", exclude_defaults=True) for name, field in each.inputs.items()
            },
        }
        for each in library.values()
    ]
    described = [
        {"name": spec.name, "summary": spec.summary, "input": spec.input_model.model_json_schema()}
        for spec in tools.values()
    ]
    told = f"{_ASK}Known workflows:\n{json.dumps(known)}\nTools, with the JSON Schema of their input:\n{json.dumps(described)}"
    schema = TypeAdapter(_Choice | Workflow).json_schema()
    messages = [
        {"role": "system", "content": told},
        {"role": "user", "content": task},
    ]
    problem: Failure | None = None
    for _ in range(2):  # told what is wrong with its first answer, a model often gives a good one
        answer = await complete(model, messages, context.usage, schema=schema)
        try:
            return _checked(json_in(answer), library, tools)
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


def _checked(answer: str, library: Mapping[str, Workflow], tools: Mapping[str, ToolSpec]) -> Plan:
    """Raises Failure saying what is wrong with it."""
    try:
        choice = _Choice.model_validate_json(answer)
    except ValidationError:
        workflow = parse(answer, "plan")
        workflow.check_tools(tools, "plan")
        workflow.check_inputs(tools, "plan")
        return Plan(workflow, workflow.with_defaults({}, "plan.inputs"), "model")
    if choice.workflow not in library:
        raise invalid(
            "plan.workflow", f"no workflow is named {choice.workflow!r}; there is: {', '.join(sorted(library))}"
        )
    workflow = library[choice.workflow]
    workflow.with_defaults(choice.inputs, "plan.inputs")
    return Plan(workflow, choice.inputs, "model")


def _typed(workflow: Workflow, name: str, value: str) -> Any:
    field = workflow.inputs.get(name)
    if field is not None and field.type in ("integer", "number"):
        try:
            return int(value) if field.type == "integer" else float(value)
        except ValueError:
            return value
    return value
