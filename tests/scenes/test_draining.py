"""A connection that is told to go: what was under way still comes, and it is over when the last one has ended."""

from __future__ import annotations

import pytest

from tests.scenes.script import OK, echo, finish, silent
from tests.support.scene import Scene
from tests.support.wire import RESPONSE, ScriptedStream, block, message, request_block


def draining(scene: Scene) -> list[str]:
    """Tell the caller's connection to go; what is noted when it is over."""
    over: list[str] = []
    scene.listener.on_idle = lambda: over.append("over")
    scene.listener.drain()
    return over


def test_what_was_sent_before_the_goaway_arrived_is_served() -> None:
    """The last stream ends between our GOAWAY and the caller's knowledge of it: the connection must wait for that."""
    scene = Scene(on_agent=silent)
    first = scene.call()
    over = draining(scene)
    # The agent answers; the answer and the GOAWAY go out together, and the caller has sent another one meanwhile.
    finish(scene.agent)
    assert scene.endpoint.wire is not None
    scene.endpoint.wire.step()
    assert scene.listener.streams == {}
    assert over == [], "closed before the caller could know"
    second = ScriptedStream()
    scene.caller.client.open(second)
    second.send_headers(request_block(), True)
    scene.on_agent = echo
    scene.run()
    assert first.seen.status == 0
    assert second.seen.status == 0
    assert over != []
    assert not scene.caller.client.is_open
    assert scene.leaks() == []


@pytest.mark.parametrize("how", ["answer", "cancel", "late half-close", "reset by the agent"])
def test_it_is_over_when_the_last_one_has_ended(how: str) -> None:
    scene = Scene(on_agent=silent)
    caller = scene.call(end=False)
    over = draining(scene)
    scene.run()
    assert over == []
    if how == "answer":
        caller.send_data(b"", True)
        finish(scene.agent)
    elif how == "cancel":
        caller.reset(8)
    elif how == "late half-close":
        scene.agent.send_headers(block(*RESPONSE, *OK), True)
        scene.run()
        caller.send_data(message(b"more"), True)
    else:
        scene.agent.reset(2)
    scene.run()
    assert over != []
    assert scene.leaks() == []


def test_an_idle_connection_is_over_after_one_round_trip() -> None:
    scene = Scene(on_agent=echo)
    scene.call()
    over = draining(scene)
    assert over == []
    scene.run()
    assert over == ["over"]
