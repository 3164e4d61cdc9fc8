"""docs/getting-started.md, as it stands: its certificates, its two files (on free ports), and a call from end to end."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.journeys.agent_process import AgentProcess
from tests.support.processes import ROOT, Sidecar

PAGE = (ROOT / "docs" / "getting-started.md").read_text()
LIMIT = 20.0


def file(name: str) -> str:
    [text] = re.findall(rf"^```yaml\n# {name}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


def sidecar(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidecar.cli.main", *words]
    return subprocess.run(
        command,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """After section 2."""
    [block] = [
        block for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if "certs ca" in block
    ]
    for line in block.splitlines():
        program, *words = shlex.split(line)
        assert program == "sidecar"
        done = sidecar(*words, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    return tmp_path


def test_a_call_from_end_to_end(folder: Path) -> None:
    with AgentProcess() as agent:
        inbound = file("data.yaml").replace("127.0.0.1:50051", agent.address).replace("0.0.0.0:8443", "127.0.0.1:0")
        with Sidecar('admin: {bind: "127.0.0.1:0"}\n' + inbound, folder, name="data") as before_the_agent:
            outbound = (
                file("orders.yaml")
                .replace("127.0.0.1:9902", '"127.0.0.1:0"')
                .replace("bind: 127.0.0.1:15001", "bind: 127.0.0.1:0")
                .replace("127.0.0.1:8443", before_the_agent.addresses["inbound"])
            )
            with Sidecar(outbound, folder, name="orders") as beside_the_caller:
                address = beside_the_caller.addresses["outbound"]
                with grpc.insecure_channel(address) as channel:
                    answer = health_pb2_grpc.HealthStub(channel).Check(
                        health_pb2.HealthCheckRequest(), timeout=LIMIT, wait_for_ready=True
                    )
                    assert answer.status == health_pb2.HealthCheckResponse.SERVING
                probed = sidecar("probe", "--addr", address, folder=folder)
                assert (probed.returncode, probed.stdout) == (0, "status: SERVING\n")
            checked = sidecar("validate", "-c", "data.yaml", folder=folder)
            assert checked.returncode == 0, checked.stdout
