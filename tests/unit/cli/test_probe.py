"""`sidecar probe` against real servers: each exit code of grpc-health-probe."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from click.testing import CliRunner, Result
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sidecar.cli.main import sidecar


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadPoolExecutor(2) as workers:
        server = grpc.server(workers)
        servicer = health.HealthServicer()
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        servicer.set("down", health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def probe(*arguments: str) -> Result:
    return CliRunner().invoke(sidecar, ["probe", *arguments])


def test_serving(address: str) -> None:
    found = probe("--addr", address)
    assert (found.exit_code, found.stdout) == (0, "status: SERVING\n")


def test_not_serving(address: str) -> None:
    found = probe("--addr", address, "--service", "down")
    assert (found.exit_code, found.stdout) == (4, "status: NOT_SERVING\n")


def test_a_service_nobody_knows(address: str) -> None:
    found = probe("--addr", address, "--service", "unheard.of")
    assert found.exit_code == 3
    assert "NOT_FOUND" in found.stderr


def test_nobody_there() -> None:
    found = probe("--addr", "127.0.0.1:1", "--connect-timeout", "50ms")
    assert found.exit_code == 2
    assert "no connection to 127.0.0.1:1" in found.stderr


@pytest.mark.parametrize("wrong", [["--tls-cert", "a.crt"], ["--tls-ca", "nowhere.crt"], ["--rpc-timeout", "soon"]])
def test_wrong_arguments(wrong: list[str]) -> None:
    assert probe("--addr", "127.0.0.1:1", *wrong).exit_code == 1
