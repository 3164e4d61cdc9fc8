"""The API agent, over calls that are written down."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from pydantic import ValidationError

from agent_server.agents.api import ApiAgent, ApiCall, CallInput
from agent_server.core.context import Context
from agent_server.core.events import Event, Partial, Progress
from agent_server.tools.http import Fetched
from agent_server.tools.http_calls import Call


class Calls:
    """Stands where HttpCalls stands."""

    def __init__(self, body: bytes = b'{"n": 1}') -> None:
        self.made: list[Call] = []
        self.body = body

    async def call(self, call: Call) -> tuple[Fetched, bool]:
        self.made.append(call)
        await asyncio.sleep(0)
        path = call.url.rpartition("/")[2]
        if path == "away":
            return Fetched(call.url, call.url, 0.0, reason="CONNECT_FAILED", message="refused"), False
        status = int(path) if path.isdigit() else 200
        kind = "text/plain" if path == "text" else "application/json"
        body = b"{" if path == "broken" else self.body
        return Fetched(call.url, call.url, 0.0, status, {"content-type": kind}, body), False


def agent_of(calls: Calls) -> ApiAgent:
    class Tools:
        http_calls = calls

    return ApiAgent(cast("Any", Tools()))


def asked(*paths: str, method: str = "GET", body: Any = None) -> CallInput:
    return CallInput(calls=[ApiCall(url=f"http://a/{path}", method=method, body=body) for path in paths])  # type: ignore[arg-type]


async def test_each_call_has_its_outcome_in_its_place() -> None:
    given = await agent_of(Calls()).call(asked("ok", "404", "away", "text", "broken"), Context("x"))
    assert [(each.ok, each.status, each.reason) for each in given.items] == [
        (True, 200, ""),
        (False, 404, "HTTP_STATUS"),
        (False, None, "CONNECT_FAILED"),
        (True, 200, ""),
        (False, 200, "BAD_ANSWER"),
    ]
    assert (given.items[0].data, given.items[3].text) == ({"n": 1}, '{"n": 1}')
    assert (given.ok_count, given.failed_count) == (2, 3)


async def test_changes_carry_a_key_each_that_is_the_same_at_the_next_try() -> None:
    calls = Calls()
    context = Context("x", identity="ann", idempotency_key="k")
    for _ in range(2):
        await agent_of(calls).call(asked("a", "b", method="POST", body={"x": 1}), context)
    keys = [each.headers["idempotency-key"] for each in calls.made]
    assert (keys[:2], len(set(keys))) == (keys[2:], 2)
    assert calls.made[0].content == b'{"x": 1}'
    assert calls.made[0].headers["content-type"] == "application/json"
    await agent_of(calls).call(asked("a", method="POST"), Context("x"))
    await agent_of(calls).call(asked("a"), context)
    assert all("idempotency-key" not in each.headers for each in calls.made[4:])


async def test_listeners_get_each_outcome_as_it_comes() -> None:
    told: list[Event] = []

    async def sink(event: Event) -> None:
        told.append(event)

    given = await agent_of(Calls()).call(asked("a", "b", "404"), Context("x", sink=sink))
    assert [each.item for each in told if isinstance(each, Partial)] == ["http://a/a", "http://a/b", "http://a/404"]
    assert [each.completed for each in told if isinstance(each, Progress)] == [1, 2, 3]
    assert [each.data for each in given.items] == [None, None, None]


async def test_bodies_together_fit_into_an_answer() -> None:
    given = await agent_of(Calls(b"x" * (1 << 20))).call(asked(*["text"] * 5), Context("x"))
    assert [each.truncated for each in given.items] == [False, False, False, True, True]
    assert sum(len(each.text) for each in given.items) <= 3 << 20


@pytest.mark.parametrize("headers", [{"Host": "b"}, {"a": "b\r\nc: d"}, {"a b": "c"}, {"Transfer-Encoding": "x"}])
def test_headers_that_are_ours(headers: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="header"):
        ApiCall(url="http://a/", headers=headers)
