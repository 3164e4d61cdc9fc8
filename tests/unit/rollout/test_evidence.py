from __future__ import annotations

import json

import pytest

from sidecar.clusters.versions import Split
from sidecar.grpc_wire.status import StatusCode
from sidecar.rollout.evidence import Evidence
from tests.support.cluster import fails
from tests.support.versions import VersionsScene


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> VersionsScene:
    return VersionsScene(monkeypatch, split=Split("a", "b", 100.0))


def total(evidence: Evidence, scene: VersionsScene) -> int:
    return evidence.all("b", scene.clock.monotonic()).total


def test_what_was_before_the_step_does_not_count(scene: VersionsScene) -> None:
    scene.codes(5)
    evidence = Evidence(scene.versions, "one")
    evidence.enter("1:0", scene.clock.monotonic())
    assert total(evidence, scene) == 0
    scene.codes(3)
    assert total(evidence, scene) == 3
    assert evidence.all("a", scene.clock.monotonic()).total == 0


def test_a_window_begins_at_each_conclusion(scene: VersionsScene) -> None:
    evidence = Evidence(scene.versions, "one")
    now = scene.clock.monotonic()
    evidence.enter("1:0", now)
    scene.codes(3)
    assert evidence.window("b", now).total == 3
    evidence.conclude(now)
    scene.codes(2)
    assert (evidence.window("b", now).total, evidence.all("b", now).total) == (2, 5)


def test_what_others_tell_is_added_once_however_often_it_comes(scene: VersionsScene) -> None:
    one, two = Evidence(scene.versions, "one"), Evidence(scene.versions, "two")
    now = scene.clock.monotonic()
    for each in (one, two):
        each.enter("1:0", now)
    scene.candidate.act = fails(13)
    scene.codes(4)
    told = two.told(None, now, 100.0)
    one.hear(told)
    one.hear(told)
    found = one.all("b", now)
    assert (found.total, found.codes[StatusCode.INTERNAL]) == (8, 8), "its own four, and the other's"
    scene.codes(1)
    one.hear(two.told(told, now, 101.0))
    assert total(one, scene) == 10
    one.hear(None)
    assert total(one, scene) == 10, "sums never fall within a step"


def test_what_is_of_another_step_or_no_sense_is_left_out(scene: VersionsScene) -> None:
    one, two = Evidence(scene.versions, "one"), Evidence(scene.versions, "two")
    now = scene.clock.monotonic()
    one.enter("1:1", now)
    two.enter("1:0", now)
    scene.codes(4)
    one.hear(two.told(None, now, 100.0))
    for nonsense in (
        b"{",
        b"[]",
        b'{"x": 3}',
        b'{"x": {"step": "1:1"}}',
        b'{"x": {"step": "1:1", "versions": {"b": 1}}}',
    ):
        one.hear(nonsense)
    assert total(one, scene) == 4, "its own"


def test_the_register_keeps_who_speaks_and_forgets_who_is_silent(scene: VersionsScene) -> None:
    one, two = Evidence(scene.versions, "one"), Evidence(scene.versions, "two")
    now = scene.clock.monotonic()
    for each in (one, two):
        each.enter("1:0", now)
    both = two.told(one.told(None, now, 100.0), now, 130.0)
    assert set(json.loads(both)) == {"one", "two"}
    assert set(json.loads(two.told(both, now, 161.0))) == {"two"}
