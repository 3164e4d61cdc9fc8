"""Clusters whose endpoints fail: who gets RPCs, what callers see, and what is left alone."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest

from sidecar.http2.connection import Limits
from sidecar.http2.errors import ErrorCode
from sidecar.policies.deadline import Deadline, DeadlineConfig
from sidecar.policies.retry import Retry, RetryConfig
from sidecar.runtime import Runtime
from sidecar.telemetry import names
from tests.scenes.script import info, reason
from tests.support.cluster import ClusterScene, fails, health_message, says, serves, stalls
from tests.support.wire import RESPONSE, ScriptedStream, block, message

OK, UNAVAILABLE = 0, 14
BREAKER = {"failure_threshold": 3, "success_threshold": 2, "open_for": 60.0}
EJECTION = {"consecutive_failures": 3, "min_success_rate": 0.0, "base_ejection": 30.0}


def retries(**config: Any) -> Any:
    def policies(runtime: Runtime) -> list[Retry]:
        return [Retry(RetryConfig(initial_backoff=0.01, max_backoff=0.01, **config), runtime)]

    return policies


@pytest.fixture(autouse=True)
def _no_defects(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# ── circuit breaker ──


def test_an_open_circuit_refuses_with_the_time_of_the_next_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 1, agents=fails(), circuit_breaker=BREAKER)
    assert scene.codes(3) == {UNAVAILABLE: 3}
    assert scene.agents[0].calls == 3
    scene.advance(20)
    refused = scene.call()
    assert (refused.seen.status, reason(refused)) == (UNAVAILABLE, "CIRCUIT_OPEN")
    assert refused.seen.value("grpc-retry-pushback-ms") == "40000"
    assert info(refused).metadata["endpoint"] == "10.0.0.1:50051"
    assert scene.agents[0].calls == 3, "the agent is left in peace"
    assert scene.close() == []


def test_a_healed_endpoint_closes_its_circuit(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 1, agents=fails(), circuit_breaker=BREAKER)
    scene.codes(3)
    scene.agents[0].act = serves
    scene.advance(60)
    assert scene.codes(5) == {OK: 5}
    changes = scene.metrics.samples(names.BREAKER_CHANGES)
    assert changes == {("local", "open"): 1, ("local", "half-open"): 1, ("local", "closed"): 1}
    assert scene.metrics.samples(names.BREAKER_STATE) == {("local", "10.0.0.1:50051"): 0}


def test_one_probe_at_a_time_the_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 1, agents=fails(), circuit_breaker=BREAKER)
    scene.codes(3)
    scene.agents[0].act = stalls
    scene.advance(60)
    probe, other = scene.call(), scene.call()
    assert probe.seen.status is None
    assert reason(other) == "CIRCUIT_OPEN"
    probe.reset(ErrorCode.CANCEL)
    scene.run()
    # Its caller went away: that says nothing, and the place is free.
    assert scene.call().seen.status is None
    assert scene.metrics.samples(names.BREAKER_STATE) == {("local", "10.0.0.1:50051"): 1}


def test_the_rpc_that_tripped_it_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene = ClusterScene(monkeypatch, 1, agents=fails(13), circuit_breaker=BREAKER)
    scene.codes(3)
    (record,) = [each for each in caplog.records if each.getMessage() == "circuit breaker"]
    said = vars(record)
    assert (said["from"], said["to"], said["method"], said["code"]) == (
        "closed",
        "open",
        "/test.Service/Method",
        "INTERNAL",
    )
    assert said["request_id"] == scene.calls[-1].request_id_text
    tripped = scene.at(scene.agents[0]).vitals.tripped_by
    assert tripped is not None
    assert tripped["request_id"] == said["request_id"]


@pytest.mark.parametrize("code", [3, 5, 6, 7, 9, 11, 12, 16, 1])
def test_what_is_not_the_servers_fault_opens_nothing(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    scene = ClusterScene(monkeypatch, 1, agents=fails(code), circuit_breaker=BREAKER, outlier_ejection=EJECTION)
    assert scene.codes(20) == {code: 20}


@pytest.mark.parametrize("code", [14, 4, 13, 2, 15, 10, 8])
def test_what_is_the_servers_fault_opens_it(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    scene = ClusterScene(monkeypatch, 1, agents=fails(code), circuit_breaker=BREAKER)
    scene.codes(20)
    assert scene.agents[0].calls == 3


def test_the_configuration_says_what_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    only = BREAKER | {"failure_codes": ("NOT_FOUND",)}
    scene = ClusterScene(monkeypatch, 2, circuit_breaker=only)
    missing, down = scene.agents
    missing.act, down.act = fails(5), fails(14)
    scene.codes(30)
    assert missing.calls == 3
    assert down.calls == 27


def test_statuses_that_a_sidecar_further_on_made_for_its_caller_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for code, count in ((8, 20), (10, 20), (14, 3)):
        scene = ClusterScene(
            monkeypatch, 1, agents=fails(code, ("x-sidecar-origin", "sidecar")), circuit_breaker=BREAKER
        )
        scene.edge.strips_ours = False
        scene.codes(20)
        assert scene.agents[0].calls == count, code


def test_a_lost_connection_is_one_failure_however_many_streams_it_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 1, agents=stalls, circuit_breaker=BREAKER)
    for loss in range(3):
        # Connections that live long enough are made again at once.
        scene.advance(0.1)
        calls = [scene.call() for _ in range(10)]
        scene.agents[0].lose()
        scene.run()
        assert {reason(each) for each in calls} == {"UPSTREAM_LOST"}
        assert scene.at(scene.agents[0]).vitals.admits is (loss < 2)


def test_an_answer_that_does_not_come_in_time_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(
        monkeypatch,
        1,
        agents=stalls,
        circuit_breaker=BREAKER,
        policies=lambda runtime: [Deadline(DeadlineConfig(default=1.0), runtime)],
    )
    for _ in range(3):
        scene.call()
        scene.advance(1.1)
    assert reason(scene.call()) == "CIRCUIT_OPEN"


def test_callers_that_go_away_trip_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 1, agents=stalls, circuit_breaker=BREAKER, outlier_ejection=EJECTION)
    for _ in range(20):
        call = scene.call(("grpc-timeout", "10S"))
        call.reset(ErrorCode.CANCEL)
        scene.run()
    assert scene.agents[0].calls == 20
    assert scene.real.load.in_flight == 0


def test_an_attempt_that_is_too_slow_counts_and_goes_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(
        monkeypatch, 2, circuit_breaker=BREAKER, policies=retries(per_try_timeout=1.0, budget={"percent": 100})
    )
    slow, fast = scene.agents
    slow.act = stalls
    calls = []
    for _ in range(20):
        calls.append(scene.call())
        scene.advance(1.2)
    assert {each.seen.status for each in calls} == {OK}
    assert slow.calls == 3
    assert fast.calls == 20


# ── ejection ──


def test_who_fails_is_ejected_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 3, outlier_ejection=EJECTION)
    bad = scene.agents[1]
    bad.act = fails()
    assert scene.codes(60) == {OK: 57, UNAVAILABLE: 3}
    assert scene.shares()[1] == 3
    assert scene.metrics.samples(names.ENDPOINT_EJECTED)["local", bad.address] == 1
    bad.act = serves
    scene.advance(30)
    assert scene.codes(30) == {OK: 30}
    assert scene.shares() == [10, 10, 10]
    assert scene.metrics.samples(names.EJECTIONS) == {("local",): 1}
    assert scene.close() == []


def test_never_more_than_their_share_and_never_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    for count, percent, ejected in (
        (1, 100, 0),
        (2, 50, 1),
        (2, 100, 1),
        (3, 50, 1),
        (4, 50, 2),
        (4, 100, 3),
        (4, 20, 0),
    ):
        scene = ClusterScene(
            monkeypatch,
            count,
            agents=fails(),
            panic_below=0.0,
            outlier_ejection=EJECTION | {"max_ejected_percent": float(percent)},
        )
        scene.codes(100)
        found = sum(each.vitals.is_ejected for each in scene.real.endpoints)
        assert found == ejected, (count, percent)
        assert not {each.seen.status for each in [scene.call()]} - {UNAVAILABLE}
        assert reason_or_agent(scene.call()) == "agent"


def reason_or_agent(call: ScriptedStream) -> str:
    return "agent" if call.seen.value("x-sidecar-origin") is None else reason(call)


def test_an_open_circuit_is_not_healthy_when_the_last_is_sought(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(
        monkeypatch,
        2,
        outlier_ejection=EJECTION | {"max_ejected_percent": 100.0, "consecutive_failures": 10},
        circuit_breaker=BREAKER,
    )
    broken, bad = scene.agents
    broken.act = fails()
    scene.codes(10)
    assert not scene.at(broken).vitals.admits
    bad.act = fails(13)
    monkeypatch.setattr(scene.at(bad).vitals, "_breaker_codes", frozenset())
    scene.codes(50)
    assert not scene.at(bad).vitals.is_ejected


def test_when_too_few_are_fit_health_and_ejection_are_ignored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ejection = EJECTION | {"max_ejected_percent": 100.0}
    scene = ClusterScene(monkeypatch, 3, outlier_ejection=ejection)
    for agent in scene.agents[1:]:
        agent.act = fails()
    scene.codes(30)
    assert sum(each.vitals.is_ejected for each in scene.real.endpoints) == 2
    assert scene.real.is_panicking
    scene.shares()
    scene.codes(30)
    assert scene.shares() == [10, 10, 10]
    assert "too few endpoints are fit" in caplog.text
    assert scene.metrics.samples(names.CLUSTER_PANIC) == {("local",): 1}
    scene.advance(31)
    assert not scene.real.is_panicking


def test_unreachable_endpoints_are_no_reason_to_panic(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 3, outlier_ejection=EJECTION)
    dead, bad, good = scene.agents
    dead.kill()
    bad.act = fails()
    scene.run()
    scene.codes(10)
    scene.shares()
    assert scene.codes(20) == {OK: 20}
    assert scene.shares() == [0, 0, 20]


# ── limits ──


def test_more_than_may_run_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 2, agents=stalls, concurrency={"max_in_flight": 4})
    calls = [scene.call() for _ in range(4)]
    refused = scene.call()
    assert (refused.seen.status, reason(refused)) == (UNAVAILABLE, "OVERLOADED")
    assert info(refused).metadata == {"cluster": "local", "limit": "4"}
    assert scene.metrics.samples(names.CLUSTER_ACTIVE) == {("local",): 4}
    calls[0].reset(ErrorCode.CANCEL)
    scene.run()
    assert scene.call().seen.status is None


def test_more_than_may_wait_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 1, agents=stalls, concurrency={"max_pending": 2})
    agent = scene.agents[0]
    agent.limits = Limits(max_concurrent_streams=1)
    agent.lose()
    scene.run()
    running, *waiting = [scene.call() for _ in range(3)]
    assert agent.calls == 1
    assert reason(scene.call()) == "OVERLOADED"
    assert scene.metrics.samples(names.CLUSTER_PENDING) == {("local",): 2}
    # Who went away takes no place.
    waiting[0].reset(ErrorCode.CANCEL)
    scene.run()
    last = scene.call()
    assert last.seen.status is None
    running.reset(ErrorCode.CANCEL)
    scene.run()
    assert agent.calls == 2
    assert scene.real.load.pending == 1


def test_who_waits_for_an_endpoint_that_does_not_come_goes_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 2, health=stalls, health_check={"timeout": 1.0, "interval": 5.0})
    waiting = [scene.call() for _ in range(4)]
    assert {each.seen.status for each in waiting} == {None}
    one, other = scene.agents
    other.health = says(1)
    other.lose()
    scene.run()
    assert [each.seen.status for each in waiting].count(OK) == 2
    # The first one's answer is overdue: unhealthy. Its callers are served by the other.
    scene.advance(1.1)
    assert [each.seen.status for each in waiting] == [OK] * 4
    assert (one.calls, other.calls) == (0, 4)


# ── balancing ──


def test_fast_refusals_attract_no_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the penalty the endpoint that fails at once would always look idle."""
    scene = ClusterScene(monkeypatch, 3, balancing="least_request", agents=stalls)
    bad = scene.agents[0]
    bad.act = fails(8)
    open_calls: list[ScriptedStream] = []
    for _ in range(600):
        open_calls.append(scene.call())
        if len(open_calls) > 20:
            open_calls.pop(0).reset(ErrorCode.CANCEL)
        scene.advance(0.005)
    shares = scene.shares()
    assert shares[0] < 600 * 0.1, shares
    scene.advance(6)
    assert scene.at(bad).load == 0, "forgiven"


def test_least_request_leaves_the_slow_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 3, balancing="least_request")
    scene.agents[0].act = stalls
    scene.codes(100)
    assert scene.shares()[0] < 15


def test_a_session_keeps_its_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 4, balancing={"ring_hash": {"key": "metadata.x-session"}})
    for session in ("a", "b", "c", "d", "e"):
        for _ in range(5):
            scene.call(("x-session", session))
        assert sorted(scene.shares()) == [0, 0, 0, 5]


def test_a_new_endpoint_gets_its_share_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 2, slow_start=10.0)
    old, new = scene.agents
    scene.codes(10)
    new.kill()
    scene.advance(30)
    new.is_up = True
    scene.advance(6)
    assert scene.at(new).is_ready
    scene.advance(10)
    scene.shares()
    new.lose()
    scene.run()
    found = []
    for _ in range(11):
        scene.codes(220)
        found.append(scene.shares()[1])
        scene.advance(1)
    assert found[0] == pytest.approx(20, abs=2), "one tenth of what the other gets"
    assert found == sorted(found)
    assert found[5] == pytest.approx(73, abs=3)
    assert found[-1] == 110


# ── health ──

HEALTH = {"service": "agent.v1.AgentService", "interval": 5.0, "timeout": 1.0, "unhealthy_after": 3}


def test_nothing_is_sent_before_the_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 1, health=stalls, health_check=HEALTH)
    waiting = scene.call()
    (check,) = scene.agents[0].checks
    assert bytes(check.seen.data) == message(b"\x0a\x15agent.v1.AgentService")
    assert check.seen.value(":path") == "/grpc.health.v1.Health/Watch"
    assert check.seen.value("te") == "trailers"
    assert scene.agents[0].calls == 0
    check.send_headers(block(*RESPONSE))
    check.send_data(message(health_message(1)), False)
    scene.run()
    assert waiting.seen.status == OK
    assert scene.metrics.samples(names.ENDPOINT_HEALTHY) == {("local", "10.0.0.1:50051"): 1}
    assert scene.close() == []


@pytest.mark.parametrize("status", [0, 2, 3, 9])
def test_who_says_anything_but_serving_gets_nothing_new(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    scene = ClusterScene(monkeypatch, 3, health=says(1), health_check=HEALTH)
    bad = scene.agents[0]
    scene.codes(30)
    assert scene.shares() == [10, 10, 10]
    bad.checks[-1].send_data(message(health_message(status)), False)
    scene.run()
    assert scene.codes(30) == {OK: 30}
    assert scene.shares() == [0, 15, 15]
    bad.checks[-1].send_data(message(health_message(1)), False)
    scene.run()
    scene.codes(30)
    assert scene.shares() == [10, 10, 10]


def test_streams_go_on_whatever_becomes_of_their_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(
        monkeypatch, 2, health=says(1), health_check=HEALTH, outlier_ejection=EJECTION, circuit_breaker=BREAKER
    )
    for agent in scene.agents:
        agent.act = stalls
    streams = [scene.call(end=False), scene.call(end=False)]
    ones = [agent.streams[0] for agent in scene.agents]
    for each in ones:
        each.send_headers(block(*RESPONSE))
    scene.run()
    bad = scene.agents[0]
    for agent in scene.agents:
        agent.act = fails()
    scene.codes(20)
    bad.checks[-1].send_data(message(health_message(2)), False)
    scene.advance(5)
    vitals = scene.at(bad).vitals
    assert not vitals.is_healthy
    assert not vitals.admits
    for number in range(3):
        for one, stream in zip(ones, streams, strict=True):
            one.send_data(message(b"%d" % number), False)
            stream.send_data(message(b"more"), False)
    scene.run()
    for one in ones:
        one.send_trailers(block(("grpc-status", "0")))
    scene.run()
    for stream in streams:
        assert stream.seen.status == OK
        assert bytes(stream.seen.data) == message(b"0") + message(b"1") + message(b"2")
    for one in ones:
        assert bytes(one.seen.data).count(b"more") == 3


def test_an_endpoint_that_leaves_the_set_ends_its_streams_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 2, agents=stalls)
    streams = [scene.call(end=False), scene.call(end=False)]
    gone = scene.agents[0]
    scene.real._addresses = (scene.agents[1].address,)
    scene.real._apply()
    scene.run()
    for agent in scene.agents:
        agent.streams[0].send_headers(block(*RESPONSE))
        agent.streams[0].send_data(message(b"late"), False)
        agent.streams[0].send_trailers(block(("grpc-status", "0")))
        agent.act = serves
    scene.run()
    assert {each.seen.status for each in streams} == {OK}
    assert scene.codes(10) == {OK: 10}
    assert gone.calls == 1
    assert all(link.cut for link in gone.links), "its connection closes after the last stream"


def test_without_watch_it_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [1]

    def health(stream: ScriptedStream, event: str) -> None:
        if stream.seen.value(":path") == "/grpc.health.v1.Health/Watch":
            fails(12)(stream, event)
        else:
            says(answer[0])(stream, event)

    scene = ClusterScene(monkeypatch, 2, health=health, health_check=HEALTH)
    agent = scene.agents[0]
    endpoint = scene.at(agent)
    assert [each.seen.value(":path") for each in agent.checks] == [
        "/grpc.health.v1.Health/Watch",
        "/grpc.health.v1.Health/Check",
    ]
    assert agent.checks[1].seen.value("grpc-timeout") is not None
    assert endpoint.vitals.is_healthy
    answer[0] = 2
    scene.advance(5.6)
    scene.advance(5.6)
    assert endpoint.vitals.is_healthy, "two failed checks are not three"
    scene.advance(5.6)
    assert not endpoint.vitals.is_healthy
    answer[0] = 1
    scene.advance(5.6)
    assert endpoint.vitals.is_healthy
    assert scene.close() == []


def test_without_any_health_service_it_is_healthy_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scene = ClusterScene(monkeypatch, 1, health_check=HEALTH)
    assert scene.codes(3) == {OK: 3}
    scene.agents[0].lose()
    scene.advance(20)
    assert scene.codes(3) == {OK: 3}
    assert caplog.text.count("no health service") == 1
    assert scene.close() == []


@pytest.mark.parametrize("mode", ["watch", "check"])
@pytest.mark.parametrize(
    "health", [stalls, fails(5), fails(14), lambda stream, event: stream.reset(8) if event == "end" else None]
)
def test_any_other_end_is_unhealthy_and_tried_again(monkeypatch: pytest.MonkeyPatch, health: Any, mode: str) -> None:
    scene = ClusterScene(monkeypatch, 1, health=health, health_check=HEALTH | {"mode": mode}, panic_below=0.0)
    scene.advance(1.1)
    refused = scene.call()
    assert (refused.seen.status, reason(refused)) == (UNAVAILABLE, "NO_HEALTHY_ENDPOINT")
    asked = len(scene.agents[0].checks)
    scene.advance(20)
    assert len(scene.agents[0].checks) > asked
    scene.agents[0].health = says(1)
    scene.advance(30)
    assert scene.codes(1) == {OK: 1}


@pytest.mark.parametrize(
    "data", [b"\x00\x00\x00\x00\x01\xff", b"\x01\x00\x00\x00\x00", b"\x00\xff\xff\xff\xff", b"\x07junk!"]
)
def test_nonsense_is_no_sign_of_health(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    def health(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            stream.send_headers(block(*RESPONSE))
            stream.send_data(data, False)

    scene = ClusterScene(monkeypatch, 1, health=health, health_check=HEALTH, panic_below=0.0)
    assert reason(scene.call()) == "NO_HEALTHY_ENDPOINT"


def test_a_wedged_agent_is_noticed_by_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 2, health=says(1), health_check=HEALTH | {"mode": "check"})
    wedged = scene.agents[0]
    wedged.is_frozen = True
    scene.advance(25)
    assert not scene.at(wedged).vitals.is_healthy
    assert scene.codes(10) == {OK: 10}


def test_a_passing_check_ends_an_ejection(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(
        monkeypatch, 2, health=says(1), health_check=HEALTH | {"mode": "check"}, outlier_ejection=EJECTION
    )
    bad = scene.agents[0]
    bad.act = fails()
    scene.codes(10)
    assert scene.at(bad).vitals.is_ejected
    bad.act = serves
    scene.advance(6)
    assert not scene.at(bad).vitals.is_ejected


def test_health_checks_count_as_no_rpcs(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 1, health=says(1), health_check=HEALTH)
    assert (scene.at(scene.agents[0]).in_flight, scene.real.load.in_flight) == (0, 0)


def test_a_connection_that_is_told_to_go_is_not_kept_by_its_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 1, health=says(1), health_check=HEALTH)
    agent = scene.agents[0]
    (old,) = agent.links
    old.server.drain()
    scene.advance(1)
    assert old.cut
    assert len(agent.links) == 2
    assert scene.codes(3) == {OK: 3}
    assert agent.checks[-1].connection is agent.links[1].server


# ── all together ──


def test_one_dead_one_slow_one_failing_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three endpoints at 200 RPC/s of idempotent RPCs: nearly all succeed, and no storm is made."""
    rng = random.Random(4)

    def failing_half(stream: ScriptedStream, event: str) -> None:
        (serves if rng.random() < 0.5 else fails())(stream, event)

    scene = ClusterScene(
        monkeypatch,
        3,
        balancing="least_request",
        outlier_ejection={},
        policies=retries(max_attempts=4, budget={"percent": 20, "min_per_second": 10}),
    )
    dead, slow, flaky = scene.agents
    flaky.act = failing_half
    slow.act = stalls
    answers: list[tuple[float, ScriptedStream]] = []
    dead_at = scene.clock.monotonic() + 0.5
    calls = []
    for _ in range(2000):
        now = scene.clock.monotonic()
        if dead.is_up and now >= dead_at:
            dead.kill()
        calls.append((now, scene.call()))
        # The slow one answers after 200 ms.
        answers += [(now + 0.2, stream) for stream in slow.streams[len(answers) :]]
        for due, stream in answers:
            if due <= now and not stream.local_closed:
                serves(stream, "end")
        scene.advance(0.005)
    for _, stream in answers:
        if not stream.local_closed:
            serves(stream, "end")
    scene.advance(1)
    begun = calls[0][0]
    late = [each.seen.status for when, each in calls if when - begun > 2]
    assert late.count(OK) >= 0.999 * len(late), f"{late.count(OK)} of {len(late)}"
    load = sum(scene.shares())
    assert load <= 1.25 * len(calls), load


def test_when_all_fail_no_storm_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(
        monkeypatch,
        3,
        agents=fails(),
        balancing="least_request",
        outlier_ejection={},
        policies=retries(max_attempts=4, budget={"percent": 20, "min_per_second": 0}),
    )
    scene.codes(1000, every=0.005)
    assert sum(scene.shares()) <= 1250


# ── connecting ──


@pytest.mark.parametrize("says_goaway", [False, True])
def test_who_hangs_up_on_every_connection_is_asked_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch, says_goaway: bool
) -> None:
    scene = ClusterScene(monkeypatch, 1)
    agent = scene.agents[0]

    def hang_up() -> None:
        for link in agent.links:
            if says_goaway and not link.cut:
                link.server.drain()
                scene.run()
            link.lose()
        scene.run()

    tries, said = [], set()
    for _ in range(600):
        hang_up()
        tries.append(len(agent.links))
        said.add(scene.at(agent).last_error)
        scene.advance(0.05)
    # Half a minute: without a pause there would be one for each time it was hung up on.
    assert tries[0] == 2, "the first time may be an accident"
    assert len(agent.links) <= 20
    assert "connections end as soon as they are made" in said
    # It serves again: within the longest backoff, and from then on a loss is an accident again.
    scene.advance(7)
    assert scene.codes(3) == {OK: 3}
    scene.advance(2)
    before = len(agent.links)
    agent.lose()
    scene.run()
    assert len(agent.links) == before + 1
    assert scene.close() == []
