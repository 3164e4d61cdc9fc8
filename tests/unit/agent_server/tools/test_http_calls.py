"""Calls of APIs: tried again where that is safe, bounded per host, kept for a while."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent_server.tools.http import Fetched
from agent_server.tools.http_calls import Call, HttpCalls


class Net:
    """Stands where a Fetcher stands; gives its answers one after the other."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answers: list[Fetched] = []
        self.slept: list[float] = []
        self.seconds = 0.0
        self.active: dict[str, int] = {}
        self.most: dict[str, int] = {}

    async def fetch(self, url: str, *, method: str, **_: Any) -> Fetched:
        host = url.split("/")[2]
        self.asked.append((method, url))
        self.active[host] = self.active.get(host, 0) + 1
        self.most[host] = max(self.most.get(host, 0), self.active[host])
        await asyncio.sleep(0)
        self.active[host] -= 1
        return self.answers.pop(0) if self.answers else answered(200, b"x" * 10)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def calls(self, **more: Any) -> HttpCalls:
        return HttpCalls(self, now=lambda: self.seconds, sleep=self.sleep, **more)  # type: ignore[arg-type]


def answered(status: int, body: bytes = b"", **headers: str) -> Fetched:
    return Fetched("u", "u", 0.0, status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def failed(reason: str) -> Fetched:
    return Fetched("u", "u", 0.0, reason=reason)


async def test_what_passes_is_tried_again_after_growing_waits() -> None:
    net = Net()
    net.answers = [failed("TIMEOUT"), answered(503, retry_after="7"), answered(200)]
    answer, _ = await net.calls().call(Call("http://a/", attempts=5))
    assert (answer.status, net.slept) == (200, [1.0, 7.0])


async def test_attempts_are_bounded_and_what_will_not_pass_is_not_tried_again() -> None:
    net = Net()
    net.answers = [answered(503)] * 3 + [answered(404), failed("TLS_FAILED")]
    calls = net.calls()
    assert (await calls.call(Call("http://a/", attempts=3)))[0].status == 503
    assert (await calls.call(Call("http://a/", attempts=3)))[0].status == 404
    assert (await calls.call(Call("http://a/", attempts=3)))[0].reason == "TLS_FAILED"
    assert (len(net.asked), net.slept) == (5, [1.0, 2.0])


@pytest.mark.parametrize(("headers", "asked"), [({}, 1), ({"Idempotency-Key": "k"}, 3)])
async def test_a_change_is_tried_again_under_a_key_only(headers: dict[str, str], asked: int) -> None:
    net = Net()
    net.answers = [failed("CONNECTION_LOST")] * 3
    await net.calls().call(Call("http://a/", "POST", headers, attempts=3))
    assert len(net.asked) == asked


async def test_so_many_at_a_time_for_each_host() -> None:
    net = Net()
    calls = net.calls(per_host=3)
    await asyncio.gather(*(calls.call(Call(f"http://{host}/{n}")) for n in range(20) for host in ("a", "b")))
    assert net.most == {"a": 3, "b": 3}
    assert calls._hosts == {}


async def test_answers_are_kept_for_their_time_and_for_their_caller() -> None:
    net = Net()
    calls = net.calls()
    call = Call("http://a/", cache_seconds=10, identity="ann")
    assert [(await calls.call(call))[1] for _ in range(2)] == [False, True]
    assert (await calls.call(Call("http://a/", cache_seconds=10, identity="ben")))[1] is False
    assert (await calls.call(Call("http://a/", headers={"x": "y"}, cache_seconds=10, identity="ann")))[1] is False
    net.seconds = 10.0
    assert (await calls.call(call))[1] is False
    net.answers = [answered(404)]
    missing = Call("http://a/404", cache_seconds=10)
    assert [(await calls.call(missing))[0].status for _ in range(2)] == [404, 200]


async def test_the_longest_unused_answer_goes_first() -> None:
    net = Net()
    calls = net.calls(cache_bytes=100)
    for name in "abcdefghij":
        await calls.call(Call(f"http://{name}/", cache_seconds=10))
    assert (await calls.call(Call("http://a/", cache_seconds=10)))[1] is True
    await calls.call(Call("http://k/", cache_seconds=10))
    assert (await calls.call(Call("http://a/", cache_seconds=10)))[1] is True
    assert (await calls.call(Call("http://b/", cache_seconds=10)))[1] is False
    assert calls._kept_bytes <= 100
