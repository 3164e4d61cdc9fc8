"""docs/alerts.md: its examples are taken by the configuration and the command line, and it knows every alert."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sidecar.alerts.alert import condition
from sidecar.alerts.config import BUILT_IN, RuleConfig
from sidecar.alerts.measures import MEASURES
from sidecar.cli.main import sidecar
from sidecar.config.load import load

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "alerts.md").read_text()
BASE = """
listeners:
  - name: inbound
    direction: inbound
    bind: "127.0.0.1:0"
    routes:
      - {name: checkout, match: {method: "/shop.Checkout/*"}, to: local}
      - {name: all, match: {method: "/*"}, to: local}
clusters: {local: {endpoints: ["127.0.0.1:50051"]}}
"""


def blocks(kind: str) -> list[str]:
    found = re.findall(rf"^```{kind}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.mark.parametrize("block", blocks("yaml"), ids=["who is told", "rules of your own"])
def test_the_configuration_takes_the_examples(tmp_path: Path, block: str) -> None:
    path = tmp_path / "sidecar.yaml"
    path.write_text(BASE + block)
    alerts = load(path, environ={"PAGERDUTY_KEY": "k", "TICKETS_TOKEN": "t"}).root.alerts
    assert alerts.send or alerts.rules


def test_the_command_line_takes_the_commands() -> None:
    commands = [line.split()[1:] for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) == 3
    for words in commands:
        options = [word for word in words if word.startswith("-")]
        names = words[: len(words) if not options else words.index(options[0])]
        shown = CliRunner().invoke(sidecar, [*names, "--help"])
        assert shown.exit_code == 0, words
        for option in options:
            assert option in click.unstyle(shown.output), f"{names} has no {option}"


@pytest.mark.parametrize("rule", BUILT_IN, ids=lambda rule: rule.name)
def test_it_knows_every_alert(rule: RuleConfig) -> None:
    section = TEXT[TEXT.index(f"\n### {rule.name}\n") :]
    first = section.split("\n\n")[1]
    assert first.startswith(f"`{condition(rule)}`, {rule.severity}. ")
    assert re.search(r"^1\. ", section.split("\n\n### ")[0], re.MULTILINE), "what to do"


def test_it_knows_every_word() -> None:
    table = TEXT[TEXT.index("| word | value |") : TEXT.index("## What to do")]
    assert set(re.findall(r"`([a-z0-9_]+)`", table)) >= set(MEASURES)


def test_what_it_points_to_is_there() -> None:
    titles = set(re.findall(r"^### (.+)$", TEXT, re.MULTILINE))
    assert set(re.findall(r"\]\(#([a-z-]+)\)", TEXT)) <= titles
