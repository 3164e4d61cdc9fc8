"""What a workflow is: named inputs, steps, and an output."""

from __future__ import annotations

import graphlib
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from agent_server.core.failure import Violation, from_validation, invalid, invalid_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent_server.tools.declare import ToolSpec

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Seconds = Annotated[float, Field(gt=0, le=3600)]

_LONGEST = 1 << 20
_REFERENCE = re.compile(r"\bsteps\s*(?:\.\s*([a-z][a-z0-9_]*)|\[\s*['\"]([a-z][a-z0-9_]*)['\"]\s*\])")
_GIVEN = re.compile(r"\A\s*\{\{\s*inputs\s*\.\s*[a-z][a-z0-9_]*\s*\}\}\s*\Z")
_TEMPLATE = re.compile(r"\{[{%#]")
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Retry(_Part):
    """Attempts in all, seconds before the second, and the factor by which each wait is longer than the one before."""

    attempts: int = Field(default=3, ge=1, le=20)
    delay: float = Field(default=1.0, ge=0, le=300)
    factor: float = Field(default=2.0, ge=1, le=10)


class InputField(_Part):
    """An input of a workflow."""

    type: Literal["string", "integer", "number", "boolean", "array", "object"] = "string"
    description: str = ""
    default: Any = None
    required: bool = True
    """An input with a default, or with `required: false`, may be left out."""


class Step(_Part):
    """One use of a tool, or one for each of many items."""

    id: Name
    tool: str = Field(min_length=1, max_length=128)
    inputs: dict[str, Any] = Field(default_factory=dict, alias="with")
    """The tool's input; strings are templates."""
    needs: tuple[Name, ...] = ()
    """Steps that must have ended before, besides those whose output is used."""
    when: str = ""
    """A template; when it gives something false the step is skipped."""
    for_each: str | list[Any] | None = None
    """A template that gives a list, or the list: the tool is used for each, as `item` and `index` in `with`."""
    timeout: Seconds | None = None
    """Of one attempt; none: the setting `timeout`."""
    retry: Retry | None = None
    on_error: Literal["fail", "continue"] = "fail"

    def references(self) -> set[str]:
        """Steps whose outcome must be there first."""
        return set(self.needs) | _referenced([self.inputs, self.when, self.for_each])


class Workflow(_Part):
    """A workflow."""

    name: Name
    summary: str = ""
    match: tuple[str, ...] = ()
    """Regular expressions of tasks it is for; their named groups are inputs."""
    inputs: dict[Name, InputField] = Field(default_factory=dict)
    concurrency: int = Field(default=8, ge=1, le=100)
    """Uses of tools at the same time."""
    steps: tuple[Step, ...] = Field(min_length=1, max_length=500)
    output: dict[str, Any] = Field(default_factory=dict)
    """Templates of what comes out; empty: the output of the last step."""

    @model_validator(mode="after")
    def _is_a_graph(self) -> Workflow:
        ids = [step.id for step in self.steps]
        if twice := sorted({each for each in ids if ids.count(each) > 1}):
            msg = f"two steps have the id {', '.join(twice)}"
            raise ValueError(msg)
        for step in self.steps:
            if unknown := sorted(step.references() - set(ids)):
                msg = f"step {step.id} needs {', '.join(unknown)}, which is no step"
                raise ValueError(msg)
        if unknown := sorted(_referenced(self.output) - set(ids)):
            msg = f"output names {', '.join(unknown)}, which is no step"
            raise ValueError(msg)
        try:
            graphlib.TopologicalSorter({step.id: step.references() for step in self.steps}).prepare()
        except graphlib.CycleError as error:
            msg = f"steps need each other: {' → '.join(error.args[1])}"
            raise ValueError(msg) from None
        for pattern in self.match:
            try:
                re.compile(pattern)
            except re.error as error:
                msg = f"match: {pattern!r}: {error}"
                raise ValueError(msg) from None
        return self

    def with_defaults(self, given: Mapping[str, Any], root: str = "parameters.inputs") -> dict[str, Any]:
        """Checked inputs. Raises Failure INVALID_ARGUMENT naming each that is wrong."""
        wrong = [
            Violation(f"{root}.{name}", f"workflow {self.name} takes no such input")
            for name in given
            if name not in self.inputs
        ]
        values: dict[str, Any] = {}
        for name, field in self.inputs.items():
            value = given.get(name)
            if value is None:
                if field.default is None and field.required:
                    wrong.append(Violation(f"{root}.{name}", "is required"))
                values[name] = field.default
            elif not isinstance(value, _TYPES[field.type]) or (field.type != "boolean" and isinstance(value, bool)):
                wrong.append(Violation(f"{root}.{name}", f"must be of type {field.type}"))
            else:
                values[name] = value
        if wrong:
            raise invalid_fields(wrong)
        return values

    def check_tools(self, known: Mapping[str, ToolSpec], root: str) -> None:
        """Raises Failure INVALID_ARGUMENT naming each step whose tool is not there, or that puts values into a statement."""
        wrong: list[Violation] = []
        for number, step in enumerate(self.steps):
            spec = known.get(step.tool)
            if spec is None:
                text = f"no tool is named {step.tool!r}; there is: {', '.join(sorted(known))}"
                wrong.append(Violation(f"{root}.steps.{number}.tool", text))
                continue
            for name in sorted(spec.literals & step.inputs.keys()):
                given = str(step.inputs[name])
                if _TEMPLATE.search(given) and not _GIVEN.match(given):
                    text = "no values are put into it: it is a text, or {{ inputs.NAME }} as a whole; values have their own place"
                    wrong.append(Violation(f"{root}.steps.{number}.with.{name}", text))
        if wrong:
            raise invalid_fields(wrong)

    def check_inputs(self, known: Mapping[str, ToolSpec], root: str) -> None:
        """Raises Failure INVALID_ARGUMENT naming each input of a step that its tool does not take, or lacks, or takes otherwise.

        What a template gives is known when the step runs, so only what stands there is checked.
        """
        wrong: list[Violation] = []
        for number, step in enumerate(self.steps):
            if (spec := known.get(step.tool)) is None:
                continue
            try:
                spec.input_model.model_validate(step.inputs)
            except ValidationError as error:
                for each in error.errors(include_url=False, include_input=False, include_context=False):
                    path = [str(part) for part in each["loc"]]
                    if not _has_template(step.inputs.get(path[0]) if path else None):
                        where = ".".join((f"{root}.steps.{number}.with", *path))
                        wrong.append(Violation(where, each["msg"].removeprefix("Value error, ")))
        if wrong:
            raise invalid_fields(wrong)


class _Loader(yaml.SafeLoader):
    """Without aliases: ten lines of them stand for more values than there is memory."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not for workflows")
        return super().compose_node(parent, index)


def _has_template(value: Any) -> bool:
    if isinstance(value, str):
        return _TEMPLATE.search(value) is not None
    if isinstance(value, dict):
        return any(map(_has_template, value.values()))
    return isinstance(value, list | tuple) and any(map(_has_template, value))


def parse(text: str | Mapping[str, Any], root: str = "workflow") -> Workflow:
    """A workflow from YAML, or from the values of one. Raises Failure INVALID_ARGUMENT naming what is wrong."""
    values: Any = text
    if isinstance(text, str):
        if len(text) > _LONGEST:
            raise invalid(root, f"must be at most {_LONGEST} characters")
        try:
            values = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise invalid(root, " ".join(str(error).split())[:500]) from None
    if not isinstance(values, dict):
        raise invalid(root, "expected a mapping")
    try:
        return Workflow.model_validate(values)
    except ValidationError as error:
        raise from_validation(error, root) from None


def _referenced(value: Any) -> set[str]:
    if isinstance(value, str):
        return {first or second for first, second in _REFERENCE.findall(value)}
    if isinstance(value, dict):
        return set().union(*map(_referenced, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(_referenced, value))
    return set()
