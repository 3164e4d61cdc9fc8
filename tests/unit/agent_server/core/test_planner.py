"""From words to a workflow: by rules, and by a model that is a local server of this test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_server.agents.workflow import RunInput, WorkflowAgent
from agent_server.configuration.settings import Model, Settings
from agent_server.core.context import Context
from agent_server.core.failure import Failure
from agent_server.core.planner import plan
from agent_server.core.store import Store
from agent_server.tools.addresses import AddressRule
from agent_server.tools.database import Database
from agent_server.tools.declare import BUILT_IN, load_tools
from agent_server.tools.toolbox import Toolbox
from agent_server.workflows.library import load_library
from tests.support.language_model import Endpoint

GOOD = {"name": "planned", "steps": [{"id": "a", "tool": "http.get", "with": {"url": "http://x.example/"}}]}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


def planned(task: str, model: Model | None = None) -> tuple[Any, Context]:
    context = Context("x")
    return asyncio.run(plan(task, load_library(None), load_tools(BUILT_IN), model, context)), context


def test_by_a_rule() -> None:
    found, context = planned("collect products from http://shop.example")
    assert (found.workflow.name, found.inputs, found.origin) == (
        "collect_products",
        {"site": "http://shop.example"},
        "rule",
    )
    assert context.usage.tokens == 0


def test_nothing_fits() -> None:
    with pytest.raises(Failure) as caught:
        planned("make coffee")
    assert caught.value.reason == "NO_PLAN"


def test_by_a_model_that_needs_a_second_try(endpoint: Endpoint) -> None:
    wrong = json.dumps({**GOOD, "steps": [{"id": "a", "tool": "rm"}]})
    endpoint.answers = [wrong, f"```json\n{json.dumps(GOOD)}\n```"]
    found, context = planned("look at x", endpoint.model)
    assert (found.workflow.name, found.origin, context.usage.tokens) == ("planned", "model", 42)
    assert "no tool is named 'rm'" in endpoint.asked[1]["messages"][-1]["content"]
    assert endpoint.asked[0]["response_format"]["type"] == "json_schema"
    assert endpoint.keys[0] == "Bearer hush"


def test_a_model_may_choose_a_known_workflow(endpoint: Endpoint) -> None:
    endpoint.answers = [
        '{"workflow": "brew", "inputs": {}}',
        '{"workflow": "call_apis", "inputs": {"urls": ["http://x.example/"]}}',
    ]
    found, _ = planned("look at x", endpoint.model)
    assert (found.workflow.name, found.inputs) == ("call_apis", {"urls": ["http://x.example/"]})
    assert "no workflow is named 'brew'" in endpoint.asked[1]["messages"][-1]["content"]
    assert "reconcile" in endpoint.asked[0]["messages"][0]["content"]
    endpoint.answers = ['{"workflow": "call_apis", "inputs": {"urls": "x"}}', '{"workflow": "call_apis"}']
    with pytest.raises(Failure) as caught:
        planned("look at x", endpoint.model)
    assert (caught.value.reason, "plan.inputs.urls" in caught.value.message) == ("PLAN_INVALID", True)


@pytest.mark.parametrize(
    ("answers", "reason"), [(["no", "no"], "PLAN_INVALID"), ([503], "MODEL_FAILED"), ([None, None], "PLAN_INVALID")]
)
def test_a_model_that_does_not_deliver(endpoint: Endpoint, answers: list[Any], reason: str) -> None:
    endpoint.answers = answers
    with pytest.raises(Failure) as caught:
        planned("look at x", endpoint.model)
    assert caught.value.reason == reason
    assert "hush" not in caught.value.message


def test_a_run_keeps_its_plan(endpoint: Endpoint, tmp_path: Path) -> None:
    steps = [{"id": "a", "tool": "csv.read", "with": {"text": "{{ 'a' }}"}}]
    endpoint.answers = [json.dumps({"name": "planned", "steps": steps})]
    told = Settings(model=endpoint.model)
    tools = Toolbox(
        Database(None),
        AddressRule(),
        now=lambda: 0.0,
        wall=lambda: 0.0,
        user_agent="t",
        settings=lambda: told,
        store=Store(tmp_path / "state.db"),
    )

    async def scene() -> tuple[Any, Any, Context]:
        await tools.open()
        agent = WorkflowAgent(tools)
        first, second = Context("x"), Context("y")
        request = RunInput(task="look at x", run_id="r")
        one, two = await agent.run(request, first), await agent.run(request, second)
        with pytest.raises(Failure) as caught:
            await agent.run(RunInput(task="look at y", run_id="r"), Context("z"))
        assert caught.value.reason == "RUN_DIFFERS"
        await tools.close()
        assert first.usage.tokens == 21
        return one, two, second

    one, two, second = asyncio.run(scene())
    assert (one.steps_made, two.steps_kept, two.output) == (1, 1, one.output)
    assert (second.usage.tokens, len(endpoint.asked)) == (0, 1)
