"""How alerts are printed."""

from __future__ import annotations

from typing import Any

import click

from sidecar.cli.alerts import lines

FIRES = {
    "name": "slow",
    "severity": "critical",
    "state": "firing",
    "summary": "1 % of the RPCs take longer than 7 s (listener inbound)",
    "began": 1_800_000_000.0,
    "ended": None,
}
FOUND: dict[str, Any] = {
    "firing": [FIRES],
    "history": [FIRES],
    "rules": [{"name": "slow", "rule": "latency_p99 above 5s for 5m", "severity": "critical", "state": "firing"}],
    "receivers": [{"name": "oncall", "problem": "HTTP status 500"}],
}
FIRING = "✕ slow  critical since 2027-01-15T08:00:00Z  1 % of the RPCs take longer than 7 s (listener inbound)"


def shown(found: dict[str, Any], *, everything: bool = False) -> list[str]:
    return [click.unstyle(each) for each in lines(found, everything=everything)]


def test_what_fires_and_who_does_not_hear_of_it() -> None:
    assert shown(FOUND) == [FIRING, "▲ oncall is not reached: HTTP status 500"]


def test_everything() -> None:
    ended = {**FIRES, "state": "resolved", "ended": 1_800_000_600.0, "summary": "over after 10 min"}
    assert shown({**FOUND, "firing": [], "history": [ended]}, everything=True) == [
        "● nothing fires, of 1 rules",
        "▲ oncall is not reached: HTTP status 500",
        "",
        "  slow  firing   critical  latency_p99 above 5s for 5m",
        "",
        "● slow  ended 2027-01-15T08:10:00Z  over after 10 min",
    ]


def test_that_nobody_is_told_is_said() -> None:
    assert shown({**FOUND, "receivers": []})[-1] == "nobody is told: the configuration has no alerts.send"
