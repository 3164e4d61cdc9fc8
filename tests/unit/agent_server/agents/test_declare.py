"""Declaring agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agent_server.agents.declare import Agent, IngestOutput, Input, Kind, Output, agent, ingestion, operation, spec_of

if TYPE_CHECKING:
    from agent_server.core.context import Context


class GreetInput(Input):
    name: str


class GreetOutput(Output):
    greeting: str


@agent("greeter", summary="Greets.")
class Greeter(Agent):
    @operation("greet", read_only=True, text="name")
    async def greet(self, request: GreetInput, context: Context) -> GreetOutput:
        """Greets one person.

        At length.
        """
        return GreetOutput(greeting=f"Hello, {request.name}")

    @ingestion("collect")
    async def collect(self, request: GreetInput, records: Any, context: Context) -> IngestOutput:
        """Collects."""
        raise AssertionError


def test_a_class_becomes_an_agent() -> None:
    spec = spec_of(Greeter)
    assert spec is not None
    assert (spec.name, spec.summary, list(spec.operations)) == ("greeter", "Greets.", ["collect", "greet"])
    greet = spec.operations["greet"]
    assert (greet.kind, greet.read_only, greet.text_parameter, greet.method) == (Kind.EXECUTE, True, "name", "greet")
    assert (greet.input_model, greet.output_model) == (GreetInput, GreetOutput)
    assert greet.summary == "Greets one person."
    assert spec.operations["collect"].kind is Kind.INGEST


def test_a_subclass_is_no_agent_of_its_own() -> None:
    class Sub(Greeter):
        pass

    assert spec_of(Sub) is None


def test_table_and_replayed_are_not_in_the_schema() -> None:
    assert set(GreetOutput.model_json_schema(mode="serialization")["properties"]) == {"greeting"}


def test_an_agent_without_operations() -> None:
    with pytest.raises(TypeError, match="needs at least one method"):
        agent("empty", summary="")(type("Empty", (Agent,), {}))


def test_two_operations_of_one_name() -> None:
    with pytest.raises(TypeError, match="two operations are named 'x'"):

        @agent("twice", summary="")
        class Twice(Agent):
            @operation("x")
            async def one(self, request: GreetInput, context: Context) -> GreetOutput:
                raise AssertionError

            @operation("x")
            async def two(self, request: GreetInput, context: Context) -> GreetOutput:
                raise AssertionError


async def _few(self: Any, request: GreetInput) -> GreetOutput: ...
async def _untyped(self: Any, request, context) -> GreetOutput: ...  # type: ignore[no-untyped-def]
async def _no_input(self: Any, request: dict, context: Any) -> GreetOutput: ...  # type: ignore[type-arg]
async def _no_output(self: Any, request: GreetInput, context: Any) -> None: ...
async def _unknown(self: Any, request: Nowhere, context: Any) -> GreetOutput: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (_few, r"_few: expected \(self, request, context\)"),
        (_untyped, "must be annotated with a subclass of Input"),
        (_no_input, "must be annotated with a subclass of Input"),
        (_no_output, "must return a subclass of Output"),
        (_unknown, "models must be imported at run time"),
    ],
)
def test_operations_that_are_declared_wrongly_are_named(method: Any, text: str) -> None:
    async def copy(self: Any, request: Any, context: Any) -> Any: ...

    with pytest.raises(TypeError, match=text):
        agent("wrong", summary="")(type("Wrong", (Agent,), {"x": operation("x")(method)}))


def test_text_must_name_a_field() -> None:
    async def say(self: Any, request: GreetInput, context: Any) -> GreetOutput: ...

    with pytest.raises(TypeError, match="text='nam' is not a field of GreetInput"):
        agent("wrong", summary="")(type("Wrong", (Agent,), {"x": operation("x", text="nam")(say)}))
