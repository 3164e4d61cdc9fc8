"""The ring of recent refusals: what it keeps, and that it stays small."""

from __future__ import annotations

from sidecar.proxy.recent import KEPT
from sidecar.proxy.rejection import Reason
from tests.scenes.script import echo, hooked, with_policies
from tests.support.scene import Scene


def refusing(message: str = "limit per-caller: 5/1s") -> Scene:
    rejection = Reason.RATE_LIMITED.reject(message)
    return Scene(policies=with_policies(hooked(on_request=lambda _: rejection)), on_agent=echo)


def test_what_is_told_of_a_refusal() -> None:
    scene = refusing()
    scene.advance(3)
    scene.call(("x-request-id", "abc-123"))
    (found,) = scene.runtime.refusals.newest()
    assert found == (
        scene.clock.monotonic(),
        "inbound",
        "all",
        "/test.Service/Method",
        "spiffe://mesh.local/agent/caller",
        "10.0.0.9:5000",
        "RESOURCE_EXHAUSTED",
        "RATE_LIMITED",
        "limit per-caller: 5/1s",
        "abc-123",
    )


def test_a_call_that_passes_leaves_nothing() -> None:
    scene = Scene(on_agent=echo)
    scene.call()
    assert scene.runtime.refusals.newest() == []
    assert scene.runtime.refusals.total == 0


def test_the_newest_come_first_and_old_ones_go() -> None:
    scene = refusing()
    for number in range(KEPT + 5):
        scene.call(("x-request-id", f"n-{number}"))
    found = scene.runtime.refusals.newest()
    assert [each.request_id for each in found] == [f"n-{number}" for number in range(KEPT + 4, 4, -1)]
    assert scene.runtime.refusals.total == KEPT + 5
    assert [each.request_id for each in scene.runtime.refusals.newest(2)] == ["n-104", "n-103"]


def test_long_texts_are_cut() -> None:
    scene = refusing("x" * 5000)
    scene.call(path="/" + "p" * 3000 + ".S/M")
    (found,) = scene.runtime.refusals.newest()
    assert (len(found.message), len(found.method)) == (300, 300)
