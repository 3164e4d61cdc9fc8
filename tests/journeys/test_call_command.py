"""`sidecar call` against a real agent behind two sidecars: reflection, mTLS, JSON, metadata, all four kinds, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.agent_process import AgentProcess
from tests.journeys.pair import Pair
from tests.support.processes import ROOT

SERVICE = "agent.v1.AgentService"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("call")
    with AgentProcess() as agent, Pair(folder, agent.address) as made:
        yield made


def call(*arguments: str, data: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidecar", "call", *arguments]
    return subprocess.run(command, cwd=ROOT, input=data, capture_output=True, text=True, check=False)


def through(pair: Pair, *arguments: str, data: str | None = None) -> subprocess.CompletedProcess[str]:
    return call("--addr", pair.address, *arguments, data=data)


def test_what_there_is_is_listed(pair: Pair) -> None:
    listed = through(pair, "--list")
    assert listed.returncode == 0, listed.stderr
    assert f"{SERVICE}\n" in listed.stdout
    assert "  Converse(stream agent.v1.ConverseRequest) returns (stream agent.v1.ConverseResponse)" in listed.stdout


def test_mtls_straight_at_the_agents_sidecar(pair: Pair) -> None:
    leaf = pair.client
    tls = ("--tls-ca", str(leaf.ca), "--tls-cert", str(leaf.certificate), "--tls-key", str(leaf.private_key))
    port = pair.direct.rpartition(":")[2]
    found = call("--addr", f"localhost:{port}", *tls, f"{SERVICE}/Describe")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["agents"]
    refused = call("--addr", f"localhost:{port}", "--tls-ca", str(leaf.ca), f"{SERVICE}/Describe", "--timeout", "3s")
    assert refused.returncode == 2
    assert "the TLS handshake was refused" in refused.stderr


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("Execute", '{"operation": "query", "parameters": {"sql": "SELECT 1 AS one"}}'),
        ("ExecuteStream", '{"operation": "query", "parameters": {"sql": "SELECT 1 AS one"}}'),
        ("Converse", '{"operation": "query", "parameters": {"sql": "SELECT 1 AS one"}}'),
    ],
)
def test_messages_go_and_come_as_json(pair: Pair, method: str, data: str) -> None:
    found = through(pair, "-d", "@", f"{SERVICE}/{method}", data=data)
    assert found.returncode == 0, found.stderr
    assert '"one"' in found.stdout


def test_a_status_is_told_with_its_details_and_is_the_exit_code(pair: Pair) -> None:
    failed = through(pair, "-d", '{"operation": "none"}', f"{SERVICE}/Execute")
    assert failed.returncode == 64 + 3
    assert failed.stderr.startswith("INVALID_ARGUMENT: operation: ")
    assert '"reason": "OPERATION_UNKNOWN"' in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((f"{SERVICE}/Execut",), "did you mean `Execute`"),
        (("agent.v1.AgentServic/Execute",), "the server has no service"),
        (("-d", "{", f"{SERVICE}/Execute"), "the data is no JSON at character 1"),
        (("-d", '{"tas": 1}', f"{SERVICE}/Execute"), 'has no field named "tas"'),
        (("-d", "{} {}", f"{SERVICE}/Execute"), "takes one message, and 2 were given"),
        (("-H", "no colon", f"{SERVICE}/Execute"), "is no metadata"),
        ((), "name a method, or say --list"),
    ],
)
def test_wrong_usage_says_what_is_wrong(pair: Pair, arguments: tuple[str, ...], says: str) -> None:
    found = through(pair, *arguments)
    assert found.returncode == 2
    assert says in found.stderr


def test_nobody_there(tmp_path: Path) -> None:
    found = call("--addr", "127.0.0.1:1", "--timeout", "1s", f"{SERVICE}/Execute")
    assert found.returncode == 2
    assert "no connection to 127.0.0.1:1" in found.stderr
