"""From counters to values."""

from __future__ import annotations

import pytest

from sidecar.alerts.config import RuleConfig
from sidecar.alerts.measures import MEASURES, Measures, is_failure, measure_of, quantile
from sidecar.telemetry import names
from sidecar.telemetry.metrics import Metrics
from tests.support.alerts import Traffic


def rule(metric: str = "error_rate", **fields: object) -> RuleConfig:
    bound = "5s" if MEASURES.get(metric) is not None and measure_of(metric).is_duration else 0.05
    return RuleConfig.model_validate({"name": "r", "metric": metric, "above": bound, **fields})


class Numbers:
    """Measures for one rule, looked at every five seconds."""

    def __init__(self, asked: RuleConfig) -> None:
        self.metrics = Metrics()
        self.measures = Measures(self.metrics)
        self.asked = asked
        self.measures.adopt([asked])
        self.now = 1000.0
        self.look()

    def look(self, seconds: float = 5.0) -> None:
        self.now += seconds
        self.measures.look(self.now, 1e9)

    @property
    def values(self) -> dict[str, float]:
        found = self.measures.values(self.asked)
        return {"/".join(value for _, value in subject): round(value, 6) for subject, value in found.items()}


@pytest.mark.parametrize(
    ("code", "origin", "reason", "failed"),
    [
        ("OK", "agent", "", False),
        ("NotFound", "agent", "", False),
        ("Unavailable", "agent", "", True),
        ("DeadlineExceeded", "caller", "", False),
        ("Unavailable", "sidecar", "CIRCUIT_OPEN", True),
        ("Unavailable", "sidecar", "NO_ROUTE", False),
        ("ResourceExhausted", "sidecar", "RATE_LIMITED", False),
        ("PermissionDenied", "sidecar", "NO_RULE_ALLOWS", False),
    ],
)
def test_what_counts_as_failed(code: str, origin: str, reason: str, failed: bool) -> None:
    assert is_failure(code, origin, reason) is failed


def test_shares_are_those_of_the_window() -> None:
    numbers = Numbers(rule(over=10.0))
    traffic = Traffic(numbers.metrics)
    traffic.end(10, "Internal")
    numbers.look()
    assert numbers.values == {"inbound": 1.0}
    for _ in range(3):
        traffic.end(10)
        numbers.look()
    assert numbers.values == {"inbound": 0.0}


def test_each_listener_stands_for_itself() -> None:
    numbers = Numbers(rule())
    Traffic(numbers.metrics, "inbound", "a").end(10, "Internal")
    Traffic(numbers.metrics, "inbound", "b").end(30)
    Traffic(numbers.metrics, "outbound", "a").end(1000)
    numbers.look()
    assert numbers.values == {"inbound": 0.25, "outbound": 0.0}


def test_one_route_alone() -> None:
    numbers = Numbers(rule(listener="inbound", route="a"))
    Traffic(numbers.metrics, "inbound", "a").end(10, "Internal")
    Traffic(numbers.metrics, "inbound", "b").end(30)
    Traffic(numbers.metrics, "outbound", "a").end(1000)
    numbers.look()
    assert numbers.values == {"inbound/a": 1.0}


def test_too_few_say_nothing_until_there_are_enough_within_for() -> None:
    numbers = Numbers(rule(over=10.0, min_rpcs=5, **{"for": 60.0}))
    traffic = Traffic(numbers.metrics)
    for i in range(12):
        if i % 2 == 0:
            traffic.end(1, "Internal")
        numbers.look()
    assert numbers.values == {"inbound": 1.0}, "six within a minute, one within the window"
    for _ in range(11):
        numbers.look()
    assert numbers.values == {}, "and now too few within a minute"


def test_nothing_is_known_of_silence() -> None:
    numbers = Numbers(rule())
    Traffic(numbers.metrics)
    numbers.look()
    assert numbers.values == {}


def test_counters_that_fell_count_from_nothing() -> None:
    """A worker was replaced: what the others and the new one have counted is less than before."""
    numbers = Numbers(rule())
    traffic = Traffic(numbers.metrics)
    traffic.end(1000)
    numbers.look()
    traffic._ended.clear()
    traffic.histogram.counts = [0] * len(traffic.histogram.counts)
    traffic.end(10, "Internal")
    numbers.look()
    assert numbers.values == {"inbound": 1.0}


def test_latencies_as_prometheus_says_them() -> None:
    numbers = Numbers(rule("latency_p99"))
    traffic = Traffic(numbers.metrics)
    traffic.end(98, seconds=0.004)
    traffic.end(2, seconds=2.0)
    numbers.look()
    assert numbers.values == {"inbound": 1.75}


def test_increases() -> None:
    numbers = Numbers(rule("audit_dropped", above=0, over=10.0))
    counter = numbers.metrics.counter(names.AUDIT_DROPPED, sink="a")
    numbers.look()
    assert numbers.values == {"a": 0.0}
    counter.inc(3)
    numbers.look()
    assert numbers.values == {"a": 3.0}
    for _ in range(2):
        numbers.look()
    assert numbers.values == {"a": 0.0}


def test_gauges_and_their_labels() -> None:
    numbers = Numbers(rule("breaker_open", above=0, labels={"cluster": "b"}))
    for cluster, state in (("a", 2.0), ("b", 1.0)):
        numbers.metrics.gauge(names.BREAKER_STATE, cluster=cluster, endpoint="e:1").set(state)
    assert numbers.values == {"b/e:1": 1.0}


def test_time_that_is_left_and_what_is_absent() -> None:
    left = Numbers(rule("certificate_left", above=None, below="168h"))
    left.metrics.gauge(names.CERTIFICATE_EXPIRY, file="a.crt").set(1e9 + 3600)
    assert left.values == {"a.crt": 3600.0}
    lost = Numbers(rule("store_lost", above=0))
    assert lost.values == {}, "no store, no loss"
    lost.metrics.gauge(names.STORE_UP).set(1)
    assert lost.values == {"": 0.0}


def test_readings_are_bounded_however_long_the_window() -> None:
    numbers = Numbers(rule(over=3600.0))
    traffic = Traffic(numbers.metrics)
    for _ in range(2000):
        traffic.end(1)
        numbers.look()
    assert len(numbers.measures._kept) < 130
    assert numbers.values == {"inbound": 0.0}
    traffic.end(1000, "Internal")
    numbers.look()
    assert numbers.values["inbound"] > 0.5


def test_every_word_has_its_metric() -> None:
    for word, measure in MEASURES.items():
        assert measure_of(word) is measure
        assert measure.source.name.startswith("sidecar_")
    with pytest.raises(ValueError, match="is no metric; allowed: error_rate"):
        measure_of("cpu")


@pytest.mark.parametrize(
    ("counts", "share", "value"),
    [([0, 0, 0], 0.99, None), ([10, 0, 0], 0.5, 0.5), ([0, 10, 0], 0.5, 1.5), ([0, 0, 10], 0.5, 2.0)],
)
def test_quantiles(counts: list[int], share: float, value: float | None) -> None:
    assert quantile((1.0, 2.0), counts, share) == value
