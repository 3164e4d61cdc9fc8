"""Around an employee's work: budgets of models, tasks that are paid and rated, settings that change, agents for pages and APIs."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from clients.python import AgentClient, CallFailure, News, Task
from clients.python.api import agent_pb2 as pb
from clients.python.api.agent_pb2_grpc import AgentServiceStub
from tests.journeys.pair import Pair
from tests.journeys.test_agent_server import WAIT, running
from tests.journeys.test_employees import AGENTS, Site, call
from tests.support.browser import needs_chromium
from tests.support.language_model import Endpoint

PLAN = {"name": "planned", "steps": [{"id": "a", "tool": "csv.read", "with": {"text": "a,b\n1,2\n"}}]}
BUDGET = (
    "policies: {budget: [{name: tokens, limit: 40/1h, per: [method], reserve: 1, charge: {trailer: x-usage-tokens}}]}"
)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


def settings(folder: Path, text: str = "") -> tuple[str, ...]:
    (folder / "agent.yaml").write_text(text)
    return ("-c", str(folder / "agent.yaml"), "--database", str(folder / "agent.db"), *AGENTS)


def run_of(task: str, run_id: str = "") -> pb.ExecuteRequest:
    request = pb.ExecuteRequest(task=task, agent="workflow", operation="run")
    request.parameters.update({"run_id": run_id})
    return request


def test_the_tokens_of_a_plan_count_against_the_callers_budget(tmp_path: Path, endpoint: Endpoint) -> None:
    endpoint.answers = [json.dumps(PLAN)] * 3
    model = f"model: {{base_url: '{endpoint.url}', name: small}}\n"

    async def scene(address: str) -> list[Any]:
        async with asyncio.timeout(WAIT), grpc.aio.insecure_channel(address) as channel:
            stub = AgentServiceStub(channel)
            found: list[Any] = []
            for number in range(3):
                calling = stub.Execute(run_of(f"look {number}"))
                try:
                    output = (await calling).result.output
                    found.append((output["origin"], dict(await calling.trailing_metadata())["x-usage-tokens"]))
                except grpc.aio.AioRpcError as error:
                    found.append((error.code(), dict(error.trailing_metadata() or ()).get("x-sidecar-origin")))
            return found

    with running(*settings(tmp_path, model)) as process, Pair(tmp_path, process.address, top=BUDGET) as pair:
        found = asyncio.run(scene(pair.address))
    # 21 tokens each: two calls come to 42 of 40, and the third is not made.
    assert found == [("model", "21"), ("model", "21"), (grpc.StatusCode.RESOURCE_EXHAUSTED, "sidecar")]
    assert len(endpoint.asked) == 2


def test_a_task_is_paid_once_and_its_rating_goes_out_where_versions_are_judged(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    endpoint.answers = [json.dumps(PLAN)]
    model = f"model: {{base_url: '{endpoint.url}', name: small}}\n"

    async def scene(address: str) -> tuple[list[str | None], dict[str, Any], pb.SummarizeRatingsResponse]:
        async with asyncio.timeout(WAIT), grpc.aio.insecure_channel(address) as channel:
            stub = AgentServiceStub(channel)
            request = pb.SubmitRequest(task="look at it", agent="workflow", operation="run")
            task_id = (await stub.Submit(request)).task.task_id
            watching = stub.WatchTask(pb.WatchTaskRequest(task_id=task_id))
            async for news in watching:
                last = news
            assert last.ended.state == pb.TASK_STATE_SUCCEEDED
            charged = [dict(await watching.trailing_metadata()).get("x-usage-tokens")]
            getting = stub.GetTask(pb.GetTaskRequest(task_id=task_id))
            await getting
            charged.append(dict(await getting.trailing_metadata()).get("x-usage-tokens"))
            rating = stub.RateTask(pb.RateTaskRequest(task_id=task_id, score=4, comment="fine"))
            await rating
            trailers = dict(await rating.trailing_metadata())
            return charged, trailers, await stub.SummarizeRatings(pb.SummarizeRatingsRequest())

    with running(*settings(tmp_path, model), "--version", "v7") as process, Pair(tmp_path, process.address) as pair:
        charged, trailers, summary = asyncio.run(scene(pair.address))
    assert charged == ["21", None]
    assert (trailers["x-task-score"], trailers["x-task-version"]) == ("4", "v7")
    [found] = summary.summaries
    assert (found.agent, found.version_label, found.count, found.mean_score) == ("workflow", "v7", 1, 4.0)


def test_settings_and_workflows_change_while_it_runs(tmp_path: Path) -> None:
    folder = tmp_path / "workflows"
    folder.mkdir()
    model = "model: {base_url: 'http://127.0.0.1:9/v1', name: small, timeout: 5}\n"

    def reason(address: str) -> str:
        try:
            call(address, "run", {"task": "make coffee"})
        except Exception as error:
            return next(each for each in ("NO_PLAN", "MODEL_FAILED") if each in str(error))
        raise AssertionError

    with running(*settings(tmp_path, f"workflows: {folder}\n")) as process:
        assert reason(process.address) == "NO_PLAN"
        (folder / "coffee.yaml").write_text(
            "name: coffee\nmatch: ['make (?P<what>coffee|tea)']\ninputs: {what: {}}\n"
            "steps: [{id: made, tool: text.mask, with: {text: 'a cup of {{ inputs.what }}'}}]\n"
        )
        given = call(process.address, "run", {"task": "Make tea"})
        assert given["output"] == {"result": {"text": "a cup of tea"}}
        (folder / "coffee.yaml").unlink()
        (tmp_path / "agent.yaml").write_text(f"workflows: {folder}\n{model}")
        process.popen.send_signal(signal.SIGHUP)
        while reason(process.address) != "MODEL_FAILED":
            pass


def test_many_calls_by_the_api_agent(tmp_path: Path, site: Site) -> None:
    arguments = ("--allow-address", "127.0.0.0/8", "--agents", "agent_server.agents.api")
    calls = [{"url": f"{site.url}/api/{number}"} for number in range(1, 61)]

    async def scene(address: str) -> Any:
        async with asyncio.timeout(WAIT), AgentClient(address) as client:
            return (await client.execute("call", {"calls": calls, "concurrency": 50}, agent="api")).output

    with running(*settings(tmp_path)[:4], *arguments) as process, Pair(tmp_path, process.address) as pair:
        given = asyncio.run(scene(pair.address))
    assert (given["ok_count"], given["failed_count"]) == (54, 6)
    assert [each["data"]["number"] for each in given["items"] if each["ok"]] == [n for n in range(1, 61) if n % 10]
    assert site.asked.count("/api/7") == 2  # 503 at first


@needs_chromium
def test_pages_are_followed_by_the_browser_agent(tmp_path: Path, site: Site) -> None:
    arguments = ("--allow-address", "127.0.0.0/8", "--agents", "agent_server.agents.browser")
    extract = {
        "urls": [f"{site.url}/next/1", f"{site.url}/missing/1"],
        "fields": {"name": ".name"},
        "rows": ".product",
        "next": "a.next@href",
        "timeout": 20.0,
    }

    async def scene(address: str) -> tuple[Any, Any]:
        async with asyncio.timeout(WAIT), AgentClient(address, agent="browser") as client:
            rows = (await client.execute("extract", extract)).output
            return rows, (await client.execute("read", {"url": f"{site.url}/next/3", "max_chars": 4})).output

    with running(*settings(tmp_path)[:4], *arguments) as process:
        rows, read = asyncio.run(scene(process.address))
    first, second = rows["items"]
    assert (first["ok"], first["pages"], [each["name"] for each in first["rows"]]) == (True, 3, ["p1", "p2", "p3"])
    assert (second["ok"], second["reason"], rows["failed_count"]) == (False, "HTTP_STATUS", 1)
    assert (read["text"], read["truncated"]) == ("p3", False)


def test_log_lines_hide_what_must_not_be_read(tmp_path: Path) -> None:
    text = "databases: {books: 'postgresql+asyncpg://u:pass-word-1@127.0.0.1:1/x'}\n"
    step = {"id": "a", "tool": "database.query", "with": {"sql": "SELECT 1", "database": "books"}}
    with running(*settings(tmp_path, text + "max_retries: 1\n"), "--log-level", "debug") as process:
        with pytest.raises(Exception, match="DATABASE_UNAVAILABLE") as caught:
            call(process.address, "run", {"definition": {"name": "x", "steps": [step]}})
        process.end()
        _, logged = process.popen.communicate(timeout=WAIT)
    assert "pass-word-1" not in str(caught.value) + logged
    assert "DATABASE_UNAVAILABLE" in logged


def test_the_clients_tasks(tmp_path: Path, site: Site) -> None:
    held = {
        "name": "held",
        "steps": [{"id": "a", "tool": "http.get", "with": {"url": f"{site.url}/hold"}, "timeout": 60}],
    }

    async def scene(address: str) -> None:
        async with asyncio.timeout(WAIT), AgentClient(address, agent="workflow") as client:
            done = await client.tasks.submit("run", {"definition": {**PLAN, "name": "done"}})
            told = [each async for each in client.tasks.watch(done.task_id)]
            ended = told[-1]
            assert isinstance(ended, Task)
            assert ended.state == "succeeded"
            assert ended.result is not None
            assert ended.result.output["output"] == {"result": {"rows": [{"a": "1", "b": "2"}]}}
            first = told[0]
            assert isinstance(first, News)
            assert [each async for each in client.tasks.watch(done.task_id, first.sequence)] == [*told[1:-1], ended]
            waiting = await client.tasks.submit("run", {"definition": held})
            assert await asyncio.to_thread(site.held.wait, WAIT)
            assert (await client.tasks.get(waiting.task_id)).state == "running"
            assert [each.task_id async for each in client.tasks.all("running")] == [waiting.task_id]
            cancelled = await client.tasks.cancel(waiting.task_id)
            assert cancelled.failure is not None
            assert (cancelled.state, cancelled.failure.reason) == ("cancelled", "CANCELLED")
            assert [each.task_id async for each in client.tasks.all()] == [waiting.task_id, done.task_id]
            assert (await client.tasks.rate(done.task_id, 3)).mean == 3.0
            assert [(each.agent, each.count) for each in await client.tasks.ratings()] == [("workflow", 1)]
            with pytest.raises(CallFailure, match="TASK_UNKNOWN"):
                await client.tasks.get("none")

    with running(*settings(tmp_path), "--allow-address", "127.0.0.0/8") as process:
        asyncio.run(scene(process.address))


def test_a_session_remembers_over_a_restart_and_for_its_caller_alone(tmp_path: Path) -> None:
    arguments = (*settings(tmp_path)[:4], "--agents", "agent_server.agents.memory")

    async def asked(address: str, operation: str, parameters: Any, session: str = "s", caller: str = "ann") -> Any:
        identity = (("x-sidecar-identity", caller),)
        async with asyncio.timeout(WAIT), AgentClient(address, agent="memory", metadata=identity) as client:
            return (await client.execute(operation, parameters, session_id=session)).output

    def ask(address: str, *given: Any, **more: Any) -> Any:
        return asyncio.run(asked(address, *given, **more))

    with running(*arguments) as first:
        for text in ("Ann likes green tea", "the invoice is paid"):
            ask(first.address, "remember", {"text": text})
        first.end(signal.SIGKILL)
    assert not any(b"green" in each.read_bytes() for each in tmp_path.iterdir() if each.is_file())
    with running(*arguments) as second:
        found = ask(second.address, "search", {"text": "tea green"})["items"]
        assert [each["text"] for each in found] == ["Ann likes green tea"]
        assert ask(second.address, "search", {"text": "tea"}, caller="ben")["items"] == []
        assert ask(second.address, "search", {"text": "tea"}, session="other")["items"] == []
        assert ask(second.address, "forget", {}) == {"forgotten": 2}
        assert ask(second.address, "search", {})["items"] == []
        with pytest.raises(CallFailure, match="session_id"):
            ask(second.address, "search", {}, session="")
