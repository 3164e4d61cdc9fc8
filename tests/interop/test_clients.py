"""Each language's client program through two sidecars: every kind of RPC, mTLS, a deadline, an idempotency key, a refusal with its details."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.interop.mesh import Mesh
from tests.interop.toolchains import LANGUAGES, build
from tests.support.processes import ROOT

Done = subprocess.CompletedProcess[str]
# The Python client takes its parameters one by one and is tested on its own: tests/unit/clients.
FOREIGN = [language for language in LANGUAGES if language != "python"]


def run(language: str, target: str, flags: dict[str, str], *words: str, stdin: str = "") -> Done:
    dash = "-" if language == "go" else "--"
    given = [part for name, value in {"target": target, **flags}.items() for part in (dash + name, value)]
    command = [*build(language).client, *given, *words]
    return subprocess.run(command, input=stdin, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def values(done: Done) -> list[dict[str, object]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("language", FOREIGN)
def test_every_kind_of_call(mesh: Mesh, language: str) -> None:
    [described] = values(run(language, mesh.address, {}, "describe"))
    assert "agents" in described
    query = json.dumps({"sql": "SELECT 42 AS answer"})
    [result] = values(run(language, mesh.address, {}, "execute", "query", query))
    assert '"42"' in json.dumps(result["table"])
    events = values(run(language, mesh.address, {}, "stream", "query", query))
    assert "result" in events[-1]
    target = json.dumps({"table": f"of_{language}", "columns": {"a": "INTEGER"}})
    records = "".join(json.dumps({"a": i}) + "\n" for i in range(250))
    [summary] = values(run(language, mesh.address, {}, "ingest", target, stdin=records))
    assert summary["written_count"] == "250"
    answers = values(run(language, mesh.address, {}, "converse", stdin="SELECT 1\nSELECT 2\n"))
    assert [answer["turn"] for answer in answers] == ["1", "2"]


@pytest.mark.parametrize("language", FOREIGN)
def test_mtls_and_a_refusal_with_its_details(mesh: Mesh, language: str) -> None:
    leaf = mesh.pki.leaf(f"caller-{language}")
    flags = {
        "tls-ca": str(leaf.ca),
        "tls-cert": str(leaf.certificate),
        "tls-key": str(leaf.private_key),
        "server-name": "localhost",
        "idempotency-key": f"limited-{language}",
    }
    query = json.dumps({"sql": "SELECT 1"})
    values(run(language, mesh.direct, flags, "execute", "query", query))
    refused = run(language, mesh.direct, flags, "execute", "query", query)
    assert refused.returncode == 64 + 8, refused.stderr
    error = json.loads(refused.stderr.splitlines()[-1])["error"]
    assert (error["reason"], error["domain"], error["from_sidecar"]) == ("RATE_LIMITED", "sidecar", True)
    assert 0 < error["retry_after"] <= 3600


@pytest.mark.parametrize("language", FOREIGN)
def test_a_deadline(mesh: Mesh, language: str) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n"
    timeout = {"timeout": "0.5s" if language == "go" else "0.5"}
    found = run(language, mesh.address, timeout, "execute", "query", json.dumps({"sql": endless}))
    assert found.returncode == 64 + 4, found.stderr
