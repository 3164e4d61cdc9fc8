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
    ((found, times),) = scene.runtime.refusals.newest()
    assert times == 1
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


def test_a_flood_of_one_kind_leaves_the_others() -> None:
    scene = refusing()
    scene.call(("x-request-id", "early"), path="/test.Service/Other")
    for number in range(1000):
        scene.call(("x-request-id", f"n-{number}"))
    found = scene.runtime.refusals.newest()
    assert [(each.request_id, times) for each, times in found] == [("n-999", 1000), ("early", 1)]
    assert scene.runtime.refusals.total == 1001


def test_old_kinds_go() -> None:
    scene = refusing()
    for number in range(KEPT + 5):
        scene.call(path=f"/test.Service/M{number}")
    found = scene.runtime.refusals.newest()
    assert [each.method for each, _ in found] == [f"/test.Service/M{number}" for number in range(KEPT + 4, 4, -1)]
    assert [each.method for each, _ in scene.runtime.refusals.newest(1)] == [f"/test.Service/M{KEPT + 4}"]


def test_long_texts_are_cut() -> None:
    scene = refusing("x" * 5000)
    scene.call(path="/" + "p" * 3000 + ".S/M")
    ((found, _),) = scene.runtime.refusals.newest()
    assert (len(found.message), len(found.method)) == (300, 300)
