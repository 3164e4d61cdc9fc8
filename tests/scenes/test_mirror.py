"""Copies of RPCs, scene by scene: what is copied, when it leaves, and what is made of the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.descriptors.descriptor_set import parse_set
from sidecar.policies.mirror import Mirror
from sidecar.policies.mirror.policy import MirrorConfig
from sidecar.proxy.policy import Policy
from sidecar.runtime import Runtime
from sidecar.telemetry import names
from tests.scenes.script import OnEvent, answers, echo, finish, hooked, only_trailers, resets, silent
from tests.support.descriptors import compiled
from tests.support.scene import Scene, SceneCluster, SceneEndpoint
from tests.support.wire import ScriptedStream, message

GET = "/t.Things/Get"


class Stage(Scene):
    """A scene with a second agent, which gets the copies and does `next_agent`."""

    def __init__(self, ours: OnEvent = echo, next_agent: OnEvent = echo, **config: Any) -> None:
        rules = MirrorConfig.model_validate({"to": "next", "percent": 100.0, **config}, strict=False)
        self.ours, self.next_agent = ours, next_agent
        self.copies: list[ScriptedStream] = []

        def policies(runtime: Runtime) -> list[Policy[Any]]:
            return [Mirror(rules, runtime)]

        super().__init__(policies=policies, on_agent=self._on_agent)
        self.cluster.members = [self.endpoint]
        self.next = SceneEndpoint(self, "next-1")
        self.endpoints.append(self.next)
        self.next.connect()
        for each in self.plan.policies:
            each.reach({"next": SceneCluster([self.next])})

    def _on_agent(self, stream: ScriptedStream, event: str) -> None:
        is_copy = stream.seen.value("x-sidecar-mirrored") == "true"
        if is_copy and event == "headers":
            self.copies.append(stream)
        (self.next_agent if is_copy else self.ours)(stream, event)

    def counts(self) -> dict[str, int]:
        found = {}
        for name, label, values in (
            (
                names.MIRRORED,
                "outcome",
                ("sent", "same", "different", "no_answer", "keyed", "busy", "unreachable", "too_large"),
            ),
            (names.MIRROR_DIFFERENCES, "kind", ("status", "size", "fields")),
        ):
            for each in values:
                value = self.metrics.counter(name, listener="inbound", route="all", **{label: each}).value
                if value:
                    found[each] = int(value)
        return found


def test_the_copy_is_what_went_to_the_agent_and_leaves_when_the_caller_has_its_answer() -> None:
    stage = Stage(ours=silent)
    call = stage.call(("x-tenant", "a"))
    assert stage.copies == []
    finish(stage.agent, message(b"hello"))
    stage.run()
    assert call.seen.status == 0
    (copy,) = stage.copies
    assert bytes(copy.seen.data) == message(b"hello")
    assert (copy.seen.value("x-tenant"), copy.seen.value(":path")) == ("a", "/test.Service/Method")
    assert copy.seen.value("x-sidecar-identity") == stage.peer.identity
    assert copy.seen.value("grpc-timeout") == "30000000u"
    assert stage.counts() == {"sent": 1, "same": 1}
    assert stage.leaks() == []


@pytest.mark.parametrize(
    ("ours", "theirs", "kinds"),
    [
        (echo, only_trailers(("grpc-status", "13")), {"status": 1, "size": 1}),
        (only_trailers(("grpc-status", "5")), only_trailers(("grpc-status", "5")), {}),
        (echo, answers(data=message(b"longer than that")), {"size": 1}),
        (echo, resets(8), {"status": 1, "size": 1}),
    ],
)
def test_answers_are_compared_by_status_and_size(ours: OnEvent, theirs: OnEvent, kinds: dict[str, int]) -> None:
    stage = Stage(ours, theirs)
    call = stage.call()
    assert call.seen.ended
    assert stage.counts() == {"sent": 1, "different" if kinds else "same": 1, **kinds}
    assert stage.leaks() == []


def test_what_the_other_does_reaches_nobody() -> None:
    stage = Stage(next_agent=silent)
    codes = {stage.call().seen.status for _ in range(5)}
    assert codes == {0}
    assert len(stage.endpoint.outcomes) == 5
    assert stage.next.outcomes == [], "nothing counts for or against it"
    stage.advance(30.0)
    assert stage.counts() == {"sent": 5, "no_answer": 5}
    assert all(each.seen.reset == 8 for each in stage.copies)
    assert stage.leaks() == []


def test_one_that_is_not_there_is_left_alone() -> None:
    stage = Stage()
    assert stage.next.wire is not None
    stage.next.wire.lose()
    assert stage.call().seen.status == 0
    assert stage.counts() == {"unreachable": 1}


def test_a_keyed_rpc_is_never_copied() -> None:
    stage = Stage()
    for _ in range(3):
        assert stage.call(("idempotency-key", "pay-1")).seen.status == 0
    keys_by_fields = hooked(on_request=lambda call: call.note("idempotency", object()))
    assert stage.copies == []
    assert stage.counts() == {"keyed": 3}
    config = MirrorConfig.model_validate({"to": "next", "percent": 100.0}, strict=False)
    other = Scene(policies=lambda runtime: [keys_by_fields, Mirror(config, runtime)], on_agent=echo)
    assert other.call().seen.status == 0
    assert len(other.agent_streams) == 1


def test_what_never_left_or_was_not_answered_is_not_copied() -> None:
    stage = Stage(ours=silent)
    stage.call().reset(8)
    stage.call(("grpc-timeout", "1S"))
    stage.advance(2.0)
    assert stage.copies == []


def test_only_a_share_and_only_named_methods() -> None:
    stage = Stage(percent=20.0, methods=("/test.Service/*",))
    for _ in range(500):
        stage.call()
    assert 70 <= len(stage.copies) <= 130
    before = len(stage.copies)
    for _ in range(50):
        stage.call(path="/other.Service/Method")
    assert len(stage.copies) == before


def test_copies_are_bounded_in_number_and_size() -> None:
    stage = Stage(next_agent=silent, max_in_flight=2, max_request=1024)
    for _ in range(4):
        stage.call()
    assert stage.counts() == {"sent": 2, "busy": 2}
    assert stage.call(body=bytes(2000)).seen.status == 0
    assert stage.counts() == {"sent": 2, "busy": 2, "too_large": 1}
    stage.advance(30.0)
    stage.call()
    assert stage.counts()["sent"] == 3


def test_fields_are_compared_by_descriptors_and_sampled_without_their_values(tmp_path: Path) -> None:
    path = tmp_path / "thing.binpb"
    path.write_bytes(
        compiled(
            'syntax="proto3"; package t; message Empty {} message Thing { string name = 1; string at = 2; } '
            "service Things { rpc Get(Empty) returns (Thing); }"
        )
    )
    answer = (descriptors := parse_set(path.read_bytes())).message(descriptors.types["t.Thing"])

    def says(**fields: str) -> OnEvent:
        return answers(data=message(answer(**fields).SerializeToString()))

    samples = tmp_path / "differences.jsonl"
    stage = Stage(
        says(name="secret", at="1"),
        says(name="another", at="22"),
        descriptors=path,
        ignore=("at",),
        samples={"file": samples, "per_minute": 2},
    )
    for _ in range(3):
        stage.call(path=GET, body=b"")
    assert stage.counts() == {"sent": 3, "different": 3, "size": 3, "fields": 3}
    stage.next_agent = says(name="secret", at="33")
    stage.call(path=GET, body=b"")
    assert stage.counts()["same"] == 1, "what is ignored decides nothing, its size neither"
    for close in stage.runtime.closers:
        close()
    lines = [json.loads(each) for each in samples.read_text().splitlines()]
    assert [each["fields"] for each in lines] == [["name"]] * 2
    assert lines[0]["method"] == GET
    assert "secret" not in samples.read_text()


def test_another_cluster_must_exist() -> None:
    stage = Stage()
    with pytest.raises(ValueError, match="next is no cluster; known: local"):
        stage.plan.policies[0].reach({"local": stage.cluster})
