from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace

import pytest

from sidecar.clusters.endpoint import Endpoint
from sidecar.clusters.versions import Selection, Split, point_of
from sidecar.http2.errors import ErrorCode
from sidecar.policies.retry import Retry, RetryConfig
from sidecar.proxy.call import Call
from sidecar.proxy.rejection import Rejection
from tests.support.cluster import stalls
from tests.support.versions import VersionsScene
from tests.support.wire import RESPONSE, ScriptedStream, block, message


def to(scene: VersionsScene, call: Call) -> str:
    """The version that a call goes to."""
    picked = scene.versions.pick(call)
    assert isinstance(picked, Endpoint)
    return next(name for name, each in scene.versions.versions.items() if picked in each.cluster.endpoints)


def call_of(scene: VersionsScene, *metadata: tuple[str, str]) -> Call:
    assert scene.call(*metadata).seen.status == 0
    return scene.calls[-1]


@pytest.mark.parametrize("percent", [1.0, 10.0, 25.0, 50.0, 90.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_share_is_within_a_point_over_10k_rpcs(percent: float, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = VersionsScene(monkeypatch, split=Split("a", "b", percent))
    call = call_of(scene)
    scene.runtime.random.seed(seed)
    counts = Counter(to(scene, call) for _ in range(10_000))
    assert abs(counts["b"] / 100 - percent) <= 1


def test_no_order_in_who_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = VersionsScene(monkeypatch, split=Split("a", "b", 50.0))
    call = call_of(scene)
    pairs = Counter((to(scene, call), to(scene, call)) for _ in range(2000))
    assert len(pairs) == 4, "chance decides, and is only kept on course"


def test_what_is_measured_is_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = VersionsScene(monkeypatch, split=Split("a", "b", 50.0))
    assert scene.versions.shares() == {"a": 0.0, "b": 0.0}
    scene.codes(200)
    assert abs(scene.versions.shares()["b"] - 50) <= 1
    scene.versions.apply(Split("a", "b", 100.0))
    scene.codes(10)
    assert scene.versions.shares() == {"a": 0.0, "b": 100.0}


def test_sticky_callers_never_flip_and_who_came_early_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = VersionsScene(
        monkeypatch, split=Split("a", "b", 10.0, salt="s"), selection=Selection(sticky="metadata.x-session")
    )
    calls = [call_of(scene, ("x-session", f"s-{i}")) for i in range(400)]
    first = [to(scene, each) for each in calls]
    for _ in range(5):
        assert [to(scene, each) for each in calls] == first
    assert 5 <= 100 * first.count("b") / len(calls) <= 15
    scene.versions.apply(Split("a", "b", 50.0, salt="s"))
    later = [to(scene, each) for each in calls]
    assert all(now == "b" for before, now in zip(first, later, strict=True) if before == "b")
    # Who says nothing of a session is drawn each time.
    assert len({to(scene, call_of(scene)) for _ in range(50)}) == 2


def test_points_are_spread_evenly_and_depend_on_the_salt() -> None:
    names = [f"spiffe://mesh.local/agent/{random.Random(i).random()}" for i in range(5000)]
    assert abs(sum(point_of(each, b"s") < 0.1 for each in names) / 5000 - 0.1) < 0.02
    assert [point_of(each, b"s") < 0.1 for each in names] != [point_of(each, b"t") < 0.1 for each in names]


def permit(rule: str = "", roles: tuple[str, ...] = (), decision: str = "allow") -> SimpleNamespace:
    return SimpleNamespace(decision=decision, rule=rule, roles=frozenset(roles))


@pytest.mark.parametrize(
    ("granted", "goes"),
    [
        (permit(rule="testers-may"), "b"),
        (permit(roles=("tester", "other")), "b"),
        (permit(rule="all-may", roles=("other",)), "a"),
        (permit(rule="testers-may", decision="would_deny"), "a"),
        (None, "a"),
    ],
)
def test_a_tester_chooses_where_authorization_lets_it(
    granted: SimpleNamespace | None, goes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = Selection(override_roles=frozenset({"tester"}), override_rules=frozenset({"testers-may"}))
    scene = VersionsScene(monkeypatch, split=Split("a", "b", 0.0), selection=selection)
    call = call_of(scene, ("x-sidecar-version", "b"))
    if granted is not None:
        call.note("authz", granted)
    assert to(scene, call) == goes
    # Of those who may not choose, the share decides: said with its figures.
    assert scene.versions.choice(call) == (goes if goes == "b" else "b (0 %) or a")


def test_a_version_that_does_not_exist_is_refused_to_a_tester(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = VersionsScene(
        monkeypatch, split=Split("a", "b", 0.0), selection=Selection(override_roles=frozenset({"tester"}))
    )
    call = call_of(scene, ("x-sidecar-version", "z"))
    call.note("authz", permit(roles=("tester",)))
    refused = scene.versions.pick(call)
    assert isinstance(refused, Rejection)
    assert "has no version z" in refused.message


def test_without_an_override_the_header_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = VersionsScene(monkeypatch, split=Split("a", "b", 0.0))
    call = call_of(scene, ("x-sidecar-version", "b"))
    call.note("authz", permit(rule="testers-may", roles=("tester",)))
    assert to(scene, call) == "a"


@pytest.mark.parametrize(("may_rescue", "code"), [(True, 0), (False, 14)])
def test_what_stable_cannot_take(may_rescue: bool, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = VersionsScene(monkeypatch, split=Split("a", "b", 0.0, may_rescue=may_rescue))
    scene.stable.kill()
    scene.run()
    assert scene.call().seen.status == code


def test_what_a_candidate_cannot_take_goes_to_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = VersionsScene(monkeypatch, split=Split("a", "b", 100.0))
    scene.candidate.kill()
    scene.run()
    assert scene.codes(20) == {0: 20}


def withdrawn(scene: VersionsScene) -> int:
    """Nothing new goes to the candidate, and what runs there ends."""
    scene.versions.apply(Split("a"))
    ended = scene.versions.end_streams("b")
    scene.run()
    return ended


def test_what_runs_at_a_version_that_is_withdrawn_ends_and_may_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = VersionsScene(monkeypatch, split=Split("a", "b", 100.0))
    scene.candidate.act = stalls
    callers = [scene.call() for _ in range(3)]
    assert withdrawn(scene) == 3
    for each in callers:
        assert each.seen.status == 14
        assert each.seen.value("grpc-retry-pushback-ms") == "0"
    assert [stream.seen.reset for stream in scene.candidate.streams] == [ErrorCode.CANCEL] * 3
    assert withdrawn(scene) == 0
    scene.versions.close()
    assert scene.close() == []


@pytest.mark.parametrize(("has_begun", "code"), [(False, 0), (True, 14)])
def test_a_retry_repeats_it_at_the_other_version_unless_its_answer_has_begun(
    has_begun: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = VersionsScene(
        monkeypatch,
        split=Split("a", "b", 100.0),
        policies=lambda runtime: [Retry(RetryConfig(), runtime)],
    )

    def hangs(stream: ScriptedStream, event: str) -> None:
        if event == "end" and has_begun:
            stream.send_headers(block(*RESPONSE))
            stream.send_data(message(b"some"), False)

    scene.candidate.act = hangs
    caller = scene.call()
    assert withdrawn(scene) == 1
    # At once: there is no backoff, for stable is as well as ever.
    assert caller.seen.status == code
    assert (scene.candidate.calls, scene.stable.calls) == (1, 1 - has_begun)
    assert scene.versions.versions["b"].tally.counts(0.0).total == 0, "it says nothing of the version"
