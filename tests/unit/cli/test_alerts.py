"""How alerts are printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from sidecar.cli.alerts import lines
from sidecar.cli.main import sidecar

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


def test_check_reads_what_receivers_need(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("https://hooks.example/secret")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "sidecar.yaml").write_text(
        """
listeners:
  - {name: a, direction: outbound, bind: "127.0.0.1:0", routes: [{name: all, match: {method: "/*"}, to: local}]}
clusters: {local: {endpoints: ["127.0.0.1:1"]}}
alerts:
  send:
    - {slack_file: url}
    - {name: oncall, pagerduty_file: missing}
    - {email: {smtp: "mail.example:587", to: [a@b], username: u, password_file: empty}}
"""
    )
    found = CliRunner().invoke(sidecar, ["check", "-c", str(tmp_path / "sidecar.yaml"), "-o", "json"])
    checked = {
        each["name"]: (each["result"], each["hint"]) for each in json.loads(found.stdout) if each["group"] == "alerts"
    }
    assert checked == {
        "receiver slack": ("ok", ""),
        "receiver oncall": ("failed", f"{tmp_path}/missing cannot be read: No such file or directory"),
        "receiver email": ("failed", f"{tmp_path}/empty is empty"),
    }
    assert "secret" not in found.stdout
