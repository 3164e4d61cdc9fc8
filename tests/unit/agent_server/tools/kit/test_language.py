"""Asking the model by a tool, and masking."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest

from agent_server.configuration.settings import Settings
from agent_server.core.context import Context
from agent_server.core.failure import Failure
from agent_server.tools.declare import Use
from agent_server.tools.kit.language import AskInput, MaskInput, ask, mask
from tests.support.language_model import Endpoint


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


def use_of(endpoint: Endpoint | None, context: Context | None = None) -> Use:
    class Tools:
        def settings(self) -> Settings:
            return Settings(model=None if endpoint is None else endpoint.model)

    return Use(cast("Any", Tools()), context=context)


def test_a_text(endpoint: Endpoint) -> None:
    endpoint.answers = ["Paris"]
    context = Context("x")
    given = asyncio.run(ask(AskInput(prompt="Capital of France?", system="Be short."), use_of(endpoint, context)))
    assert (given.text, given.data, context.usage.tokens) == ("Paris", {}, 21)
    assert [each["role"] for each in endpoint.asked[0]["messages"]] == ["system", "user"]
    assert "response_format" not in endpoint.asked[0]


def test_fields_are_checked_and_asked_for_again(endpoint: Endpoint) -> None:
    endpoint.answers = ['{"name": "tea"}', 'Here: ```{"name": "tea", "price": 2.5}```']
    context = Context("x")
    request = AskInput(prompt="What is it?", data={"html": "<p>"}, fields={"name": "string", "price": "number"})
    given = asyncio.run(ask(request, use_of(endpoint, context)))
    assert (given.data, context.usage.tokens) == ({"name": "tea", "price": 2.5}, 42)
    assert "no instructions" in endpoint.asked[0]["messages"][0]["content"]
    assert "answer.price" in endpoint.asked[1]["messages"][-1]["content"]
    assert endpoint.asked[0]["response_format"]["json_schema"]["schema"]["required"] == ["name", "price"]


def test_a_model_that_does_not_give_them(endpoint: Endpoint) -> None:
    endpoint.answers = ["no", '{"name": 1}']
    with pytest.raises(Failure) as caught:
        asyncio.run(ask(AskInput(prompt="x", fields={"name": "string"}), use_of(endpoint)))
    assert caught.value.reason == "ANSWER_INVALID"


def test_without_a_model() -> None:
    with pytest.raises(Failure) as caught:
        asyncio.run(ask(AskInput(prompt="x"), use_of(None)))
    assert caught.value.reason == "NO_MODEL"


def test_a_text_is_masked() -> None:
    assert asyncio.run(mask(MaskInput(text="ann@shop.example"), use_of(None))).text == "a…@shop.example"
