"""The command line, as far as no server is needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent_server.cli import main


@pytest.mark.parametrize("command", [[], ["run"], ["describe"], ["version"]])
def test_help_ends_in_examples(command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert "agent-server" in result.output


def test_describe_prints_schemas() -> None:
    result = CliRunner().invoke(main, ["describe", "--agent", "data"])
    described = json.loads(result.output)
    operations = {each["name"]: each for each in described["agents"][0]["operations"]}
    assert operations["query"]["input_schema"]["properties"]["sql"]["type"] == "string"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["describe", "--agent", "x"], 1, "no agent is named 'x'"),
        (["describe", "--agents", "nothing.here"], 1, "cannot import 'nothing.here'"),
        (["run", "--bind", "nonsense"], 2, "expected host:port or unix:/path"),
        (["run", "--bind", "0.0.0.0:1"], 2, "allow_remote"),
        (["run", "--agents", "nothing.here", "--bind", "127.0.0.1:0"], 1, "cannot import 'nothing.here'"),
        (["run", "--grace", "x"], 2, "--grace"),
        (["run", "-c", "/nowhere/a.yaml"], 2, "/nowhere/a.yaml: No such file"),
        (["run", "--database", "/nowhere/d.db", "--bind", "127.0.0.1:0"], 1, "/nowhere/d.db"),
        (["serve"], 2, "No such command"),
    ],
)
def test_errors_and_exit_codes(arguments: list[str], code: int, text: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, text in result.output) == (code, True), result.output


def test_the_environment_sets_options() -> None:
    result = CliRunner().invoke(main, ["run"], env={"AGENT_SERVER_BIND": "nonsense"})
    assert (result.exit_code, "'nonsense'" in result.output) == (2, True)


def test_version() -> None:
    assert CliRunner().invoke(main, ["version"]).output.startswith("agent-server 0.")


def test_workflow_files_are_checked_before_they_run(tmp_path: Path) -> None:
    good = "name: good\nsteps: [{id: a, tool: csv.read, with: {text: '{{ inputs.x }}'}}]\ninputs: {x: {}}\n"
    bad = (
        "name: bad\nsteps:\n- {id: a, tool: csv.reed}\n- {id: b, tool: csv.read, with: {txet: x}}\n"
        "- {id: c, tool: database.query, with: {sql: \"SELECT '{{ inputs.x }}'\", limit: many}}\n"
    )
    (tmp_path / "good.yaml").write_text(good)
    done = CliRunner().invoke(main, ["check", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path}/good.yaml: good, 1 steps\n")
    (tmp_path / "bad.yml").write_text(bad)
    done = CliRunner().invoke(main, ["check", str(tmp_path)])
    assert done.exit_code == 1
    assert "bad.yml: steps.0.tool: no tool is named 'csv.reed'" in done.stderr
    assert "bad.yml: steps.2.with.sql: no values are put into it" in done.stderr
    (tmp_path / "bad.yml").write_text(bad.replace("csv.reed", "csv.read").replace("'{{ inputs.x }}'", "1"))
    lines = CliRunner().invoke(main, ["check", str(tmp_path / "bad.yml")]).stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "steps.0.with.text",
        "steps.1.with.text",
        "steps.1.with.txet",
        "steps.2.with.limit",
    ]
    assert CliRunner().invoke(main, ["check", str(tmp_path), "--tools", "none"]).exit_code == 1
