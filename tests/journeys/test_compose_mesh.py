"""The mesh of docker-compose.yml as processes of this machine: its configurations, its agents' words, its caller, its health checks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.processes import ROOT, Sidecar
from tests.support.redis import RedisServer

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
MOUNTED = "/etc/sidecar/sidecar.yaml"
TOKEN = "for-this-machine-only"
LIMIT = 30.0
MODULES = {"sidecar": ["-m", "sidecar"], "agent-server": ["-m", "agent_server"], "python": []}


def run(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *MODULES[words[0]], *words[1:]]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT)


def text_of(service: str, changes: dict[str, str]) -> str:
    [name] = [each["source"] for each in SERVICES[service]["configs"] if each["target"] == MOUNTED]
    text = (ROOT / COMPOSE["configs"][name]["file"]).read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@dataclass
class Mesh:
    folder: Path
    inbound: dict[str, Sidecar]
    caller: Sidecar

    def check(self, service: str, old: str, new: str) -> subprocess.CompletedProcess[str]:
        """Runs the health check of a service, at the address where it is here."""
        words = SERVICES[service]["healthcheck"]["test"][1:]
        assert old in words
        return run(self.folder, [new if word == old else word for word in words])


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("compose")
    for line in (
        "sidecar certs ca --out ca --trust-domain mesh.local",
        "sidecar certs issue data --ca ca --out certs --dns agent-v1 --dns agent-v2",
        "sidecar certs issue caller --ca ca --out certs",
    ):
        assert line in SERVICES["certificates"]["command"][0]
        assert run(folder, line.split()).returncode == 0
    (folder / "certs" / "ca.crt").write_bytes((folder / "ca" / "ca.crt").read_bytes())
    redis = RedisServer(folder)
    redis.start()
    agents, inbound, started = [], {}, []
    try:
        for version in ("v1", "v2"):
            words = [
                {"127.0.0.1:50051": "127.0.0.1:0", "/var/lib/sidecar/data.db": f"{version}.db"}.get(word, word)
                for word in SERVICES[f"agent-{version}"]["command"]
            ]
            agent = subprocess.Popen(
                [sys.executable, "-m", "agent_server", *words, "--log-level", "error"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                text=True,
            )
            agents.append(agent)
            assert agent.stdout is not None
            address = agent.stdout.readline().split()[-1]
            changes = {
                "127.0.0.1:50051": address, "0.0.0.0:8443": "127.0.0.1:0", "0.0.0.0:9901": "127.0.0.1:0",
                "redis://redis:6379/0": redis.url,
            }  # fmt: skip
            environ = {"SIDECAR_NAME": f"data-{version}", "SIDECAR_ADMIN_TOKEN": TOKEN}
            inbound[version] = Sidecar(text_of(f"sidecar-{version}", changes), folder, environ=environ, name=version)
            inbound[version].start()
            started.append(inbound[version])
        changes = {
            "agent-v1:8443": inbound["v1"].addresses["inbound"], "agent-v2:8443": inbound["v2"].addresses["inbound"],
            "127.0.0.1:15001": "127.0.0.1:0", "0.0.0.0:9901": "127.0.0.1:0", "////var/lib/sidecar": f"///{folder}",
        }  # fmt: skip
        environ = {"SIDECAR_NAME": "caller", "SIDECAR_ADMIN_TOKEN": TOKEN}
        caller = Sidecar(text_of("sidecar-caller", changes), folder, environ=environ, name="caller")
        caller.start()
        started.append(caller)
        yield Mesh(folder, inbound, caller)
    finally:
        for each in reversed(started):
            each.stop()
        for agent in agents:
            agent.terminate()
            agent.communicate(timeout=LIMIT)
        redis.stop()


def test_the_caller_gets_its_answer(mesh: Mesh) -> None:
    [line] = [each.strip() for each in SERVICES["caller"]["command"][0].splitlines() if "clients.python" in each]
    words = re.sub(r"'([^']*)'", lambda quoted: quoted[1].replace(" ", "\0"), line).split()
    here = [
        mesh.caller.addresses["outbound"] if word == "127.0.0.1:15001" else word.replace("\0", " ") for word in words
    ]
    done = run(mesh.folder, here)
    assert done.returncode == 0, done.stderr
    assert "one" in json.dumps(json.loads(done.stdout))


def test_health_checks_tell_the_truth(mesh: Mesh) -> None:
    outbound = mesh.caller.addresses["outbound"]
    for service, old, new in (
        ("sidecar-v1", "127.0.0.1:8443", mesh.inbound["v1"].addresses["inbound"]),
        ("sidecar-v2", "127.0.0.1:8443", mesh.inbound["v2"].addresses["inbound"]),
        ("sidecar-caller", "127.0.0.1:15001", outbound),
        ("caller", "127.0.0.1:15001", outbound),
    ):
        done = mesh.check(service, old, new)
        assert (done.returncode, done.stdout) == (0, "status: SERVING\n"), (service, done.stderr)
    assert mesh.check("caller", "127.0.0.1:15001", "127.0.0.1:1").returncode == 2


def test_the_rollout_is_on_its_way(mesh: Mesh) -> None:
    done = run(
        mesh.folder,
        ["sidecar", "rollout", "status", "data", "--admin", f"http://{mesh.caller.admin}", "--token", TOKEN],
    )
    assert done.returncode == 0, done.stderr
    assert "v1" in done.stdout
    assert "v2" in done.stdout
