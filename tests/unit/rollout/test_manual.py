"""docs/rollouts.md: its configurations are taken, its commands exist, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from sidecar.cli.main import sidecar
from sidecar.config.load import load
from sidecar.telemetry import names
from sidecar.telemetry.names import MetricName

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "rollouts.md").read_text()
BASE = """
listeners:
  - name: inbound
    direction: inbound
    bind: "127.0.0.1:0"
    routes: [{name: all, match: {method: "/*"}, to: data-agent}]
"""
LOCAL = 'clusters: {data-agent: {endpoints: ["127.0.0.1:50051"]}}\n'


def blocks(kind: str) -> list[str]:
    found = re.findall(rf"^```{kind}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.mark.parametrize("block", blocks("yaml"), ids=["canary", "testers", "launch", "mirror", "cache"])
def test_the_configuration_takes_the_examples(tmp_path: Path, block: str) -> None:
    path = tmp_path / "sidecar.yaml"
    path.write_text(BASE + ("" if "clusters" in yaml.safe_load(block) else LOCAL) + block)
    root = load(path, environ={}).root
    assert "data-agent" in root.clusters


@pytest.mark.parametrize("line", blocks("sh")[0].splitlines())
def test_the_commands_exist(line: str) -> None:
    words = line.split()
    assert words[0] == "sidecar"
    found = CliRunner().invoke(sidecar, [*words[1:3], "--help"])
    assert found.exit_code == 0, found.output


def test_the_metrics_it_names_exist() -> None:
    known = {each.name for each in vars(names).values() if isinstance(each, MetricName)}
    told = set(re.findall(r"`(sidecar_\w+)`", TEXT))
    assert told
    assert told <= known
