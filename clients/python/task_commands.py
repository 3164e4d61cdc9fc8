"""`python -m clients.python submit | task | tasks | watch | cancel | rate`: long work from a shell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from clients.python.tasks import FAILED, STATES, Task

if TYPE_CHECKING:
    from clients.python import AgentClient

Function = Callable[..., Any]
Shown = Callable[[Any], dict[str, Any]]


def shown_task(task: Task, shown_result: Shown) -> dict[str, Any]:
    """As JSON: what is not there yet is left out."""
    shown: dict[str, Any] = {
        "task_id": task.task_id,
        "agent": task.agent,
        "operation": task.operation,
        "state": task.state,
        "attempts": task.attempts,
        "version": task.version,
        "created": task.created.isoformat(),
    }
    if task.ended is not None:
        shown["ended"] = task.ended.isoformat()
    if task.progress is not None:
        shown["progress"] = asdict(task.progress)
    if task.result is not None:
        shown["result"] = shown_result(task.result)
    if task.failure is not None:
        shown["error"] = task.failure.as_dict()
    return shown


def add_to(
    main: click.Group,
    operation_options: Callable[[Function], Function],
    shown_result: Shown,
    parameters: Any,
    key_of: Any,
) -> None:
    """Add the commands."""

    @main.command(
        epilog="""\b
Example:
  python -m clients.python --agent workflow submit run -p workflow=call_apis -p inputs='{"urls": []}' --watch
"""
    )
    @operation_options
    @click.option("--watch", is_flag=True, help="Print what happens until it has ended.")
    @click.pass_obj
    def submit(
        call: Any, operation: str, param: tuple[str, ...], task: str, session: str, idempotency_key: str, *, watch: bool
    ) -> None:
        """Have one operation run in the background and print the task."""
        given, key = parameters(param), key_of(idempotency_key)

        async def work(client: AgentClient) -> None:
            taken = await client.tasks.submit(operation, given, task=task, session_id=session, idempotency_key=key)
            if watch:
                await _watched(call, client, taken.task_id, 0)
            else:
                call.show(shown_task(taken, shown_result))

        call.run(work)

    async def _watched(call: Any, client: AgentClient, task_id: str, after: int) -> None:
        async for news in client.tasks.watch(task_id, after):
            if isinstance(news, Task):
                call.show_line({"ended": shown_task(news, shown_result)})
                if news.state == FAILED and news.failure is not None:
                    raise news.failure
            else:
                call.show_line({"sequence": news.sequence, type(news.event).__name__.lower(): asdict(news.event)})

    @main.command(
        epilog="""\b
Example:
  python -m clients.python task 5f3c…
"""
    )
    @click.argument("task_id")
    @click.pass_obj
    def task(call: Any, task_id: str) -> None:
        """Print how a task stands, and its result."""

        async def work(client: AgentClient) -> None:
            call.show(shown_task(await client.tasks.get(task_id), shown_result))

        call.run(work)

    @main.command(
        epilog="""\b
Example:
  python -m clients.python tasks --state running
"""
    )
    @click.option("--state", type=click.Choice(STATES), default=None, help="Only those in this state.")
    @click.pass_obj
    def tasks(call: Any, state: str | None) -> None:
        """Print our tasks, one on a line, the newest first."""

        async def work(client: AgentClient) -> None:
            async for each in client.tasks.all(state or ""):
                call.show_line(shown_task(each, shown_result))

        call.run(work)

    @main.command(
        epilog="""\b
Example:
  python -m clients.python watch 5f3c… --after 12
"""
    )
    @click.argument("task_id")
    @click.option("--after", default=0, help="Only what came after this number.")
    @click.pass_obj
    def watch(call: Any, task_id: str, after: int) -> None:
        """Print what happens in a task, one event on a line, until it has ended."""
        call.run(lambda client: _watched(call, client, task_id, after))

    @main.command(
        epilog="""\b
Example:
  python -m clients.python cancel 5f3c…
"""
    )
    @click.argument("task_id")
    @click.pass_obj
    def cancel(call: Any, task_id: str) -> None:
        """End a task."""

        async def work(client: AgentClient) -> None:
            call.show(shown_task(await client.tasks.cancel(task_id), shown_result))

        call.run(work)

    @main.command(
        epilog="""\b
Example:
  python -m clients.python rate 5f3c… 5 --comment "just what I wanted"
"""
    )
    @click.argument("task_id")
    @click.argument("score", type=click.IntRange(1, 5))
    @click.option("--comment", default="", help="Why, for people.")
    @click.pass_obj
    def rate(call: Any, task_id: str, score: int, comment: str) -> None:
        """Rate a task's result, 1 (useless) to 5 (perfect), and print the ratings of its agent and version."""

        async def work(client: AgentClient) -> None:
            call.show(asdict(await client.tasks.rate(task_id, score, comment)))

        call.run(work)
