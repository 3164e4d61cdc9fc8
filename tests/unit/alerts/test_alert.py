"""What is said of an alert."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.alerts.alert import Alert, condition, key_of, said_duration, said_time, summary
from sidecar.alerts.config import RuleConfig

ALERT = Alert(
    key="sidecar/orders-1/slow/inbound",
    name="slow",
    severity="critical",
    summary="too slow",
    rule="latency_p99 above 5s",
    labels=(("listener", "inbound"),),
    value=6.0,
    node="orders-1",
    began=1_800_000_000.0,
)


def rule(**fields: object) -> RuleConfig:
    return RuleConfig.model_validate({"name": "r", "metric": "error_rate", "above": 0.05, **fields})


def test_it_fires_until_it_has_ended() -> None:
    assert (ALERT.is_firing, ALERT.state) == (True, "firing")
    assert ALERT.title == "[critical] orders-1: too slow"
    ended = replace(ALERT, ended=1.0)
    assert (ended.is_firing, ended.state) == (False, "resolved")
    assert ended.title == "[resolved] orders-1: too slow"
    assert ended.as_dict()["labels"] == {"listener": "inbound"}


def test_a_key_is_the_same_for_the_same_thing_and_short() -> None:
    subject = (("cluster", "data"), ("endpoint", "10.0.0.5:8443"))
    assert key_of("orders-1", "breaker-open", subject) == "sidecar/orders-1/breaker-open/data/10.0.0.5:8443"
    long, other = (key_of("n", "r", (("file", "/" + "x" * 300 + end),)) for end in "ab")
    assert len(long) <= 255
    assert long != other


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"for": "5m"}, "error_rate above 0.05 for 5m"),
        ({"listener": "inbound", "route": "all"}, "error_rate of listener inbound of route all above 0.05"),
        ({"metric": "certificate_left", "above": None, "below": "168h"}, "certificate_left below 168h"),
    ],
)
def test_the_condition_in_the_words_of_the_file(given: dict[str, object], said: str) -> None:
    assert condition(rule(**given)) == said


def test_the_summary_names_every_label() -> None:
    assert summary(rule(), (("listener", "inbound"),), 0.123456) == "12.3 % of the RPCs fail (listener inbound)"
    own = rule(metric="sidecar_cluster_rpcs_pending", above=10)
    assert summary(own, (("cluster", "data"),), 12.0) == "sidecar_cluster_rpcs_pending is 12 (cluster data)"
    braces = rule(metric="breaker_open", above=0)
    subject = (("cluster", "{value}"), ("endpoint", "a:1"))
    assert summary(braces, subject, 1.0) == "the circuit of a:1 in cluster {value} is open"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.25, "250 ms"),
        (0.9996, "1000 ms"),
        (5.0, "5 s"),
        (90.0, "90 s"),
        (600.0, "10 min"),
        (86_400.0, "24 h"),
        (604_800.0, "7 days"),
        (-3600.0, "−60 min"),
    ],
)
def test_durations_for_people(seconds: float, said: str) -> None:
    assert said_duration(seconds) == said


def test_times_for_people() -> None:
    assert said_time(1_800_000_000.4) == "2027-01-15T08:00:00Z"
