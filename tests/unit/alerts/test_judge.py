"""Time in alerts: pending, firing, over; what comes and goes is no news."""

from __future__ import annotations

import pytest

from sidecar.alerts.config import RuleConfig
from sidecar.alerts.judge import KEPT, Judge
from sidecar.alerts.measures import Measures
from sidecar.telemetry import names
from sidecar.telemetry.metrics import Metrics


class Bench:
    """A judge of one gauge with as many subjects as asked for."""

    def __init__(self, **rule: object) -> None:
        self.values: dict[str, float] = {}
        metrics = Metrics()
        metrics.read(names.ROLLOUT_ROLLED_BACK, lambda: [((name,), value) for name, value in self.values.items()])
        self.judge = Judge(Measures(metrics))
        self.now = 1000.0
        self.rule(**rule)

    def rule(self, **fields: object) -> list[str]:
        whole = {"name": "r", "metric": "rollout_rolled_back", "above": 0, "for": 60.0, "resolve_after": 30.0, **fields}
        ended = self.judge.adopt([RuleConfig.model_validate(whole)], "node", self.now)
        return [each.state for each in ended]

    def at(self, now: float, **values: float) -> list[str]:
        self.now, self.values = now, values
        return [f"{each.state} {dict(each.labels)['cluster']}" for each in self.judge.look(now, 1e9 + now)]

    @property
    def state(self) -> str:
        return str(self.judge.rules()[0]["state"])


def test_wrong_for_long_enough() -> None:
    bench = Bench()
    assert bench.at(0, a=1) == []
    assert bench.state == "pending"
    assert bench.at(59, a=1) == []
    assert bench.at(60, a=1) == ["firing a"]
    assert bench.state == "firing"
    assert bench.at(65, a=1) == [], "told once"
    assert bench.judge.firing()[0].began == 1e9, "since it has been wrong"


def test_what_is_right_in_between_begins_anew() -> None:
    bench = Bench()
    bench.at(0, a=1)
    assert bench.at(55, a=0) == []
    assert bench.state == "ok"
    assert bench.at(60, a=1) == []
    assert bench.at(115, a=1) == []
    assert bench.at(120, a=1) == ["firing a"]


def test_right_for_long_enough() -> None:
    bench = Bench(**{"for": 0.0})
    assert bench.at(0, a=1) == ["firing a"]
    assert bench.at(10, a=0) == []
    assert bench.at(39, a=0) == []
    assert bench.at(40, a=0) == ["resolved a"]
    assert bench.state == "ok"
    assert bench.judge.history[-1].summary == "the rollout of a was rolled back: over after 40 s"


def test_wrong_again_before_it_is_over_is_the_same_alert() -> None:
    bench = Bench(**{"for": 0.0})
    bench.at(0, a=1)
    for now in range(10, 1000, 20):
        assert bench.at(now, a=0) == []
        assert bench.at(now + 10, a=1) == []
    assert len(bench.judge.history) == 1


def test_a_subject_that_is_gone_is_right() -> None:
    bench = Bench(**{"for": 0.0})
    bench.at(0, a=1, b=1)
    assert bench.at(10, b=1) == []
    assert bench.at(40, b=1) == ["resolved a"]
    assert [each.key for each in bench.judge.firing()] == ["sidecar/node/r/b"]


def test_each_subject_has_its_own_time() -> None:
    bench = Bench()
    bench.at(0, a=1)
    bench.at(30, a=1, b=1)
    assert bench.at(60, a=1, b=1) == ["firing a"]
    assert bench.at(90, a=1, b=1) == ["firing b"]


def test_the_value_of_now_is_shown() -> None:
    bench = Bench(**{"for": 0.0})
    bench.at(0, a=1)
    bench.at(5, a=3)
    assert bench.judge.firing()[0].value == 3.0


def test_below() -> None:
    bench = Bench(above=None, below=1, **{"for": 0.0})
    assert bench.at(0, a=0.5, b=1) == ["firing a"]


def test_no_number_is_not_wrong() -> None:
    bench = Bench(**{"for": 0.0})
    assert bench.at(0, a=float("nan")) == []
    assert bench.state == "ok"


def test_a_hundred_subjects_are_no_hundred_alerts() -> None:
    bench = Bench(**{"for": 0.0})
    many = {f"c{i:03}": float(i + 1) for i in range(100)}
    fired = bench.at(0, **many)
    assert len(fired) == 25
    assert "firing c099" in fired, "the worst"
    # Those that stand stay, whoever is worse later.
    assert bench.at(5, **{**many, "c000": 1000.0}) == []


@pytest.mark.parametrize("change", [{"above": 0.5}, {"name": "other"}, {"severity": "critical"}])
def test_a_rule_that_has_changed_ends_its_alerts(change: dict[str, object]) -> None:
    bench = Bench(**{"for": 0.0})
    bench.at(0, a=1)
    assert bench.rule(**{"for": 0.0}) == [], "the same rule goes on"
    assert len(bench.judge.firing()) == 1
    assert bench.rule(**{"for": 0.0, **change}) == ["resolved"]
    assert bench.judge.firing() == []


def test_what_was_is_bounded() -> None:
    bench = Bench(**{"for": 0.0}, resolve_after=0.0)
    for now in range(300):
        bench.at(now, a=now % 2)
    assert len(bench.judge.history) == KEPT
