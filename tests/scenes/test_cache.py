"""Answers from memory, scene by scene: who is given which, who waits for whom, and what is never kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from sidecar.http2.hpack import encode_field
from sidecar.policies.cache import Cache
from sidecar.policies.cache.policy import CacheConfig
from sidecar.proxy.call import Call
from sidecar.proxy.policy import Policy
from sidecar.runtime import Runtime
from sidecar.telemetry import names
from tests.scenes.script import OnEvent, echo, finish, hooked, only_trailers, reason, resets, silent, turns
from tests.support.scene import Scene, refuse
from tests.support.wire import RESPONSE, ScriptedStream, block, message

READ, LIST, WRITE = "/p.S/Get", "/p.S/List", "/p.S/Put"


def stage(on_agent: OnEvent = echo, before: Iterable[Policy[Any]] = (), **config: Any) -> Scene:
    rules = {"methods": (READ, LIST), "ttl": 60.0, **config}

    def policies(runtime: Runtime) -> list[Policy[Any]]:
        return [*before, Cache(CacheConfig.model_validate(rules, strict=False), runtime)]

    return Scene(policies=policies, on_agent=on_agent)


def count(scene: Scene, outcome: str) -> float:
    return scene.metrics.counter(names.CACHE, listener="inbound", route="all", outcome=outcome).value


def cache(scene: Scene) -> Cache:
    return next(each for each in scene.plan.policies if isinstance(each, Cache))


def read(scene: Scene, *metadata: tuple[str, str], body: bytes = b"hello", path: str = READ) -> ScriptedStream:
    return scene.call(*metadata, path=path, body=body)


def test_the_same_question_is_asked_once() -> None:
    scene = stage()
    first, again = read(scene), read(scene)
    assert len(scene.agent_streams) == 1
    assert first.seen.data == again.seen.data == message(b"hello")
    assert (again.seen.status, again.seen.value("age"), first.seen.value("age")) == (0, "0", None)
    assert again.seen.value("x-request-id") != first.seen.value("x-request-id")
    assert (count(scene, "miss"), count(scene, "hit")) == (1, 1)
    assert scene.leaks() == []


def test_it_grows_old_and_is_asked_anew() -> None:
    scene = stage(ttl=10.0)
    read(scene)
    scene.advance(9.0)
    assert read(scene).seen.value("age") == "9"
    scene.advance(1.0)
    assert read(scene).seen.value("age") is None
    assert len(scene.agent_streams) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"body": b"other"},
        {"path": LIST},
        {"metadata": (("x-tenant", "b"),)},
        {"metadata": (("authorization", "Bearer b"),)},
        {"metadata": (("grpc-accept-encoding", "gzip"),)},
    ],
)
def test_another_question_is_another_answer(other: dict[str, Any]) -> None:
    scene = stage(key={"metadata": ("x-tenant",)})
    read(scene)
    read(scene, *other.get("metadata", ()), body=other.get("body", b"hello"), path=other.get("path", READ))
    assert len(scene.agent_streams) == 2
    assert count(scene, "hit") == 0


def test_what_does_not_belong_to_the_question_makes_no_difference() -> None:
    scene = stage(key={"metadata": ("x-tenant",)})
    read(scene, ("x-other", "1"), ("grpc-timeout", "5S"))
    assert read(scene, ("x-other", "2"), ("grpc-timeout", "9S")).seen.value("age") == "0"


@pytest.mark.parametrize("shared", [False, True])
def test_callers_get_each_others_answers_only_where_that_is_said(shared: bool) -> None:
    scene = stage(shared=shared)
    read(scene)
    scene.peer.identity = "spiffe://mesh.local/agent/other"
    again = read(scene)
    assert (again.seen.value("age") == "0") is shared


def test_other_methods_are_not_touched() -> None:
    scene = stage()
    for _ in range(2):
        assert read(scene, path=WRITE).seen.status == 0
    assert len(scene.agent_streams) == 2


@pytest.mark.parametrize(
    "agent",
    [
        only_trailers(("grpc-status", "5")),
        lambda stream, event: finish(stream, b"", (("grpc-status", "13"),)) if event == "end" else None,
        lambda stream, event: (
            finish(stream, message(b"x"), headers=(*RESPONSE, ("cache-control", "private, no-store")))
            if event == "end"
            else None
        ),
        lambda stream, event: (
            finish(stream, message(b"x"), (("grpc-status", "0"), ("cache-control", "No-Cache")))
            if event == "end"
            else None
        ),
        lambda stream, event: finish(stream, message(bytes(2000))) if event == "end" else None,
        resets(8),
    ],
    ids=["trailers-only", "error", "no-store", "no-cache", "too-large", "reset"],
)
def test_what_is_never_kept(agent: OnEvent) -> None:
    scene = stage(agent, max_answer=1024)
    one, two = read(scene), read(scene)
    assert len(scene.agent_streams) == 2
    assert one.seen.status == two.seen.status
    assert scene.leaks() == []


def test_a_caller_may_want_a_fresh_answer_or_none_to_be_kept() -> None:
    scene = stage()
    read(scene)
    assert read(scene, ("cache-control", "no-cache")).seen.value("age") is None
    scene.advance(5.0)
    assert read(scene).seen.value("age") == "5", "what no-cache has brought is kept"
    assert read(scene, ("cache-control", "max-age=3, no-store")).seen.value("age") is None
    assert len(scene.agent_streams) == 3
    assert count(scene, "bypassed") == 2


def test_an_ok_without_messages_is_an_answer_as_well() -> None:
    scene = stage(only_trailers(("grpc-status", "0"), ("x-cost", "7")))
    read(scene)
    again = read(scene)
    assert len(scene.agent_streams) == 1
    assert (again.seen.status, again.seen.value("x-cost"), again.seen.value("age")) == (0, "7", "0")


def test_a_streamed_answer_is_given_message_by_message() -> None:
    def act(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            stream.send_headers(block(*RESPONSE))
            for each in (b"one", b"two"):
                stream.send_data(message(each), False)
            stream.send_trailers(block(("grpc-status", "0")))

    scene = stage(act)
    assert read(scene).seen.data == read(scene).seen.data == message(b"one") + message(b"two")
    assert len(scene.agent_streams) == 1


# ── a single flight ──


async def test_the_answer_comes_before_who_waits_has_begun_to() -> None:
    """The task of a waiting hook begins a turn later; by then nobody may be left who would wake it."""
    scene = stage(silent)
    first = read(scene)
    await turns(scene)
    second = read(scene)
    finish(scene.agent, message(b"fine"))
    scene.run()
    assert first.seen.data == message(b"fine")
    await turns(scene)
    assert second.seen.data == message(b"fine")
    assert (count(scene, "miss"), count(scene, "joined")) == (1, 1)
    assert scene.leaks() == []


async def test_who_asks_meanwhile_waits_for_the_one_answer() -> None:
    scene = stage(silent)
    streams = [read(scene) for _ in range(5)]
    await turns(scene)
    assert len(scene.agent_streams) == 1
    finish(scene.agent, message(b"fine"))
    await turns(scene)
    assert [each.seen.data for each in streams] == [message(b"fine")] * 5
    assert (count(scene, "miss"), count(scene, "joined")) == (1, 4)
    assert scene.leaks() == []


async def test_where_the_first_goes_away_another_asks() -> None:
    scene = stage(silent)
    first, second, third = (read(scene) for _ in range(3))
    await turns(scene)
    first.reset(8)
    scene.run()
    await turns(scene)
    assert len(scene.agent_streams) == 2, "one of the two that waited asks, the other waits on"
    finish(scene.agent, message(b"fine"))
    await turns(scene)
    assert second.seen.data == third.seen.data == message(b"fine")
    assert scene.leaks() == []


async def test_a_failure_is_nobody_elses() -> None:
    scene = stage(silent)
    streams = [read(scene) for _ in range(3)]
    await turns(scene)
    scene.on_agent = echo
    finish(scene.agent, b"", (("grpc-status", "13"),))
    await turns(scene)
    assert [each.seen.status for each in streams] == [13, 0, 0]
    assert len(scene.agent_streams) == 3
    assert scene.leaks() == []


async def test_who_waits_waits_no_longer_than_its_deadline() -> None:
    scene = stage(silent)
    read(scene)
    waiting = read(scene, ("grpc-timeout", "2S"))
    await turns(scene)
    scene.advance(3.0)
    await turns(scene)
    assert (waiting.seen.status, reason(waiting)) == (4, "DEADLINE")
    finish(scene.agent, message(b"fine"))
    await turns(scene)
    assert scene.leaks() == []


# ── forgetting ──


def test_a_write_makes_answers_wrong() -> None:
    scene = stage(invalidate=({"after": (WRITE,), "forget": (READ,)},))
    read(scene)
    read(scene, path=LIST)
    read(scene, path=WRITE)
    assert read(scene).seen.value("age") is None
    assert read(scene, path=LIST).seen.value("age") == "0"


@pytest.mark.parametrize("agent", [only_trailers(("grpc-status", "14")), resets(2)])
def test_so_does_one_of_which_nobody_knows_whether_it_was_done(agent: OnEvent) -> None:
    scene = stage(invalidate=({"after": (WRITE,), "forget": (READ,)},))
    read(scene)
    scene.on_agent = agent
    read(scene, path=WRITE)
    scene.on_agent = echo
    assert read(scene).seen.value("age") is None


def test_one_that_never_left_does_not() -> None:
    scene = stage(invalidate=({"after": (WRITE,), "forget": (READ,)},))
    read(scene)
    scene.cluster.refusal = refuse()
    read(scene, path=WRITE)
    assert read(scene).seen.value("age") == "0"


async def test_a_read_that_runs_during_a_write_is_not_kept() -> None:
    scene = stage(silent, invalidate=({"after": (WRITE,), "forget": (READ,)},))
    early = read(scene)
    old = scene.agent
    scene.on_agent = echo
    read(scene, path=WRITE)
    late = read(scene)
    assert late.seen.data == message(b"hello"), "who asks after the write does not wait for what may be from before"
    finish(old, message(b"stale"))
    await turns(scene)
    assert early.seen.data == message(b"stale")
    assert read(scene).seen.data == message(b"hello")


def test_all_is_forgotten_by_hand() -> None:
    scene = stage()
    read(scene)
    read(scene, path=LIST)
    assert (cache(scene).forget(), cache(scene).forget()) == (2, 0)
    assert read(scene).seen.value("age") is None


# ── with others ──


def test_a_large_request_goes_on_as_it_comes() -> None:
    scene = stage(max_request=1024)
    for _ in range(2):
        assert read(scene, body=bytes(3000)).seen.data == message(bytes(3000))
    assert len(scene.agent_streams) == 2
    assert count(scene, "bypassed") == 2


def test_who_is_refused_gets_nothing_from_memory() -> None:
    refused: list[bool] = []
    guard = hooked(on_request=lambda _: refuse() if refused else None)
    scene = stage(before=[guard])
    read(scene)
    refused.append(True)
    assert read(scene).seen.status == 14
    assert len(scene.agent_streams) == 1


def test_an_answer_from_memory_passes_what_stands_before_the_cache() -> None:
    def mask(call: Call, each: bytes) -> bytes:
        return message(b"***")

    def mark(call: Call, fields: list[Any]) -> None:
        fields.append(encode_field(b"x-mark", b"1"))

    scene = stage(before=[hooked(on_response_message=mask, on_response_headers=mark)])
    first, again = read(scene), read(scene)
    assert len(scene.agent_streams) == 1
    assert first.seen.data == again.seen.data == message(b"***")
    assert first.seen.value("x-mark") == again.seen.value("x-mark") == "1"


def test_a_reload_that_changes_nothing_of_it_keeps_what_is_kept() -> None:
    scene = stage()
    read(scene)
    config = cache(scene)._config
    assert Cache(config, scene.runtime).forget() == 1
    read(scene)
    assert Cache(config.model_copy(update={"ttl": 61.0}), scene.runtime).forget() == 0


def test_what_could_never_be_kept_is_refused_in_the_file() -> None:
    with pytest.raises(ValueError, match="could never be kept"):
        CacheConfig(methods=(READ,), ttl=1.0, max_bytes=4096, max_answer=8192)
