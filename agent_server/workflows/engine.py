"""Runs workflows: every step as soon as what it needs is there, so many at a time, each tried again where that may help."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpc import StatusCode
from pydantic import ValidationError

from agent_server.core.events import Level
from agent_server.core.failure import Failure, from_validation
from agent_server.tools.declare import ToolSpec, Use
from agent_server.workflows.definition import Retry, Step, Workflow
from agent_server.workflows.templating import fill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from agent_server.core.context import Context
    from agent_server.tools.toolbox import Toolbox
    from agent_server.workflows.checkpoints import Checkpoints

log = logging.getLogger(__name__)

_WORTH_ANOTHER_TRY = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.ABORTED,
    }
)


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a run."""

    output: dict[str, Any]
    steps: dict[str, Any]
    """By step: `ok`, `skipped`, `output`, `error`, and `items` of a step with for_each."""
    repeated: int
    """Uses of tools that were not made because an earlier attempt of this run had made them."""
    made: int
    """Uses of tools that were made now."""


class Engine:
    """For all workflows of a server."""

    def __init__(
        self,
        tools: Mapping[str, ToolSpec],
        toolbox: Toolbox,
        checkpoints: Checkpoints,
        *,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.tools = tools
        self._toolbox = toolbox
        self.checkpoints = checkpoints
        self._sleep = sleep
        self._running: set[tuple[str, str]] = set()

    async def run(self, workflow: Workflow, inputs: Mapping[str, Any], run_id: str, context: Context) -> Ended:
        """Run to the end, from where an earlier attempt of `run_id` stood. Raises Failure."""
        workflow.check_tools(self.tools, "workflow")
        async with self._alone(context.identity, run_id):
            done = await self.checkpoints.begin(context.identity, run_id, workflow, inputs)
            try:
                return await _Run(self, workflow, inputs, run_id, context, done).to_the_end()
            finally:
                await self._toolbox.run_ended(context.execution_id)

    @asynccontextmanager
    async def _alone(self, identity: str, run_id: str) -> AsyncIterator[None]:
        key = (identity, run_id)
        if key in self._running:
            text = f"run {run_id} is running now"
            raise Failure(StatusCode.ABORTED, "RUN_ACTIVE", text, metadata={"run_id": run_id}, retry_after=1.0)
        self._running.add(key)
        try:
            yield
        finally:
            self._running.discard(key)


class _Run:
    """One attempt of one run."""

    def __init__(
        self,
        engine: Engine,
        workflow: Workflow,
        inputs: Mapping[str, Any],
        run_id: str,
        context: Context,
        done: dict[str, Any],
    ) -> None:
        self._engine = engine
        self._workflow = workflow
        self._inputs = inputs
        self._run_id = run_id
        self._context = context
        self._done = done
        self._steps: dict[str, Any] = {}
        self._ended = {step.id: asyncio.Event() for step in workflow.steps}
        self._places = asyncio.Semaphore(workflow.concurrency)
        self._telling = asyncio.Lock()
        self._count = self._repeated = self._made = 0

    async def to_the_end(self) -> Ended:
        try:
            async with asyncio.TaskGroup() as tasks:
                for step in self._workflow.steps:
                    tasks.create_task(self._step(step), name=f"{self._run_id} {step.id}")
        except BaseExceptionGroup as group:
            raise _first(group) from None
        names = {"inputs": self._inputs, "steps": self._steps}
        if self._workflow.output:
            output = fill(self._workflow.output, names, "output")
        else:
            output = {"result": self._steps[self._workflow.steps[-1].id]["output"]}
        return Ended(output, self._steps, self._repeated, self._made)

    async def _step(self, step: Step) -> None:
        for needed in step.references():
            await self._ended[needed].wait()
        names = {"inputs": self._inputs, "steps": self._steps}
        where = f"steps.{step.id}"
        if step.when and fill(step.when, names, f"{where}.when") in (False, None, "", "False", "false", "None", 0, []):
            given: dict[str, Any] = {"ok": True, "skipped": True, "output": None, "error": None}
        elif step.for_each is None:
            given = await self._use(step, step.id, names)
        else:
            items = fill(step.for_each, names, f"{where}.for_each")
            if not isinstance(items, list):
                text = f"{where}.for_each: gives no list"
                raise Failure(StatusCode.FAILED_PRECONDITION, "TEMPLATE_FAILED", text, metadata={"field": where})
            given = await self._each(step, items, names)
        self._steps[step.id] = given
        self._ended[step.id].set()
        async with self._telling:
            self._count += 1
            ending = "skipped" if given["skipped"] else "done" if given["ok"] else "failed"
            await self._context.progress(self._count, len(self._workflow.steps), "steps", f"{step.id} {ending}")

    async def _each(self, step: Step, items: list[Any], names: Mapping[str, Any]) -> dict[str, Any]:
        found: list[dict[str, Any]] = [{} for _ in items]
        waiting = iter(enumerate(items))
        done = 0
        # Each telling is kept with the task: a hundred of them say as much as a hundred thousand.
        between = max(1, len(items) // 100)

        async def worker() -> None:
            # As many as may run at a time, and not a task for each of what may be a hundred thousand items.
            for index, item in waiting:
                given = await self._use(step, f"{step.id}[{index}]", {**names, "item": item, "index": index})
                found[index] = {**given, "item": item}
                nonlocal done
                done += 1
                if done % between == 0 or done == len(items):
                    async with self._telling:
                        await self._context.progress(done, len(items), "items", step.id)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(self._workflow.concurrency, len(items))):
                tasks.create_task(worker())
        good = [each["output"] for each in found if each["ok"]]
        return {"ok": len(good) == len(found), "skipped": False, "output": good, "error": None, "items": found}

    async def _use(self, step: Step, name: str, names: Mapping[str, Any]) -> dict[str, Any]:
        """One use of the tool, or what an earlier attempt of this run got from it."""
        if name in self._done:
            self._repeated += 1
            earlier: dict[str, Any] = self._done[name]
            return earlier
        async with self._places:
            self._made += 1
            try:
                output = await self._tried(step, name, names)
                given: dict[str, Any] = {"ok": True, "skipped": False, "output": output, "error": None}
            except Failure as failure:
                if step.on_error == "fail":
                    failure.metadata.setdefault("step", name)
                    raise
                await self._context.log(Level.ERROR, f"{name}: {failure.reason}: {failure.message}")
                error = {"code": failure.code.name, "reason": failure.reason, "message": failure.message}
                given = {"ok": False, "skipped": False, "output": None, "error": error}
            await self._engine.checkpoints.keep(self._context.identity, self._run_id, name, given)
            return given

    async def _tried(self, step: Step, name: str, names: Mapping[str, Any]) -> Any:
        spec = self._engine.tools[step.tool]
        try:
            request = spec.input_model.model_validate(fill(step.inputs, names, f"steps.{name}.with"))
        except ValidationError as error:
            raise from_validation(error, f"steps.{name}.with") from None
        settings = self._engine._toolbox.settings()
        key = ""
        if spec.changes:
            key = hashlib.sha256(f"{self._context.identity}\0{self._run_id}\0{name}".encode()).hexdigest()[:40]
        use = Use(self._engine._toolbox, self._context.identity, key, self._context)
        retry = step.retry or Retry(
            attempts=settings.max_retries, delay=settings.retry_delay, factor=settings.retry_factor
        )
        wait = retry.delay
        for attempt in range(1, retry.attempts + 1):
            try:
                return _as_json(await _within(step.timeout or settings.timeout, spec, request, use))
            except Failure as failure:
                if attempt == retry.attempts or failure.code not in _WORTH_ANOTHER_TRY:
                    raise
                text = f"{name}: attempt {attempt} of {retry.attempts}: {failure.reason}: {failure.message}"
                await self._context.log(Level.WARNING, text)
                await self._engine._sleep(max(wait, failure.retry_after or 0.0))
                wait *= retry.factor
        raise AssertionError("unreachable")


async def _within(seconds: float, spec: ToolSpec, request: Any, use: Use) -> Any:
    try:
        async with asyncio.timeout(seconds) as limit:
            return await spec.function(request, use)
    except Failure:
        raise
    except Exception as error:
        if not (isinstance(error, TimeoutError) and limit.expired()):
            log.exception("defect in tool %s", spec.name)
            text = f"the tool {spec.name} failed; the server's log says why"
            raise Failure(StatusCode.INTERNAL, "TOOL_DEFECT", text, metadata={"tool": spec.name}) from error
        text = f"{spec.name} took longer than {seconds:g} s"
        metadata = {"tool": spec.name, "timeout": f"{seconds:g}"}
        raise Failure(StatusCode.DEADLINE_EXCEEDED, "STEP_TIMEOUT", text, metadata=metadata) from None


def _as_json(output: Any) -> dict[str, Any]:
    values: dict[str, Any] = output.model_dump(mode="json")
    if output.table is not None:
        names = [column.name for column in output.table.columns]
        values["rows"] = [dict(zip(names, row, strict=True)) for row in output.table.rows]
    return values


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first that went wrong: the others were cancelled because of it, or came too late to matter."""
    for each in group.exceptions:
        found = _first(each) if isinstance(each, BaseExceptionGroup) else each
        if not isinstance(found, asyncio.CancelledError):
            return found
    return group.exceptions[0]
