"""How a tool of workflows is declared: a function with `@tool`, typed input and output.

    @tool("text.count", changes=False)
    async def count(request: CountInput, use: Use) -> CountOutput:
        \"\"\"Counts the words of a text.\"\"\"
        return CountOutput(words=len(request.text.split()))

Its module is named in the setting `tools`. A tool that `changes` something is given an idempotency key by the workflow.
"""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from agent_server.agents.declare import Input, Output

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent_server.core.context import Context
    from agent_server.core.events import Level
    from agent_server.tools.toolbox import Toolbox

_MARK = "__tool__"

LITERAL = {"x-literal": True}
"""`Field(json_schema_extra=LITERAL)`: workflows write this text themselves or take an input for it, and put no values into it."""

F = TypeVar("F", bound=Callable[..., Any])

BUILT_IN = (
    "agent_server.tools.kit.web",
    "agent_server.tools.kit.tables",
    "agent_server.tools.kit.pages",
    "agent_server.tools.kit.compare",
    "agent_server.tools.kit.contact",
    "agent_server.tools.kit.language",
)


class ToolError(Exception):
    """A module that was named in the setting `tools` cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a tool: what it may work with, for whom, and under which key a change happens once."""

    tools: Toolbox
    identity: str = ""
    idempotency_key: str = ""
    context: Context | None = None
    """The run it belongs to."""

    async def log(self, level: Level, message: str) -> None:
        """Tell people something, while it happens."""
        if self.context is not None:
            await self.context.log(level, message)

    def charge(self, tokens: int) -> None:
        """Tokens of a model were used up."""
        if self.context is not None:
            self.context.usage.tokens += tokens


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A declared tool."""

    name: str
    summary: str
    changes: bool
    input_model: type[Input]
    output_model: type[Output]
    function: Callable[[Any, Use], Awaitable[Output]]

    def described(self) -> dict[str, Any]:
        """For people and planners, with JSON Schemas."""
        return {
            "name": self.name,
            "summary": self.summary,
            "changes": self.changes,
            "input_schema": self.input_model.model_json_schema(),
            "output_schema": self.output_model.model_json_schema(mode="serialization"),
        }

    @property
    def literals(self) -> frozenset[str]:
        """Fields of the input that no values are put into."""
        fields = self.input_model.model_fields.items()
        return frozenset(name for name, field in fields if field.json_schema_extra == LITERAL)


def tool(name: str, *, changes: bool) -> Callable[[F], F]:
    """Declare `async def function(request: SomeInput, use: Use) -> SomeOutput` as a tool.

    `changes`: running it changes something. Raises TypeError when the function is not as it should be.
    """

    def mark(function: F) -> F:
        parameters = list(inspect.signature(function).parameters)
        if not inspect.iscoroutinefunction(function) or len(parameters) != 2:
            msg = f"{function.__qualname__}: expected async def {function.__name__}(request, use)"
            raise TypeError(msg)
        hints = typing.get_type_hints(function)
        taken, given = hints.get(parameters[0]), hints.get("return")
        if not (inspect.isclass(taken) and issubclass(taken, Input)):
            msg = f"{function.__qualname__}: {parameters[0]} must be annotated with a subclass of Input"
            raise TypeError(msg)
        if not (inspect.isclass(given) and issubclass(given, Output)):
            msg = f"{function.__qualname__}: must return a subclass of Output"
            raise TypeError(msg)
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        setattr(function, _MARK, ToolSpec(name, summary, changes, taken, given, function))
        return function

    return mark


def load_tools(modules: Iterable[str]) -> dict[str, ToolSpec]:
    """Import modules and collect the tools they declare, by name. Raises ToolError naming the module."""
    found: dict[str, ToolSpec] = {}
    for name in modules:
        try:
            module = importlib.import_module(name)
        except (ImportError, TypeError) as error:
            msg = f"tools: {name}: {error}"
            raise ToolError(msg) from error
        specs = [spec for _, each in inspect.getmembers(module) if (spec := getattr(each, _MARK, None)) is not None]
        if not specs:
            msg = f"tools: {name!r} declares no tool"
            raise ToolError(msg)
        for spec in specs:
            if spec.name in found and found[spec.name] is not spec:
                msg = f"tools: two tools are named {spec.name!r}"
                raise ToolError(msg)
            found[spec.name] = spec
    return found
