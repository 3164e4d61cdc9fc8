"""Every built-in alert fires when it has been wrong for long enough, and ends; with a clock that the test moves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sidecar.alerts import alerts as module
from sidecar.alerts.alert import Alert
from sidecar.alerts.alerts import INTERVAL, Alerts, TestRuns
from sidecar.alerts.config import BUILT_IN
from sidecar.alerts.delivery import NotDelivered
from sidecar.alerts.machine import Machine
from sidecar.store.interface import StoreUnavailable
from sidecar.store.memory import MemoryStore
from sidecar.telemetry import names
from sidecar.telemetry.metrics import Metrics
from tests.support.alerts import Hands, Inbox, Traffic, alerts_config, fake_runtime
from tests.support.clock import FakeClock


class Stage:
    """A process as far as alerts see it, with one receiver that is told at once."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, store: MemoryStore | None = None, **config: Any
    ) -> None:
        self.clock = FakeClock()
        self.store = store or MemoryStore(self.clock)
        self.runtime = fake_runtime(self.clock, store=self.store)
        self.metrics: Metrics = self.runtime.metrics
        self.inbox = Inbox()
        self.hands = Hands()
        self.root = tmp_path
        (tmp_path / "proc").mkdir(exist_ok=True)
        self.set_memory(0.5)
        self.cores = 0.1
        self._used = 0.0
        monkeypatch.setattr(module, "sender_of", lambda receiver, node: self.inbox)
        machine = Machine(self.metrics, root=tmp_path, used=lambda: self._used)
        self.alerts = Alerts(self.runtime, machine=machine, hand_of=self.hands.of)
        self.config = {
            "send": [{"webhook": "http://receiver.example/"}],
            "group_wait": "0s",
            "group_interval": "0s",
            **config,
        }
        self.alerts.adopt(alerts_config(**self.config), "orders-1")
        self.alerts.begin()

    def set_memory(self, share: float) -> None:
        available = round(1_000_000 * (1 - share))
        (self.root / "proc/meminfo").write_text(f"MemTotal: 1000000 kB\nMemAvailable: {available} kB\n")

    async def past(self, seconds: float, each: Callable[[], object] = lambda: None) -> None:
        """Time goes by, and `each` happens at every look."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            each()
            self._used += self.cores * INTERVAL
            self.clock.advance(min(INTERVAL, end - self.clock.monotonic()))
            for _ in range(3):
                await asyncio.sleep(0)

    @property
    def firing(self) -> list[str]:
        return [each["name"] for each in self.alerts.view()["firing"]]

    @property
    def told(self) -> list[str]:
        return [text for message in self.inbox.said for text in message]


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    return Stage(monkeypatch, tmp_path)


async def held(stage: Stage, name: str, wrong: Callable[[], object], right: Callable[[], object], length: float) -> str:
    """`wrong` for a little less than `length`: nothing; for longer: fires; then `right` for long enough: over. What was told."""
    await stage.past(60, right)
    assert stage.firing == [] and stage.told == []
    if length:
        await stage.past(length - 2 * INTERVAL, wrong)
        assert stage.firing == [], "too early"
    await stage.past(60 + 2 * INTERVAL, wrong)
    assert stage.firing == [name]
    assert stage.told == [f"firing {name}"]
    fired = stage.inbox.messages[0][0].summary
    await stage.past(30, right)
    assert stage.firing == [name], "not over at the first good look"
    await stage.past(6 * 60, right)
    assert stage.firing == []
    assert stage.told == [f"firing {name}", f"resolved {name}"]
    return fired


async def test_error_rate(stage: Stage) -> None:
    traffic = Traffic(stage.metrics)

    def wrong() -> None:
        traffic.end(18)
        traffic.end(2, "Unavailable")

    said = await held(stage, "error-rate", wrong, lambda: traffic.end(20), 300)
    assert said == "10 % of the RPCs fail (listener inbound)"


async def test_slow(stage: Stage) -> None:
    traffic = Traffic(stage.metrics)
    said = await held(stage, "slow", lambda: traffic.end(20, seconds=6.0), lambda: traffic.end(20), 300)
    assert said == "1 % of the RPCs take longer than 7.47 s (listener inbound)"


async def test_cpu(stage: Stage) -> None:
    def use(cores: float) -> Callable[[], None]:
        return lambda: setattr(stage, "cores", cores)

    said = await held(stage, "cpu", use(0.97), use(0.2), 600)
    assert said == "the sidecar uses 97 % of its processor time"


async def test_memory(stage: Stage) -> None:
    said = await held(stage, "memory", lambda: stage.set_memory(0.95), lambda: stage.set_memory(0.5), 600)
    assert said == "95 % of the memory is used"


GAUGES = {
    "breaker-open": (
        names.BREAKER_STATE,
        {"cluster": "data", "endpoint": "10.0.0.5:8443"},
        2.0,
        "the circuit of 10.0.0.5:8443 in cluster data is open",
    ),
    "rollout-rolled-back": (
        names.ROLLOUT_ROLLED_BACK,
        {"cluster": "data"},
        1.0,
        "the rollout of data was rolled back",
    ),
    "rollout-stable-down": (
        names.ROLLOUT_STABLE_DOWN,
        {"cluster": "data"},
        1.0,
        "stable of data does not serve, the candidate takes everything",
    ),
    "agent-given-up": (names.AGENT_GIVEN_UP, {}, 1.0, "the agent was given up: manual intervention is required"),
}


@pytest.mark.parametrize("name", GAUGES)
async def test_what_is_told_at_once(stage: Stage, name: str) -> None:
    metric, labels, bad, said = GAUGES[name]
    gauge = stage.metrics.gauge(metric, **labels)
    found = await held(stage, name, lambda: gauge.set(bad), lambda: gauge.set(0), 0)
    assert found == said


async def test_a_certificate_ends(stage: Stage) -> None:
    week = 7 * 86_400
    ends = stage.metrics.gauge(names.CERTIFICATE_EXPIRY, file="orders.crt")

    def left(seconds: float) -> Callable[[], None]:
        return lambda: ends.set(stage.clock.wall() + seconds)

    found = await held(stage, "certificate-ends", left(week - 3600), left(90 * 86_400), 0)
    assert found == "the certificate orders.crt ends in 6.96 days"


async def test_the_store_is_lost(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = False

    async def ping() -> None:
        if lost:
            raise StoreUnavailable("unreachable", "redis://secret@host")

    monkeypatch.setattr(stage.store, "ping", ping)

    def set_lost(is_lost: bool) -> Callable[[], None]:
        def do() -> None:
            nonlocal lost
            lost = is_lost

        return do

    assert await held(stage, "store-lost", set_lost(True), set_lost(False), 30) == "the store gives no answer"


async def test_the_audit_log_drops(stage: Stage) -> None:
    dropped = stage.metrics.counter(names.AUDIT_DROPPED, sink="file:audit.jsonl")
    found = await held(stage, "audit-dropping", lambda: dropped.inc(3), lambda: None, 0)
    assert found == "3 records of the audit log file:audit.jsonl were dropped"


def test_every_built_in_rule_is_tested_here() -> None:
    tested = {"error-rate", "slow", "cpu", "memory", "certificate-ends", "store-lost", "audit-dropping", *GAUGES}
    assert tested == {rule.name for rule in BUILT_IN}


# ── own rules, reload ──


async def test_an_own_rule_on_any_metric(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rule = {"name": "late", "metric": "sidecar_loop_lag_seconds", "above": "250ms", "for": "10s", "severity": "notice"}
    stage = Stage(monkeypatch, tmp_path, rules=[rule])
    lag = 0.0
    stage.metrics.read(names.LOOP_LAG, lambda: [((), lag)])
    lag = 0.4
    await stage.past(20)
    assert stage.told == ["firing late"]
    assert stage.inbox.messages[0][0].summary == "sidecar_loop_lag_seconds is 400 ms"


async def test_built_in_rules_are_replaced_or_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rule = {"name": "breaker-open", "metric": "breaker_open", "above": 1, "for": "1m", "severity": "critical"}
    stage = Stage(monkeypatch, tmp_path, rules=[rule], without=["memory"])
    shown = {each["name"]: each for each in stage.alerts.view()["rules"]}
    assert "memory" not in shown
    assert shown["breaker-open"] == {
        "name": "breaker-open",
        "rule": "breaker_open above 1 for 1m",
        "severity": "critical",
        "state": "ok",
    }


async def test_a_reload_keeps_what_fires_and_ends_what_has_lost_its_rule(stage: Stage) -> None:
    stage.metrics.gauge(names.AGENT_GIVEN_UP).set(1)
    stage.metrics.gauge(names.ROLLOUT_ROLLED_BACK, cluster="data").set(1)
    await stage.past(10)
    assert sorted(stage.firing) == ["agent-given-up", "rollout-rolled-back"]
    stage.alerts.adopt(alerts_config(**stage.config, without=["rollout-rolled-back"]), "orders-1")
    await stage.past(10)
    assert stage.firing == ["agent-given-up"]
    assert stage.told == ["firing rollout-rolled-back", "firing agent-given-up", "resolved rollout-rolled-back"]
    assert "as its rule has changed" in stage.inbox.messages[-1][-1].summary


async def test_what_is_owed_goes_out_when_the_process_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stage = Stage(monkeypatch, tmp_path, group_wait="1h")
    stage.metrics.gauge(names.AGENT_GIVEN_UP).set(1)
    stage.alerts.stop()
    assert stage.told == []
    for close in stage.runtime.closers:
        await asyncio.to_thread(close)
    assert stage.told == ["firing agent-given-up"]
    assert stage.clock.timers == []


async def test_one_that_is_started_again_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Killed while two alerts fire: nobody is told of them again, but of the end of the one that is over meanwhile."""
    first = Stage(monkeypatch, tmp_path)
    first.metrics.gauge(names.ROLLOUT_ROLLED_BACK, cluster="data").set(1)
    first.metrics.gauge(names.BREAKER_STATE, cluster="data", endpoint="e:1").set(2)
    await first.past(60)
    assert sorted(first.told) == ["firing breaker-open", "firing rollout-rolled-back"]
    began = {each["name"]: each["began"] for each in first.alerts.view()["firing"]}
    second = Stage(monkeypatch, tmp_path, store=first.store)
    second.metrics.gauge(names.ROLLOUT_ROLLED_BACK, cluster="data").set(1)
    await second.past(120)
    assert second.told == ["resolved breaker-open"]
    assert {each["name"]: each["began"] for each in second.alerts.view()["firing"]} == {
        "rollout-rolled-back": began["rollout-rolled-back"]
    }
    # And the third one has heard of that.
    third = Stage(monkeypatch, tmp_path, store=first.store)
    await third.past(120)
    assert third.told == ["resolved rollout-rolled-back"]
    assert Stage(monkeypatch, tmp_path, store=first.store).firing == []


async def test_a_store_that_is_lost_keeps_nobody_from_looking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = MemoryStore(FakeClock())
    await store.close()
    stage = Stage(monkeypatch, tmp_path, store=store)
    stage.metrics.gauge(names.AGENT_GIVEN_UP).set(1)
    await stage.past(60)
    assert sorted(stage.told) == ["firing agent-given-up", "firing store-lost"]


async def test_a_worker_judges_and_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    runtime = fake_runtime(clock, worker=2)
    monkeypatch.setattr(module, "sender_of", lambda *_: pytest.fail("a worker has no receivers"))
    alerts = Alerts(runtime, hand_of=Hands().of)
    alerts.adopt(alerts_config(send=[{"webhook": "http://receiver.example/"}]), "orders-1")
    runtime.metrics.gauge(names.AGENT_GIVEN_UP).set(1)
    alerts.look()
    assert [each["name"] for each in alerts.view()["firing"]] == ["agent-given-up"]
    assert alerts.view()["receivers"] == []
    # Its parent shows them.
    assert runtime.metrics.samples(names.ALERTS_FIRING) == {}


async def test_they_are_counted(stage: Stage) -> None:
    stage.metrics.gauge(names.AGENT_GIVEN_UP).set(1)
    await stage.past(10)
    counts = stage.metrics.samples(names.ALERTS_FIRING)
    assert counts["agent-given-up", "critical"] == 1
    assert counts["cpu", "warning"] == 0
    assert stage.metrics.samples(names.ALERT_NOTIFICATIONS)["webhook", "sent"] == 1


async def test_a_defect_of_a_look_is_told_and_the_next_look_comes(stage: Stage) -> None:
    def fail() -> list[tuple[tuple[str, ...], float]]:
        raise RuntimeError("a reader is broken")

    stage.metrics.read(names.BREAKER_STATE, fail, "broken")
    await stage.past(10)
    stage.metrics.read(names.BREAKER_STATE, lambda: [(("data", "a:1"), 2.0)], "broken")
    await stage.past(10)
    assert stage.metrics.defects["alerts"] >= 1
    assert stage.firing == ["breaker-open"]


async def test_each_receiver_has_a_thread_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One never comes back; the other one is told all the same, and the loop goes on."""
    stuck, told, gate = threading.Event(), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    class Stuck(Inbox):
        def send(self, alerts: Sequence[Alert]) -> None:
            stuck.set()
            gate.wait(30)

    class Told(Inbox):
        def send(self, alerts: Sequence[Alert]) -> None:
            stuck.wait(30)
            super().send(alerts)
            loop.call_soon_threadsafe(told.set)

    senders = {"slack": Stuck(), "webhook": Told()}
    monkeypatch.setattr(module, "sender_of", lambda receiver, node: senders[receiver.kind])
    clock = FakeClock()
    runtime = fake_runtime(clock)
    alerts = Alerts(runtime)
    both = [{"slack": "http://receiver.example/"}, {"webhook": "http://receiver.example/"}]
    alerts.adopt(alerts_config(send=both, group_wait="0s", without=["memory"]), "orders-1")
    runtime.metrics.gauge(names.AGENT_GIVEN_UP).set(1)
    alerts.look()
    clock.advance(1)
    try:
        async with asyncio.timeout(20):
            await told.wait()
    finally:
        gate.set()
    assert senders["webhook"].said == [["firing agent-given-up"]]


async def test_a_system_without_threads_is_a_receiver_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "sender_of", lambda receiver, node: Inbox())
    clock = FakeClock()
    runtime = fake_runtime(clock)
    alerts = Alerts(runtime)
    alerts.adopt(alerts_config(send=[{"slack": "http://receiver.example/"}], group_wait="0s"), "orders-1")
    runtime.metrics.gauge(names.AGENT_GIVEN_UP).set(1)
    alerts.look()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        clock.advance(1)
    await asyncio.sleep(0)
    assert alerts.view()["receivers"][0]["problem"] == "RuntimeError"
    assert alerts.view()["receivers"][0]["owed"] == 1


# ── the test alert ──


async def test_a_test_is_sent_and_said(stage: Stage) -> None:
    assert await asyncio.to_thread(stage.alerts.test) == [
        {"receiver": "webhook", "kind": "webhook", "delivered": True, "problem": None}
    ]
    assert stage.told == ["firing test"]
    assert stage.inbox.messages[0][0].is_test


async def test_a_test_of_what_opens_incidents_closes_it_again(stage: Stage) -> None:
    stage.inbox.batch = 1
    await asyncio.to_thread(stage.alerts.test)
    assert stage.told == ["firing test", "resolved test"]


async def test_a_test_that_fails_says_why(stage: Stage) -> None:
    stage.inbox.error = NotDelivered("HTTP status 404", is_final=True)
    assert (await asyncio.to_thread(stage.alerts.test))[0]["problem"] == "HTTP status 404"
    stage.inbox.error = OSError(111, "Connection refused")
    assert (await asyncio.to_thread(stage.alerts.test))[0]["problem"] == "Connection refused"
    stage.inbox.error = ValueError("https://secret.example")
    assert (await asyncio.to_thread(stage.alerts.test))[0]["problem"] == "ValueError"


async def test_an_unknown_receiver_and_a_second_test_are_refused(stage: Stage) -> None:
    with pytest.raises(LookupError, match="no receiver is called 'pager'; known: webhook"):
        stage.alerts.test("pager")

    def send_again(_: object) -> None:
        with pytest.raises(TestRuns):
            stage.alerts.test()

    stage.inbox.send = send_again  # type: ignore[method-assign,assignment]
    assert (await asyncio.to_thread(stage.alerts.test))[0]["delivered"] is True
