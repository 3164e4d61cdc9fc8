"""The commands that need no running sidecar: what they print, and with which exit code they leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sidecar import __version__
from sidecar.cli.main import sidecar
from tests.support.pki import Pki

GOOD = """
listeners:
  - name: inbound
    direction: inbound
    bind: 127.0.0.1:8443
    routes: [{name: all, match: {method: "/agent.v1.AgentService/*"}, to: local}]
    policies:
      authz:
        deny: [{name: no-tests, from: {metadata: {x-tenant: "test-*"}}, methods: ["/*"]}]
        allow: [{name: mesh, from: {identities: ["spiffe://mesh.local/agent/*"]}, methods: ["/agent.v1.AgentService/*"]}]
      rate_limit: [{name: per-caller, rate: 10/1m, per: [identity]}]
clusters:
  local: {endpoints: ["127.0.0.1:1"]}
"""
METHOD = "/agent.v1.AgentService/Execute"
CALLER = "spiffe://mesh.local/agent/orders"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sidecar.yaml"
    path.write_text(GOOD)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(sidecar, [str(each) for each in arguments])


@pytest.mark.parametrize(
    "command", ["run", "validate", "check", "schema", "explain", "certs", "alerts", "demo", "version"]
)
def test_every_command_teaches_itself(command: str) -> None:
    listed = run("--help").stdout
    assert command in listed
    shown = run(command, "--help")
    assert shown.exit_code == 0
    assert "Examples:" in shown.stdout or command == "certs"


def test_an_unknown_command_is_wrong_usage() -> None:
    assert run("frobnicate").exit_code == 2


def test_version() -> None:
    shown = run("version").stdout
    assert shown.startswith(f"sidecar {__version__}\npython ")
    assert "grpcio " in shown


def test_schema_is_json_and_knows_the_policies() -> None:
    schema = json.loads(run("schema").stdout)
    assert schema["$schema"].startswith("http://json-schema.org/draft-07")
    assert "rate_limit" in json.dumps(schema)


def test_validate_says_what_is_there(config: Path) -> None:
    result = run("validate", "-c", config)
    assert result.exit_code == 0
    assert "1 listeners, 1 clusters" in result.stdout


def test_validate_tells_every_problem_with_its_line(config: Path) -> None:
    config.write_text(GOOD.replace("to: local", "to: locl").replace("direction: inbound", "direction: sideways"))
    result = run("validate", "-c", config)
    assert result.exit_code == 1
    assert result.stdout == ""
    problems = result.stderr.splitlines()
    assert [line.split(":")[1] for line in problems[:-1]] == ["4", "6"] or len(problems) >= 2
    assert "did you mean `local`" in result.stderr or "sideways" in result.stderr
    assert problems[-1].endswith(f"in {config}")


def test_validate_reads_the_files_that_are_named(config: Path, tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    leaf, other = pki.leaf("a"), pki.leaf("b")
    config.write_text(
        GOOD.replace(
            "    bind: 127.0.0.1:8443\n",
            "    bind: 127.0.0.1:8443\n"
            f"    tls: {{certificate: {leaf.certificate}, private_key: {other.private_key}, trusted_ca: {leaf.ca}}}\n",
        )
    )
    result = run("validate", "-c", config)
    assert result.exit_code == 1
    assert "sidecar.yaml:6:" in result.stderr
    assert "private_key" in result.stderr


def test_a_missing_file_is_no_traceback(tmp_path: Path) -> None:
    result = run("validate", "-c", tmp_path / "nowhere.yaml")
    assert result.exit_code == 1
    assert "nowhere.yaml" in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)


# ── explain ──


def explain(config: Path, *arguments: object) -> Result:
    return run("explain", "-c", config, "--listener", "inbound", *arguments)


def test_explain_names_route_and_rule(config: Path) -> None:
    result = explain(config, "--method", METHOD, "--identity", CALLER, "--metadata", "x-tenant=acme")
    assert result.exit_code == 0
    assert "all → local" in result.stdout
    assert "rule mesh" in result.stdout
    assert result.stdout.rstrip().endswith("allowed")


def test_explain_a_refusal(config: Path) -> None:
    result = explain(config, "--method", METHOD, "--identity", CALLER, "--metadata", "x-tenant=test-1", "-o", "json")
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert not found["allowed"]
    assert found["reason"] == "DENIED_BY_RULE"
    assert [step["policy"] for step in found["steps"]][-1] == "authz"


@pytest.mark.parametrize(
    ("method", "reason"),
    [("/other.Service/Do", "NO_ROUTE"), ("//x", "METHOD_UNKNOWN"), (METHOD + "/", "METHOD_UNKNOWN")],
)
def test_explain_what_has_no_route(config: Path, method: str, reason: str) -> None:
    result = explain(config, "--method", method, "--identity", CALLER, "-o", "json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["reason"] == reason


def test_explain_takes_nothing(config: Path) -> None:
    for _ in range(30):
        assert explain(config, "--method", METHOD, "--identity", CALLER, "--metadata", "x-tenant=a").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--method", METHOD, "--metadata", "novalue"),
        ("--method", METHOD, "--jwt-claims", "{"),
        ("--method", METHOD, "--jwt-claims", "1"),
        (),
    ],
)
def test_explain_wrong_usage(config: Path, arguments: tuple[str, ...]) -> None:
    assert explain(config, *arguments).exit_code == 2


def test_explain_an_unknown_listener(config: Path) -> None:
    result = run("explain", "-c", config, "--listener", "outbound", "--method", METHOD)
    assert result.exit_code == 1
    assert "there is inbound" in result.stderr


def test_replay_lists_what_a_new_file_would_change(config: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    records = [
        {"listener": "inbound", "method": METHOD, "identity": CALLER, "decision": "allow", "rule": "mesh"},
        {"listener": "inbound", "method": METHOD, "identity": CALLER, "decision": "allow", "rule": "mesh"},
        {
            "listener": "inbound",
            "method": METHOD,
            "identity": "spiffe://other/x",
            "decision": "deny",
            "rule": "default",
        },
        {"listener": "gone", "method": METHOD, "identity": CALLER, "decision": "allow"},
        {"kind": "checkpoint"},
    ]
    log.write_text("\n".join(map(json.dumps, records)) + "\nnot json\n")
    undecidable = run("explain", "-c", config, "--replay", log)
    assert undecidable.exit_code == 0
    assert "0 recorded calls judged" in undecidable.stderr
    config.write_text(
        GOOD.replace('deny: [{name: no-tests, from: {metadata: {x-tenant: "test-*"}}, methods: ["/*"]}]', "deny: []")
    )
    same = run("explain", "-c", config, "--replay", log)
    assert same.exit_code == 0
    assert "3 recorded calls judged, 0 would change" in same.stderr
    config.write_text(config.read_text().replace("agent/*", "agent/billing"))
    changed = run("explain", "-c", config, "--replay", log, "-o", "json")
    assert changed.exit_code == 3
    found = json.loads(changed.stdout)
    assert (found["judged"], found["skipped"]) == (3, 3)
    assert [(each["before"], each["after"], each["count"]) for each in found["changes"]] == [("allow", "deny", 2)]


# ── check ──


def test_check_finds_what_is_missing(config: Path) -> None:
    result = run("check", "-c", config, "-o", "json")
    assert result.exit_code == 1
    found = {(each["group"], each["result"]) for each in json.loads(result.stdout)}
    assert ("configuration", "ok") in found
    assert ("upstreams", "failed") in found


def test_check_needs_something_to_look_at() -> None:
    assert run("check").exit_code == 2
    assert run("check", "-c", "x", "--wait", "soon").exit_code == 2
