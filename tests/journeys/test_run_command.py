"""`sidecar run --app … -- COMMAND`: a server of anybody's, with its sidecar, in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from tests.support.pki import Pki
from tests.support.processes import ROOT

LIMIT = 30.0
SERVER = """
import concurrent.futures, os, signal, sys, grpc
address, code = sys.argv[1], int(sys.argv[2])

class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/t.Echo/Echo":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: request + str(os.getpid()).encode())
        if details.method == "/t.Echo/End":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: os._exit(int(request)))

server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Echo(),))
assert server.add_insecure_port(address)

def told(number, frame):
    print("told", signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        os._exit(code)

for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, told)
server.start()
print("begun", flush=True)
while True:
    signal.pause()
"""


class Run:
    """`sidecar run … -- COMMAND`, its two outputs, and a channel to it."""

    def __init__(self, *arguments: str, command: tuple[str, ...]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sidecar.cli.main", "run", "--admin", "127.0.0.1:0", *arguments, "--", *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[dict[str, object]] = []

    def ready(self) -> str:
        """Where callers call."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == "ready":
                listeners = self.log[-1]["listeners"]
                assert isinstance(listeners, dict)
                return str(listeners["inbound"])
        raise AssertionError(self.log)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str, str]:
        """Exit code, and the rest of both outputs."""
        out, errors = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, out, errors

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def server(address: str, code: int = 0) -> tuple[str, ...]:
    return (sys.executable, "-c", SERVER, address, str(code))


def echo(channel: grpc.Channel, method: str, request: bytes) -> bytes:
    answer: bytes = channel.unary_unary(f"/t.Echo/{method}")(request, timeout=LIMIT, wait_for_ready=True)
    return answer


@pytest.fixture
def app(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/app.sock"


def test_it_serves_forwards_signals_and_leaves_with_its_exit_code(app: str) -> None:
    with Run("--app", app, "--bind", "127.0.0.1:0", command=server(app, code=42)) as run:
        address = run.ready()
        assert run.line() == "begun"
        with grpc.insecure_channel(address) as channel:
            answer = echo(channel, "Echo", b"from ")
            assert answer.startswith(b"from ")
            assert int(answer.removeprefix(b"from ")) != run.process.pid
        for number in (signal.SIGHUP, signal.SIGUSR1):
            run.process.send_signal(number)
            assert run.line() == f"told {number.name}"
        run.process.send_signal(signal.SIGTERM)
        code, out, _ = run.end()
        assert (code, out) == (42, "told SIGTERM\n")


@pytest.mark.parametrize("code", [0, 3])
def test_it_ends_when_its_command_ends(app: str, code: int) -> None:
    with Run("--app", app, "--bind", "127.0.0.1:0", command=server(app)) as run:
        with grpc.insecure_channel(run.ready()) as channel, pytest.raises(grpc.RpcError) as caught:
            echo(channel, "End", str(code).encode())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert run.end()[0] == code


def test_a_signal_that_ends_it_is_told_as_shells_do(app: str) -> None:
    with Run("--app", app, "--bind", "127.0.0.1:0", command=server(app)) as run:
        with grpc.insecure_channel(run.ready()) as channel:
            os.kill(int(echo(channel, "Echo", b"")), signal.SIGKILL)
        assert run.end()[0] == 128 + signal.SIGKILL


def test_its_output_is_its_own(app: str) -> None:
    command = (sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(5)")
    with Run("--app", app, "--bind", "127.0.0.1:0", command=command) as run:
        code, out, errors = run.end()
    assert (code, out) == (5, "out\n")
    assert "err\n" in errors.splitlines(keepends=True)
    assert "it ended with code 5 before it served" in errors


def test_a_command_that_does_not_exist(app: str) -> None:
    with Run("--app", app, "--bind", "127.0.0.1:0", command=("no-such-command-anywhere",)) as run:
        code, _, errors = run.end()
    assert code == 127
    assert "no such command: no-such-command-anywhere" in errors


def test_with_certificates_callers_need_one(app: str, tmp_path: Path) -> None:
    pki = Pki(tmp_path / "certs")
    leaf = pki.leaf("orders")
    folder = leaf.certificate.parent
    (folder / "ca.crt").write_bytes(leaf.ca.read_bytes())
    with Run("--app", app, "--bind", "127.0.0.1:0", "--certs", str(folder), command=server(app)) as run:
        address = run.ready()
        credentials = grpc.ssl_channel_credentials(
            leaf.ca.read_bytes(), leaf.private_key.read_bytes(), leaf.certificate.read_bytes()
        )
        options = [("grpc.ssl_target_name_override", "localhost")]
        with grpc.secure_channel(address, credentials, options) as channel:
            assert echo(channel, "Echo", b"x").startswith(b"x")
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/t.Echo/Echo")(b"", timeout=5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--app", "127.0.0.1:1", "--bind", "0.0.0.0:0"), "without --certs there is no TLS"),
        (("--app", "127.0.0.1"), "--app 127.0.0.1 has no port"),
        (("--app", "127.0.0.1:1", "--certs", "no-such-folder"), "there is no ca.crt"),
        (("-c", "sidecar.yaml", "--app", "127.0.0.1:1"), "exclude each other"),
        ((), "give a file (-c FILE), or --app"),
    ],
)
def test_wrong_usage_is_told(arguments: tuple[str, ...], said: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "sidecar.cli.main", "run", *arguments, "--", "true"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert found.returncode == 2
    assert said in " ".join(found.stderr.split())
