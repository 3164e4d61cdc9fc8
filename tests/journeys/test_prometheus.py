"""Rules of Prometheus and the Grafana dashboard, held against the built-in alerts and against what a sidecar really shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from sidecar.alerts.config import BUILT_IN, RuleConfig
from sidecar.telemetry import names
from sidecar.telemetry.names import MetricName
from tests.support.pki import Pki
from tests.support.processes import ROOT, Sidecar

RULES = ROOT / "deploy/prometheus/alerts.yaml"
DASHBOARD = ROOT / "deploy/grafana/sidecar.json"
KNOWN = {each.name: each for each in vars(names).values() if isinstance(each, MetricName)}
OF_THE_PROCESS = {"process_resident_memory_bytes", "up"}
BORN_LATER = {
    # Series that exist once it has happened.
    "sidecar_rpcs_total",
    "sidecar_rpc_duration_seconds",
    "sidecar_recoveries_total",
    "sidecar_rollout_checks_total",
    "sidecar_overloaded_total",
    "sidecar_authz_decisions_total",
    "sidecar_attempts_total",
    "sidecar_idempotency_total",
    "sidecar_budget_left_ratio",
    "sidecar_store_errors_total",
    "sidecar_spans_total",
    # Two looks are needed for it.
    "sidecar_cpu_usage_ratio",
}
CONFIG = """
admin: {{bind: "127.0.0.1:0"}}
store: {{url: "sqlite:///{folder}/shared.db"}}
listeners:
  - name: inbound
    direction: inbound
    bind: "127.0.0.1:0"
    tls: {{certificate: {leaf.certificate}, private_key: {leaf.private_key}, trusted_ca: {leaf.ca}, client_certificate: require}}
    policies:
      authz: {{default: allow}}
      rate_limit: [{{name: all-callers, rate: 100/1s}}]
      concurrency_limit: {{max_in_flight: 100}}
      audit: {{sink: "file://{folder}/audit.jsonl", record: [calls]}}
    routes:
      - {{name: next, match: {{method: "/next.Service/*"}}, to: next}}
      - {{name: hedged, match: {{method: "/hedged.Service/*"}}, to: local, policies: {{hedge: {{max_attempts: 2, delay: 1s}}}}}}
      - {{name: all, match: {{method: "/*"}}, to: local, policies: {{retry: {{max_attempts: 2}}}}}}
clusters:
  local: {{endpoints: ["unix:{folder}/agent.sock"], circuit_breaker: {{}}}}
  next:
    versions: {{stable: {{endpoints: ["127.0.0.1:1"]}}, canary: {{endpoints: ["127.0.0.1:2"]}}}}
    rollout: {{strategy: canary, stable: stable, candidate: canary, steps: [10, 100], first_step_for: 1h}}
alerts: {{send: [{{pagerduty: key, url: "http://127.0.0.1:1/"}}]}}
"""


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What a sidecar with nearly everything configured shows, an agent aside: the names of the series, and their labels."""
    folder = tmp_path_factory.mktemp("prometheus")
    text = CONFIG.format(folder=folder, leaf=Pki(folder / "pki").leaf("server"))
    with Sidecar(text, folder) as sidecar:
        status, page = sidecar.get("/metrics")
    assert status == 200
    return {
        sample.name: {*sample.labels} for family in text_string_to_metric_families(page) for sample in family.samples
    }


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> list[tuple[str, str]]:
    """(where, expression) of all rules and panels."""
    found = [(rule["alert"], rule["expr"]) for rule in rules()]
    for panel in panels():
        found.extend((panel["title"], target["expr"]) for target in panel.get("targets", []))
    return found


def seconds(text: str) -> float:
    return float(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]


def metrics_of(expression: str) -> list[tuple[str, set[str]]]:
    """Every series that is named in an expression, with the labels it is chosen by."""
    found = []
    for name, labels in re.findall(r"\b((?:sidecar|process)_\w+|up)\b(?:\{([^}]*)\})?", expression):
        found.append((name, {*re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels)} - {"job", "instance"}))
    return found


# ── the rules ──


@pytest.mark.parametrize("built_in", BUILT_IN, ids=lambda rule: rule.name)
def test_each_built_in_alert_is_a_rule_with_the_same_content(built_in: RuleConfig) -> None:
    (rule,) = [each for each in rules() if each["labels"].get("rule") == built_in.name]
    comparison = re.search(r"([<>]) ([0-9.]+)$", rule["expr"])
    assert comparison is not None
    bound = float(comparison[2])
    if built_in.metric == "store_lost":
        assert (comparison[1], bound) == ("<", 1.0), "up, where ours is lost"
    else:
        assert comparison[1] == (">" if built_in.above is not None else "<")
        assert bound == built_in.bound
    assert seconds(rule.get("for", "0s")) == built_in.length
    assert seconds(rule["keep_firing_for"]) == built_in.resolve_after
    assert rule["labels"]["severity"] == built_in.severity
    assert rule["annotations"]["runbook"] == f"docs/alerts.md#{built_in.name}"
    source = built_in.measure.source
    assert source.name in {name.removesuffix("_bucket") for name, _ in metrics_of(rule["expr"])}


def test_every_rule_has_its_place_in_the_manual() -> None:
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^##+ (.+)$", (ROOT / "docs/alerts.md").read_text(), re.MULTILINE)
    }
    for rule in rules():
        assert rule["annotations"]["runbook"].partition("#")[2] in anchors


def promtool(*arguments: object, folder: Path = RULES.parent) -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: Debian package prometheus")
    done = subprocess.run(
        [found, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules() -> None:
    assert f"SUCCESS: {len(rules())} rules found" in promtool("check", "rules", RULES)


def test_prometheus_takes_the_configuration() -> None:
    assert "SUCCESS" in promtool("check", "config", RULES.with_name("prometheus.yaml"))


def test_the_rules_fire_when_they_should() -> None:
    promtool("test", "rules", RULES.with_name("alerts.test.yaml"))


# ── the dashboard ──


def test_prometheus_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    asked = [expr.replace("$__rate_interval", "5m") for title, expr in expressions()]
    group = {"name": "dashboard", "rules": [{"record": f"expr{i}", "expr": expr} for i, expr in enumerate(asked)]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    promtool("check", "rules", tmp_path / "rules.yaml")


def test_the_dashboard_is_whole() -> None:
    found = json.loads(DASHBOARD.read_text())
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    assert {each["name"] for each in found["templating"]["list"]} == {"datasource", "job", "instance", "listener"}
    taken: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}", panel["title"]


@pytest.mark.parametrize(("where", "expression"), expressions(), ids=lambda value: value[:30])
def test_every_metric_that_is_asked_for_exists(where: str, expression: str, families: dict[str, set[str]]) -> None:
    asked = metrics_of(expression)
    assert asked, where
    for name, labels in asked:
        family = re.sub(r"_(bucket|count|sum)$", "", name)
        assert family in KNOWN or name in OF_THE_PROCESS, f"{where}: {name} is no metric of ours"
        if family in KNOWN:
            assert labels <= {*KNOWN[family].labels}, f"{where}: {name} has no such labels"
            assert (name != family) == (KNOWN[family].kind == "histogram"), f"{where}: {name}"
        if name in families:
            assert labels <= families[name]
        else:
            assert family in BORN_LATER or family.startswith("sidecar_agent_") or name == "up", (
                f"{where}: {name} was not shown"
            )
    grouped = {each for part in re.findall(r"by \(([^)]*)\)", expression) for each in re.split(r",\s*", part)}
    known = {
        label
        for name, _ in asked
        for label in KNOWN.get(re.sub(r"_bucket$", "", name), MetricName("", "gauge", "")).labels
    }
    assert grouped <= known | {"job", "instance", "le"}, where


def test_every_built_in_alert_is_seen_on_the_dashboard() -> None:
    shown = {
        re.sub(r"_bucket$", "", name)
        for panel in panels()
        for target in panel.get("targets", [])
        for name, _ in metrics_of(target["expr"])
    }
    for rule in BUILT_IN:
        if rule.name not in {"agent-given-up", "rollout-stable-down"}:  # States; they are among the alerts that fire.
            assert rule.measure.source.name in shown, rule.name
    assert "sidecar_alerts_firing" in shown
