"""How an agent is declared: a class with `@agent`, methods with `@operation` or `@ingestion`, typed input and output.

    class GreetInput(Input):
        name: str

    class GreetOutput(Output):
        greeting: str

    @agent("greeter", summary="Greets people.")
    class Greeter(Agent):
        @operation("greet", read_only=True, text="name")
        async def greet(self, request: GreetInput, context: Context) -> GreetOutput:
            \"\"\"Greets one person.\"\"\"
            return GreetOutput(greeting=f"Hello, {request.name}")

The first line of an operation's docstring is its summary in Describe. Its module is named in the setting `agents`.
"""

from __future__ import annotations

import enum
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from agent_server.core.table import Table

if TYPE_CHECKING:
    from agent_server.tools.toolbox import Toolbox

_MARK = "__operation__"
_SPEC = "__agent__"

C = TypeVar("C", bound="type[Agent]")
F = TypeVar("F", bound=Callable[..., Any])


class Input(BaseModel):
    """What an operation takes. Nothing is converted and nothing unknown is let through."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Output(BaseModel):
    """What an operation gives. Rows go into `table`, which travels beside the output with exact types."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    table: SkipJsonSchema[Table | None] = Field(default=None, exclude=True)
    replayed: SkipJsonSchema[bool] = Field(default=False, exclude=True)
    """Nothing was done: this is what an earlier run under the same idempotency key gave."""


class Agent:
    """An agent: made once per server with the tools it may use."""

    def __init__(self, tools: Toolbox) -> None:
        self.tools = tools


class Kind(enum.Enum):
    """How an operation is called."""

    EXECUTE = "execute"
    INGEST = "ingest"


@dataclass(frozen=True, slots=True)
class OperationSpec:
    """A declared operation."""

    name: str
    summary: str
    kind: Kind
    read_only: bool
    text_parameter: str
    method: str
    input_model: type[Input]
    output_model: type[Output]
    repeatable: bool = False
    """Under the same idempotency key it may be begun again after the server ended in the middle."""


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """A declared agent."""

    name: str
    summary: str
    cls: type[Agent]
    operations: dict[str, OperationSpec]


def operation(name: str, *, read_only: bool = False, text: str = "", repeatable: bool = False) -> Callable[[F], F]:
    """Declare `async def method(self, request: SomeInput, context: Context) -> SomeOutput` as an operation.

    `read_only`: running it changes nothing. `text`: the parameter that the text of a task fills. `repeatable`: it changes
    something, but once under one idempotency key, so that a task may begin it again after the server ended in the middle.
    """

    def mark(method: F) -> F:
        setattr(method, _MARK, (name, Kind.EXECUTE, read_only, text, repeatable))
        return method

    return mark


def ingestion(name: str) -> Callable[[F], F]:
    """Declare `async def method(self, request: SomeInput, records: Records, context: Context) -> SomeOutput`.

    The output has the fields of agents.declare.IngestOutput.
    """

    def mark(method: F) -> F:
        setattr(method, _MARK, (name, Kind.INGEST, False, "", False))
        return method

    return mark


def agent(name: str, *, summary: str) -> Callable[[C], C]:
    """Declare a class as an agent. Raises TypeError, naming the method, when an operation is not declared as it should be."""

    def declare(cls: C) -> C:
        operations: dict[str, OperationSpec] = {}
        for attribute, method in inspect.getmembers(cls, inspect.iscoroutinefunction):
            if not hasattr(method, _MARK):
                continue
            spec = _operation_spec(attribute, method)
            if spec.name in operations:
                msg = f"{cls.__name__}: two operations are named {spec.name!r}"
                raise TypeError(msg)
            operations[spec.name] = spec
        if not operations:
            msg = f"{cls.__name__}: an agent needs at least one method with @operation or @ingestion"
            raise TypeError(msg)
        setattr(cls, _SPEC, AgentSpec(name, summary, cls, dict(sorted(operations.items()))))
        return cls

    return declare


def spec_of(cls: type[Agent]) -> AgentSpec | None:
    """The declaration of a class, or None when it has none of its own."""
    spec: AgentSpec | None = vars(cls).get(_SPEC)
    return spec


class RejectedRecord(BaseModel):
    """A record that was not stored, and why."""

    index: int
    record_id: str = ""
    reason: str
    message: str
    field: str = ""


class IngestOutput(Output):
    """What became of the records of an ingest stream."""

    received: int
    written: int
    ignored: int
    rejected: int
    batches: int
    rejected_records: list[RejectedRecord]
    """The first of them, as many as the target allows to be listed."""


def _operation_spec(attribute: str, method: Callable[..., Any]) -> OperationSpec:
    name, kind, read_only, text, repeatable = getattr(method, _MARK)
    wanted = 3 if kind is Kind.EXECUTE else 4
    signature = inspect.signature(method)
    parameters = list(signature.parameters.values())
    where = f"{method.__qualname__}"
    if len(parameters) != wanted:
        names = "(self, request, context)" if wanted == 3 else "(self, request, records, context)"
        msg = f"{where}: expected {names}"
        raise TypeError(msg)
    input_model, output_model = _models(method, parameters[1].annotation, signature.return_annotation)
    if not (inspect.isclass(input_model) and issubclass(input_model, Input)):
        msg = f"{where}: {parameters[1].name} must be annotated with a subclass of Input"
        raise TypeError(msg)
    least = Output if kind is Kind.EXECUTE else IngestOutput
    if not (inspect.isclass(output_model) and issubclass(output_model, least)):
        msg = f"{where}: must return a subclass of {least.__name__}"
        raise TypeError(msg)
    if text and text not in input_model.model_fields:
        msg = f"{where}: text={text!r} is not a field of {input_model.__name__}"
        raise TypeError(msg)
    summary = (inspect.getdoc(method) or "").partition("\n")[0]
    return OperationSpec(name, summary, kind, read_only, text, attribute, input_model, output_model, repeatable)


def _models(method: Callable[..., Any], request: Any, result: Any) -> tuple[Any, Any]:
    # Only these two are looked up: the others may name types that are imported for type checkers alone.
    holder = type("Annotated", (), {})()
    holder.__annotations__ = {"request": request, "return": result}
    try:
        hints = typing.get_type_hints(holder, globalns=inspect.unwrap(method).__globals__)
    except NameError as error:
        msg = f"{method.__qualname__}: {error}; models must be imported at run time"
        raise TypeError(msg) from None
    return hints["request"], hints["return"]
