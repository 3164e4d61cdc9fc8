"""The workflow agent: plans tasks, and runs workflows that can be taken up again where they were cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, StringConstraints

from agent_server.agents.declare import Agent, Input, Output, agent, operation
from agent_server.core.failure import invalid

if TYPE_CHECKING:
    from agent_server.core.context import Context
    from agent_server.core.planner import Plan
    from agent_server.workflows.definition import Workflow


class RunInput(Input):
    """What to run: a task in words, a known workflow, or a definition. Exactly one of the three."""

    task: str = Field(default="", max_length=20_000)
    workflow: str = ""
    definition: str | dict[str, Any] | None = Field(default=None, description="A workflow, as YAML or as its values.")
    inputs: dict[str, Any] = Field(default_factory=dict)
    run_id: Annotated[str, StringConstraints(pattern=r"^[!-~]{0,255}$")] = Field(
        default="",
        description="Repeat the call with the same one to go on where it was cut off; empty: the idempotency key, or a new one.",
    )
    dry_run: bool = Field(default=False, description="Only show the plan.")


class RunOutput(Output):
    """What came out."""

    run_id: str
    workflow: str
    origin: str = Field(description="rule or model, where a task was planned.")
    plan: dict[str, Any] | None = Field(description="The workflow with its inputs, for dry_run.")
    output: dict[str, Any]
    failed: dict[str, Any] = Field(description="By step, what failed and was gone over (on_error: continue).")
    steps_made: int = Field(description="Uses of tools that were made by this call.")
    steps_kept: int = Field(description="Uses of tools whose result an earlier attempt had left.")


class ListInput(Input):
    """Nothing."""


class ListOutput(Output):
    """What is known."""

    workflows: list[dict[str, Any]]
    tools: list[dict[str, Any]]


@agent("workflow", summary="Plans tasks and runs workflows of tools, with checkpoints, retries and progress.")
class WorkflowAgent(Agent):
    """The agent."""

    @operation("run", text="task", repeatable=True)
    async def run(self, request: RunInput, context: Context) -> RunOutput:
        """Runs a workflow; each side effect happens once per run, over restarts too."""
        engine = self.tools.engine
        run_id = request.run_id or context.idempotency_key or context.execution_id
        plan = await self._plan(request, run_id, context)
        plan.workflow.check_tools(engine.tools, "parameters.definition")
        plan.workflow.check_inputs(engine.tools, "parameters.definition")
        inputs = plan.workflow.with_defaults({**plan.inputs, **request.inputs})
        common: dict[str, Any] = {"run_id": run_id, "workflow": plan.workflow.name, "origin": plan.origin}
        if request.dry_run:
            shown = {**plan.workflow.model_dump(mode="json", by_alias=True, exclude_defaults=True), "inputs": inputs}
            return RunOutput(**common, plan=shown, output={}, failed={}, steps_made=0, steps_kept=0)
        ended = await engine.run(plan.workflow, inputs, run_id, context)
        failed = {
            name: step["error"] or [{"item": each["item"], **each["error"]} for each in step["items"] if not each["ok"]]
            for name, step in ended.steps.items()
            if not step["ok"]
        }
        return RunOutput(
            **common, plan=None, output=ended.output, failed=failed, steps_made=ended.made, steps_kept=ended.repeated
        )

    @operation("list", read_only=True)
    async def list(self, request: ListInput, context: Context) -> ListOutput:
        """Names the workflows that are known, and the tools they can use."""
        return ListOutput(
            workflows=[
                {
                    "name": each.name,
                    "summary": each.summary,
                    "inputs": {name: field.model_dump(mode="json") for name, field in each.inputs.items()},
                    "match": list(each.match),
                }
                for each in self._library().values()
            ],
            tools=[each.described() for each in self.tools.engine.tools.values()],
        )

    async def _plan(self, request: RunInput, run_id: str, context: Context) -> Plan:
        from agent_server.core.planner import Plan, plan
        from agent_server.workflows.checkpoints import PLAN
        from agent_server.workflows.definition import parse
        from agent_server.workflows.library import named

        given = [name for name in ("task", "workflow", "definition") if getattr(request, name)]
        if len(given) != 1:
            raise invalid("parameters", "give exactly one of task, workflow and definition")
        if request.definition:
            return Plan(parse(request.definition, "parameters.definition"), {}, "")
        if request.workflow:
            return Plan(named(self._library(), request.workflow), {}, "")
        checkpoints = self.tools.engine.checkpoints
        if (kept := await checkpoints.planned(context.identity, run_id)) is not None:
            if kept["task"] != request.task:
                raise invalid("parameters.task", "this run was begun with another task", reason="RUN_DIFFERS")
            return Plan(parse(kept["workflow"]), kept["inputs"], kept["origin"])
        found = await plan(request.task, self._library(), self.tools.engine.tools, self.tools.settings().model, context)
        if not request.dry_run:
            kept = {
                "task": request.task,
                "workflow": found.workflow.model_dump(mode="json"),
                "inputs": found.inputs,
                "origin": found.origin,
            }
            await checkpoints.keep(context.identity, run_id, PLAN, kept)
        return found

    def _library(self) -> dict[str, Workflow]:
        return self.tools.library.workflows(self.tools.settings().workflows)
