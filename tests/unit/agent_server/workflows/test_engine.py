"""Running workflows, with tools of this test and a real state file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from agent_server.agents.declare import Input, Output
from agent_server.core.context import Context
from agent_server.core.failure import Failure
from agent_server.core.store import Store
from agent_server.tools.addresses import AddressRule
from agent_server.tools.database import Database
from agent_server.tools.declare import BUILT_IN, ToolSpec, Use, load_tools
from agent_server.tools.toolbox import Toolbox
from agent_server.workflows.checkpoints import Checkpoints
from agent_server.workflows.definition import parse
from agent_server.workflows.engine import Engine


class In(Input):
    text: str = ""


class Out(Output):
    text: str


class Stage:
    def __init__(self, runner: asyncio.Runner, path: Path) -> None:
        self.runner = runner
        self.uses: list[tuple[str, str]] = []
        self.slept: list[float] = []
        self.failures: dict[str, list[Failure]] = {}
        self.active = self.most = 0
        self.cancelled = 0
        self.hold: asyncio.Event | None = None
        self.begun = asyncio.Event()
        self.store = Store(path)
        tools = Toolbox(
            Database(None), AddressRule(), now=lambda: 0.0, wall=lambda: 0.0, user_agent="t", store=self.store
        )
        runner.run(self.store.open())

        async def work(request: In, use: Use) -> Out:
            self.uses.append((request.text, use.idempotency_key))
            self.active += 1
            self.begun.set()
            self.most = max(self.most, self.active)
            try:
                await asyncio.sleep(0)
                if self.hold is not None and request.text == "hold":
                    await self.hold.wait()
                if self.failures.get(request.text):
                    raise self.failures[request.text].pop(0)
                return Out(text=request.text.upper())
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.active -= 1

        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        specs = {name: ToolSpec(name, "", name == "change", In, Out, work) for name in ("read", "change")}
        self.engine = Engine(specs, tools, Checkpoints(self.store, lambda: 0.0), sleep=sleep)

    def run(self, workflow: dict[str, Any], run_id: str = "run", **inputs: Any) -> Any:
        return self.runner.run(self.engine.run(parse(workflow), inputs, run_id, Context("x")))


@pytest.fixture
def stage(runner: asyncio.Runner, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(runner, tmp_path / "state.db")
    yield stage
    runner.run(stage.store.close())


def step(name: str, text: str, tool: str = "read", **more: Any) -> dict[str, Any]:
    return {"id": name, "tool": tool, "with": {"text": text}, **more}


def passing() -> Failure:
    return Failure(StatusCode.UNAVAILABLE, "AWAY", "away")


def test_steps_run_when_what_they_use_is_there(stage: Stage) -> None:
    ended = stage.run({"name": "w", "steps": [step("b", "{{ steps.a.output.text }}!"), step("a", "x")]})
    assert [text for text, _ in stage.uses] == ["x", "X!"]
    assert ended.output == {"result": {"text": "X"}}


def test_no_more_at_a_time_than_allowed_and_items_keep_their_order(stage: Stage) -> None:
    given = step("a", "{{ item }}", for_each="{{ range(20) | map('string') | list }}")
    ended = stage.run({"name": "w", "concurrency": 3, "steps": [given], "output": {"all": "{{ steps.a.output }}"}})
    assert stage.most == 3
    assert [each["text"] for each in ended.output["all"]] == [str(n) for n in range(20)]


def test_tried_again_after_growing_waits_under_the_same_key(stage: Stage) -> None:
    stage.failures["x"] = [passing(), passing()]
    ended = stage.run({"name": "w", "steps": [step("a", "x", "change")]})
    assert stage.slept == [1.0, 2.0]
    assert len({key for _, key in stage.uses}) == 1
    assert stage.uses[0][1]
    assert ended.made == 1


def test_what_will_not_pass_is_not_tried_again(stage: Stage) -> None:
    stage.failures["x"] = [Failure(StatusCode.INVALID_ARGUMENT, "WRONG", "wrong")]
    with pytest.raises(Failure) as caught:
        stage.run({"name": "w", "steps": [step("a", "x")]})
    assert (caught.value.reason, caught.value.metadata["step"], stage.slept) == ("WRONG", "a", [])


def test_a_run_that_failed_goes_on_without_what_was_done(stage: Stage) -> None:
    workflow = {"name": "w", "steps": [step("a", "x", "change"), step("b", "y", needs=["a"], retry={"attempts": 1})]}
    stage.failures["y"] = [passing()]
    with pytest.raises(Failure):
        stage.run(workflow)
    ended = stage.run(workflow)
    assert [text for text, _ in stage.uses] == ["x", "y", "y"]
    assert (ended.made, ended.repeated) == (1, 1)
    with pytest.raises(Failure) as caught:
        stage.run({"name": "other", "steps": [step("a", "x")]})
    assert caught.value.reason == "RUN_DIFFERS"


def test_a_failed_step_may_be_gone_over(stage: Stage) -> None:
    stage.failures["x"] = [Failure(StatusCode.NOT_FOUND, "GONE", "gone")]
    ended = stage.run(
        {"name": "w", "steps": [step("a", "x", on_error="continue"), step("b", "y", when="{{ not steps.a.ok }}")]}
    )
    assert ended.steps["a"]["error"]["reason"] == "GONE"
    assert ended.steps["b"]["ok"]
    assert not ended.steps["b"]["skipped"]


def test_a_step_takes_no_longer_than_its_time(stage: Stage) -> None:
    async def scene() -> None:
        stage.hold = asyncio.Event()
        workflow = parse({"name": "w", "steps": [step("a", "hold", timeout=0.01, retry={"attempts": 1})]})
        await stage.engine.run(workflow, {}, "slow", Context("x"))

    with pytest.raises(Failure) as caught:
        stage.runner.run(scene())
    assert (caught.value.reason, stage.cancelled) == ("STEP_TIMEOUT", 1)


def test_cancelling_reaches_the_tool(stage: Stage) -> None:
    async def scene() -> None:
        stage.hold = asyncio.Event()
        workflow = parse({"name": "w", "steps": [step("a", "hold")]})
        running = asyncio.ensure_future(stage.engine.run(workflow, {}, "cut", Context("x")))
        await stage.begun.wait()
        with pytest.raises(Failure) as caught:
            await stage.engine.run(workflow, {}, "cut", Context("x"))
        assert caught.value.reason == "RUN_ACTIVE"
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    stage.runner.run(scene())
    assert (stage.cancelled, stage.active) == (1, 0)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([step("a", "{{ steps.b.output }}"), step("b", "{{ steps.a.output }}")], "need each other"),
        ([step("a", "x"), step("a", "x")], "two steps"),
        ([step("a", "x", needs=["z"])], "which is no step"),
        ([{"id": "a", "tool": "read", "wiht": {}}], "steps.0.wiht"),
    ],
)
def test_a_definition_that_cannot_be_run_says_why(steps: list[Any], said: str) -> None:
    with pytest.raises(Failure) as caught:
        parse({"name": "w", "steps": steps})
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("sql", "is_fine"),
    [
        ("SELECT * FROM t WHERE a = '{}' AND b = :b", True),
        ("{{ inputs.sql }}", True),
        ("SELECT * FROM t WHERE a = '{{ inputs.a }}'", False),
        ("{{ 'SELECT ' ~ inputs.a }}", False),
        ("{{ steps.a.output.text }}", False),
        ("SELECT {% if inputs.a %}1{% endif %}", False),
    ],
)
def test_values_are_not_put_into_statements(sql: str, is_fine: bool) -> None:
    steps = [{"id": "a", "tool": "csv.read", "with": {"text": "x"}}]
    steps.append({"id": "b", "tool": "database.query", "with": {"sql": sql, "params": {"b": "{{ inputs.a }}"}}})
    workflow = parse({"name": "w", "inputs": {"a": {}, "sql": {}}, "steps": steps})
    if is_fine:
        workflow.check_tools(load_tools(BUILT_IN), "definition")
    else:
        with pytest.raises(Failure) as caught:
            workflow.check_tools(load_tools(BUILT_IN), "definition")
        assert [each.field for each in caught.value.violations] == ["definition.steps.1.with.sql"]


def test_a_defect_of_a_tool_is_a_failure_of_its_step(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: In, use: Use) -> Out:
        raise KeyError("inside")

    stage.engine.tools = {**stage.engine.tools, "broken": ToolSpec("broken", "", False, In, Out, broken)}
    steps = [{"id": "a", "tool": "broken", "on_error": "continue"}, step("b", "x", needs=["a"])]
    ended = stage.run({"name": "w", "steps": steps})
    assert ended.steps["a"]["error"]["reason"] == "TOOL_DEFECT"
    assert "inside" not in str(ended.steps)
    assert "KeyError" in caplog.text
    assert ended.output == {"result": {"text": "X"}}


def test_many_items_tell_how_far_they_are(stage: Stage) -> None:
    told: list[Any] = []

    async def sink(event: Any) -> None:
        told.append((event.completed, event.total, event.unit))

    workflow = parse({"name": "w", "steps": [step("a", "{{ item }}", for_each=[str(n) for n in range(250)])]})
    stage.runner.run(stage.engine.run(workflow, {}, "run", Context("x", sink=sink)))
    assert len(told) == 126  # every second of 250, and the step
    assert told[-2:] == [(250, 250, "items"), (1, 1, "steps")]


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nname: w\nsteps: [*b]\n",
        "[" * 100_000,
        "name: w\nsteps: !!python/object/apply:os.system [ls]\n",
        "name: w\n" + " " * (1 << 20),
        "2024-99-99: x",
    ],
)
def test_texts_that_are_no_workflow_are_refused_at_once(text: str) -> None:
    with pytest.raises(Failure) as caught:
        parse(text)
    assert caught.value.code is StatusCode.INVALID_ARGUMENT
