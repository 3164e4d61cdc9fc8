"""The client's command line, as far as no server is needed."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from clients.python.__main__ import _pair, _parameters, main


def test_values_are_json_if_they_parse() -> None:
    given = ("a=1", "b=[1, 2]", "c=text", 'd="1"', "e=x=y", "f=")
    assert _parameters(given) == {"a": 1, "b": [1, 2], "c": "text", "d": "1", "e": "x=y", "f": ""}


def test_metadata_is_trimmed() -> None:
    assert _pair("x-a: b:c ", ":") == ("x-a", "b:c")


@pytest.mark.parametrize("command", [[], *([name] for name in ("execute", "stream", "ingest", "converse", "describe"))])
def test_help_ends_in_examples(command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "--help"])
    assert (result.exit_code, "Example" in result.output) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["execute", "-p", "novalue"], 2, "expected NAME=VALUE"),
        (["-H", "novalue", "describe"], 2, "expected NAME:VALUE"),
        (["--tls-cert", "a.pem", "describe"], 2, "belong together"),
        (["--tls-cert", "a.pem", "--tls-key", "b.pem", "describe"], 2, "needs --tls-ca"),
        (["--tls-ca", "/nowhere/ca.pem", "describe"], 1, "/nowhere/ca.pem"),
        (["ingest", "/nowhere/records.jsonl"], 2, "/nowhere/records.jsonl"),
    ],
)
def test_errors_and_exit_codes(arguments: list[str], code: int, text: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, text in result.output) == (code, True), result.output
