from __future__ import annotations

from click.testing import CliRunner

from sidecar.cli.logging import logging


def test_a_level_that_is_none_is_refused() -> None:
    result = CliRunner().invoke(logging, ["loud"])
    assert result.exit_code == 2
    assert "'debug', 'info', 'warning', 'error'" in result.output


def test_nobody_there_is_said_with_what_helps() -> None:
    result = CliRunner().invoke(logging, ["debug", "--admin", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert "give its address with --admin" in result.output
