"""docs/idempotency.md: its examples are taken by the configuration and the command line, and it knows every outcome."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sidecar.cli.main import sidecar
from sidecar.config.load import load
from sidecar.proxy.rejection import Reason

TEXT = (Path(__file__).resolve().parents[4] / "docs" / "idempotency.md").read_text()
BASE = """
store: {url: "sqlite:///s.db"}
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


@pytest.mark.parametrize("block", blocks("yaml"), ids=["whole", "keys from the message"])
def test_the_configuration_takes_the_examples(tmp_path: Path, block: str) -> None:
    path = tmp_path / "sidecar.yaml"
    path.write_text(block if "listeners:" in block else BASE + block)
    assert load(path, environ={}).root.policies.idempotency is not None  # type: ignore[attr-defined]


def test_the_command_line_takes_the_commands() -> None:
    commands = [line.split()[2:] for line in blocks("console")[0].splitlines()]
    assert [words[1] for words in commands] == ["list", "show", "resolve", "resolve"]
    for words in commands:
        shown = CliRunner().invoke(sidecar, [*words[:2], "--help"])
        assert shown.exit_code == 0, words
        for option in words[2:]:
            if option.startswith("-"):
                assert option in click.unstyle(shown.output), f"{words} has no {option}"


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (Reason.KEY_IN_PROGRESS, "ABORTED"),
        (Reason.KEY_REUSED, "INVALID_ARGUMENT"),
        (Reason.OUTCOME_UNKNOWN, "ABORTED"),
        (Reason.NOT_REPLAYABLE, "FAILED_PRECONDITION"),
        (Reason.STORE_UNAVAILABLE, "UNAVAILABLE"),
    ],
)
def test_it_says_what_callers_get(reason: Reason, status: str) -> None:
    assert reason.reject("why").code.name == status
    assert f"{status} `{reason.name}`" in TEXT
