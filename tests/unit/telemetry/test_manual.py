"""docs/observability.md: its examples are taken, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest
from click.testing import CliRunner

from agent_server.cli import main as agent_server
from sidecar.cli.main import sidecar
from sidecar.config.load import load
from sidecar.control.admin import http
from sidecar.policies.access_log import AccessLine
from sidecar.policies.tracing import TracingConfig
from sidecar.telemetry import names, spans
from sidecar.telemetry.names import MetricName

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "observability.md").read_text()
BASE = """
listeners:
  - name: inbound
    direction: inbound
    bind: "127.0.0.1:0"
    routes: [{name: all, match: {method: "/*"}, to: local}]
clusters: {local: {endpoints: ["127.0.0.1:50051"]}}
"""


def blocks(kind: str) -> list[str]:
    found = re.findall(rf"^```{kind}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.mark.parametrize("block", blocks("yaml"), ids=["tracing", "in the mesh", "logs"])
def test_the_configuration_takes_the_examples(tmp_path: Path, block: str) -> None:
    path = tmp_path / "sidecar.yaml"
    path.write_text(block if "listeners:" in block else BASE + block)
    assert load(path, environ={}).root.listeners


def test_the_command_lines_take_the_commands() -> None:
    lines = [line.split() for block in blocks("sh") for line in block.splitlines()]
    seen = set()
    for command, *words in lines:
        seen.add(command)
        if command == "curl":
            url = next(word.strip("'") for word in words if word.strip("'").startswith("http://"))
            table = http._POST if "PUT" in words else http._GET
            assert urlsplit(url).path in table
            continue
        group = sidecar if command == "sidecar" else agent_server
        shown = CliRunner().invoke(group, [words[0], "--help"])
        assert shown.exit_code == 0, words
        for option in words:
            assert not option.startswith("-") or option in click.unstyle(shown.output), f"{command} has no {option}"
    assert seen == {"sidecar", "agent-server", "curl"}


def test_the_code_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for block in blocks("python"):
        compile(block, "docs/observability.md", "exec")
    from clients.python.tracing import tracing

    assert len(tracing()) == 4


def test_it_knows_every_field_of_tracing() -> None:
    table = TEXT[TEXT.index("| field | default |") : TEXT.index("Sample where RPCs enter")]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", table, re.MULTILINE))
    assert set(rows) == set(TracingConfig.model_fields)
    for name, shown in rows.items():
        default = TracingConfig.model_fields[name].default
        assert shown in {"–", "`node.name`"} or shown == str(default).lower(), name


def test_the_attributes_and_metrics_that_it_names_are_there() -> None:
    attributes = {value for value in vars(spans).values() if isinstance(value, str)}
    assert set(re.findall(r"`((?:rpc|error|sidecar)\.[a-z_.]+)`", TEXT)) <= attributes | {"sidecar.yaml"}
    known = {each.name for each in vars(names).values() if isinstance(each, MetricName)}
    named = set(re.findall(r"`((?:sidecar|grpc_server|grpc_client)_[a-z_]+)[`{]", TEXT))
    assert {each for each in named if not each.endswith("_")} <= known


def test_it_knows_every_field_of_the_access_log() -> None:
    table = TEXT[TEXT.index("| `listener`, `route`, `method`") : TEXT.index("A stream that lasts")]
    said = set(
        re.findall(r'said\["(\w+)"\]', Path(http.__file__).parents[2].joinpath("policies/access_log.py").read_text())
    )
    assert said - {"silent_ms"} <= set(re.findall(r"`([a-z_]+)`", table))
    assert AccessLine.__slots__
