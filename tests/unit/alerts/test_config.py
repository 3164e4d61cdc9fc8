"""The `alerts:` section: what is allowed, what is refused and how that is said, and that its secrets stay secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidecar.alerts.config import BUILT_IN, AlertsConfig
from sidecar.config.load import load
from sidecar.config.problems import ConfigError
from sidecar.config.redaction import redacted
from sidecar.config.schema import json_schema

FILE = """
listeners:
  - {{name: inbound, direction: inbound, bind: "127.0.0.1:0", routes: [{{name: all, match: {{method: "/*"}}, to: local}}]}}
clusters: {{local: {{endpoints: ["127.0.0.1:50051"]}}}}
alerts:
{alerts}
"""
OF_THE_CONTRACT = """
  rules:
    - {name: error-rate, metric: error_rate, above: 0.05, for: 5m, severity: critical}
    - {name: slow, metric: latency_p99, above: 5s, for: 5m, severity: critical}
    - {name: cpu, metric: cpu_usage, above: 0.9, for: 10m, severity: warning}
    - {name: memory, metric: memory_usage, above: 0.9, for: 10m, severity: warning}
  send:
    - {webhook: "${HOOK}"}
    - {slack: "https://hooks.slack.example/T0/secret-of-slack"}
    - {pagerduty: secret-routing-key}
    - {email: {smtp: "mail.example:587", to: [ops@example.org], username: me, password: secret-password}}
"""


def read(tmp_path: Path, alerts: str) -> AlertsConfig:
    path = tmp_path / "sidecar.yaml"
    path.write_text(FILE.format(alerts=alerts))
    found: AlertsConfig = load(path, environ={"HOOK": "https://hook.example/secret-hook"}).root.alerts
    return found


def problem(tmp_path: Path, alerts: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, alerts)
    return str(caught.value)


def test_the_section_of_the_contract(tmp_path: Path) -> None:
    found = read(tmp_path, OF_THE_CONTRACT)
    effective = {rule.name: rule for rule in found.effective()}
    for name in ("error-rate", "slow", "cpu", "memory"):
        # They say what is built in.
        built_in = next(rule for rule in BUILT_IN if rule.name == name)
        assert effective[name] == built_in
    assert set(effective) == {rule.name for rule in BUILT_IN}
    assert [*found.receivers()] == ["webhook", "slack", "pagerduty", "email"]


def test_no_secret_is_ever_shown(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.yaml"
    path.write_text(FILE.format(alerts=OF_THE_CONTRACT))
    loaded = load(path, environ={"HOOK": "https://hook.example/secret-hook"})
    shown = json.dumps(redacted(loaded.root)) + repr(loaded.root) + str(loaded.root.alerts.receivers())
    assert "secret-" not in shown
    assert "ops@example.org" in shown


def test_rules_are_replaced_left_out_and_added(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
  without: [cpu]
  rules:
    - {name: slow, metric: latency_p99, above: 1s, listener: inbound}
    - {name: queue, metric: sidecar_cluster_rpcs_pending, above: 100, labels: {cluster: local}}
""",
    )
    effective = {rule.name: rule for rule in found.effective()}
    assert "cpu" not in effective
    assert effective["slow"].bound == 1.0
    assert effective["queue"].labels == {"cluster": "local"}
    assert list(effective)[-1] == "queue"


def test_receivers_without_a_name_are_told_apart(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "\n  send: [{pagerduty: k1}, {pagerduty: k2}, {name: pagerduty-3, slack_file: s}, {pagerduty: k3}]",
    )
    assert [*found.receivers()] == ["pagerduty", "pagerduty-2", "pagerduty-3", "pagerduty-4"]


@pytest.mark.parametrize(
    ("alerts", "said"),
    [
        (
            "rules: [{name: a, metric: eror_rate, above: 1}]",
            "alerts.rules.0.metric: `eror_rate` is no metric; allowed: error_rate",
        ),
        ("rules: [{name: a, metric: sidecar_rpc_duration_seconds, above: 1}]", "is a histogram; allowed: latency_p50"),
        ("rules: [{name: a, metric: error_rate}]", "and below: give one of them"),
        ("rules: [{name: a, metric: error_rate, above: 0.1, below: 0.2}]", "and below: give one of them"),
        ("rules: [{name: a, metric: error_rate, above: 5s}]", "does not fit error_rate; allowed: a number"),
        ("rules: [{name: a, metric: error_rate, above: 5}]", "is no share; allowed: 0 to less than 1"),
        (
            "rules: [{name: a, metric: latency_p99, above: 5}]",
            "does not fit latency_p99; allowed: a duration, such as 5s",
        ),
        ("rules: [{name: a, metric: latency_p99, above: 10s}]", "latencies are counted up to 10s"),
        ("rules: [{name: a, metric: latency_p99, above: often}]", "is not a duration"),
        ("rules: [{name: a, metric: error_rate, above: true}]", "is no bound; write a number"),
        (
            "rules: [{name: a, metric: cpu_usage, above: 0.5, listener: inbound}]",
            "listener: `inbound` says nothing of cpu_usage",
        ),
        ("rules: [{name: a, metric: error_rate, above: 0.5, listener: inbund}]", "is no listener; known: inbound"),
        ("rules: [{name: a, metric: error_rate, above: 0.5, route: some}]", "is no route there; known: all"),
        (
            "rules: [{name: a, metric: breaker_open, above: 0, labels: {host: a}}]",
            "is no label of breaker_open; allowed: cluster, endpoint",
        ),
        (
            "rules: [{name: a, metric: cpu_usage, above: 0.5}, {name: a, metric: cpu_usage, above: 0.6}]",
            "is the name of another rule",
        ),
        ("without: [cpus]", "is no built-in rule; allowed: agent-given-up"),
        ("send: [{name: x}]", "is missing, and so are slack, pagerduty, email; give one of them"),
        ('send: [{webhook: "http://a/", slack: "http://b/"}]', "stands beside webhook; give one of them"),
        ("send: [{webhook: ftp-server}]", "is no URL; it begins with https://"),
        ("send: [{pagerduty: k, headers: {a: b}}]", "headers: says nothing to pagerduty; allowed with webhook"),
        ('send: [{webhook: "http://a/", headers: {"a b": c}}]', "is no name of a field"),
        ("send: [{name: x, pagerduty: k}, {name: x, pagerduty: l}]", "is the name of another receiver"),
        ('send: [{email: {smtp: "m:25", to: [nobody]}}]', "send.0.email.to.0"),
        ('send: [{email: {smtp: "unix:/x", to: [a@b]}}]', "is no mail server; allowed: host:port"),
        ('send: [{email: {smtp: "m:25", to: [a@b], username: me}}]', "and password (or password_file) belong together"),
        (
            'send: [{email: {smtp: "m:25", to: [a@b], tls: off, username: me, password: p}}]',
            "sends the password in clear",
        ),
        (
            'send: [{email: {smtp: "m:25", to: [a@b], username: me, password: p, password_file: f}}]',
            "stands beside password",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, alerts: str, said: str) -> None:
    assert said in problem(tmp_path, f"  {alerts}")


def test_a_secret_that_is_wrong_is_not_repeated(tmp_path: Path) -> None:
    assert "of-slack" not in problem(tmp_path, "  send: [{slack: secret-of-slack}]")


def test_a_password_in_clear_may_stay_on_this_machine(tmp_path: Path) -> None:
    send = '  send: [{email: {smtp: "127.0.0.1:25", to: [a@b], tls: off, username: me, password: p}}]'
    assert read(tmp_path, send).receivers()["email"].kind == "email"


def test_editors_know_the_words() -> None:
    text = json.dumps(json_schema())
    for word in ("error_rate", "certificate_left", "group_wait", "pagerduty_file"):
        assert word in text
