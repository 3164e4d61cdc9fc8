"""grpcurl, a foreign client, through both sidecars and straight at the inner one."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.journeys.agent_process import AgentProcess
from tests.journeys.pair import Pair
from tests.support.pki import Leaf

Run = Callable[..., subprocess.CompletedProcess[str]]
EXECUTE = "agent.v1.AgentService/Execute"
RULES = """
policies:
  authz:
    deny: [{name: nothing-is-described, methods: ["/agent.v1.AgentService/Describe"]}]
    default: allow
"""
SERVICES = [
    "agent.v1.AgentService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
]


@pytest.fixture(scope="module")
def grpcurl() -> str:
    found = shutil.which("grpcurl")
    if found is None:
        pytest.skip("grpcurl is not installed: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest")
    return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, grpcurl: str) -> Iterator[Pair]:
    with AgentProcess() as agent, Pair(tmp_path_factory.mktemp("pair"), agent.address, top=RULES) as made:
        yield made


def certificate(leaf: Leaf) -> list[str]:
    return ["-cacert", str(leaf.ca), "-cert", str(leaf.certificate), "-key", str(leaf.private_key)]


@pytest.fixture(params=["through both", "with a certificate"])
def run(request: pytest.FixtureRequest, pair: Pair, grpcurl: str) -> Run:
    """Run grpcurl with options, and a last argument of words."""
    if request.param == "through both":
        how, address = ["-plaintext"], pair.address
    else:
        how, address = [*certificate(pair.client), "-servername", "localhost"], pair.direct

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        *options, last = arguments
        command = [grpcurl, *how, "-max-time", "20", *options, address, *last.split()]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    return run


def test_lists_and_describes(run: Run) -> None:
    assert run("list").stdout.split() == SERVICES
    described = run("describe agent.v1.AgentService").stdout
    assert (
        "rpc Converse ( stream .agent.v1.ConverseRequest ) returns ( stream .agent.v1.ConverseResponse )" in described
    )


def test_invokes_all_four_kinds(run: Run) -> None:
    found = run("-d", '{"task": "SELECT 1 AS one"}', "agent.v1.AgentService/Execute")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["result"]["table"]["rows"] == [{"cells": [{"integer_value": "1"}]}]
    found = run("-d", '{"task": "SELECT 1 AS one"}', "agent.v1.AgentService/ExecuteStream")
    assert found.stdout.count('"sequence"') == 4
    target = '{"target": {"parameters": {"table": "curl", "columns": {"a": "INTEGER"}}}}'
    found = run("-d", target + '{"record": {"fields": {"a": 1}}}', "agent.v1.AgentService/Ingest")
    assert json.loads(found.stdout)["written_count"] == "1"
    found = run("-d", '{"text": "SELECT 1"}{"text": "SELECT 2"}', "agent.v1.AgentService/Converse")
    assert found.returncode == 0, found.stderr
    assert found.stdout.count('"integer_value"') == 2


def test_health(run: Run) -> None:
    assert json.loads(run("grpc.health.v1.Health/Check").stdout) == {"status": "SERVING"}


def test_headers_of_both_sides(run: Run) -> None:
    found = run("-v", "-rpc-header", "x-request-id: from-grpcurl", "-d", '{"task": "SELECT 1"}', EXECUTE).stdout
    assert "x-request-id: from-grpcurl" in found
    assert "x-agent-version: v1" in found


def test_an_error_of_the_agent_with_its_details(run: Run) -> None:
    found = run("-d", '{"task": "SELEC 1"}', "agent.v1.AgentService/Execute")
    assert found.returncode != 0
    assert "Code: InvalidArgument" in found.stderr
    assert '"@type": "type.googleapis.com/google.rpc.ErrorInfo"' in found.stderr
    assert '"domain": "agent"' in found.stderr


def test_a_refusal_of_ours_with_its_details(run: Run) -> None:
    found = run("agent.v1.AgentService/Describe")
    assert found.returncode != 0
    assert "Code: PermissionDenied" in found.stderr
    assert '"reason": "DENIED_BY_RULE"' in found.stderr
    assert '"domain": "sidecar"' in found.stderr
    assert '"rule": "nothing-is-described"' in found.stderr


def test_no_certificate_no_entry(pair: Pair, grpcurl: str) -> None:
    command = [
        grpcurl,
        "-cacert",
        str(pair.client.ca),
        "-servername",
        "localhost",
        "-max-time",
        "10",
        pair.direct,
        "list",
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert found.returncode != 0
    assert "Failed to dial target host" in found.stderr
    assert "AgentService" not in found.stdout
