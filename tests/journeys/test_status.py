"""`sidecar status` beside a running sidecar: for people, for programs, and when there is nobody to ask."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT, Sidecar

TOKEN = "s3cret-admin-token-0123"
CONFIG = f"""
node: {{name: orders-1}}
admin: {{bind: "127.0.0.1:0", token: {TOKEN}}}
listeners:
  - {{name: app, direction: outbound, bind: "127.0.0.1:0", routes: [{{name: all, match: {{method: "/*"}}, to: agents}}]}}
clusters:
  agents: {{endpoints: ["127.0.0.1:1"]}}
"""


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    with Sidecar(CONFIG, tmp_path_factory.mktemp("status")) as made:
        yield made


def status(*arguments: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_ADMIN")}
    if token is not None:
        environ["SIDECAR_ADMIN_TOKEN"] = token
    command = [sys.executable, "-m", "sidecar", "status", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


def test_for_people(sidecar: Sidecar) -> None:
    found = status("--admin", f"http://{sidecar.admin}")
    assert "\033" not in found.stdout, "no colour where there is no terminal"
    lines = found.stdout.splitlines()
    assert lines[0].startswith("orders-1  ready  generation 1  ")
    assert "✕ cluster agents: no endpoint takes RPCs  127.0.0.1:1: connection refused" in lines
    assert f"app {sidecar.addresses['app']}  0 connections" in lines
    assert found.returncode == 1, "something critical is wrong"
    assert TOKEN not in found.stdout + found.stderr


def test_for_programs(sidecar: Sidecar) -> None:
    found = json.loads(status("--admin", sidecar.admin, "--json").stdout)
    assert (found["node"], found["state"], found["clusters"][0]["endpoints"][0]["state"]) == (
        "orders-1",
        "ready",
        "unreachable",
    )
    assert TOKEN not in json.dumps(found)


def test_without_the_token(sidecar: Sidecar) -> None:
    found = status("--admin", sidecar.admin, token=None)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == "Error: this sidecar has an admin token: give it with --token or SIDECAR_ADMIN_TOKEN\n"
    assert status("--admin", sidecar.admin, token="wrong-wrong-wrong-1").returncode == 1


def test_when_nobody_answers(tmp_path: Path) -> None:
    found = status("--admin", f"unix:{tmp_path}/none")
    assert found.returncode == 1
    assert f"no sidecar answers at unix:{tmp_path}/none: No such file or directory" in found.stderr


@pytest.mark.parametrize(
    "command",
    [
        "status --json",
        "logging",
        "alerts list",
        "explain --listener app --method /p.S/M --admin ADMIN",
        "explain --listener app --method /p.S/M --admin http://ADMIN/",
        "check --wait 0s --admin ADMIN",
    ],
)
def test_commands_find_their_sidecar_and_its_token_in_the_environment(command: str, sidecar: Sidecar) -> None:
    words = command.replace("ADMIN", sidecar.admin).split()
    environ = {**os.environ, "SIDECAR_ADMIN": sidecar.admin, "SIDECAR_ADMIN_TOKEN": TOKEN}
    asked = [sys.executable, "-m", "sidecar", *words]
    found = subprocess.run(asked, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    # Status says that the cluster has nobody.
    assert (found.returncode, found.stderr) == (1 if words[0] == "status" else 0, "")
    assert found.stdout
    del environ["SIDECAR_ADMIN_TOKEN"]
    asked += ["--token", TOKEN] if words[0] != "check" else []
    again = subprocess.run(asked, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (found.returncode, "")


def test_watching_on_a_terminal(sidecar: Sidecar) -> None:
    """It draws again and again in the same place, in colour, until Ctrl-C."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sidecar", "status", "--watch", "--interval", "0.2", "--admin", sidecar.admin]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "SIDECAR_ADMIN_TOKEN": TOKEN},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    try:
        os.close(theirs)
        seen = b""
        while seen.count(b"\033[H\033[2J") < 3:
            assert select.select([ours], [], [], 20)[0], seen
            seen += os.read(ours, 65536)
        assert b"\033[1morders-1" in seen
        process.send_signal(2)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_watching_for_a_program_that_leaves(sidecar: Sidecar) -> None:
    """`sidecar status --watch --json | head -2` gives two lines and no traceback."""
    command = f"{sys.executable} -m sidecar status --watch --json --interval 0.2 --admin {sidecar.admin} | head -2"
    found = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env={**os.environ, "SIDECAR_ADMIN_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert [json.loads(each)["node"] for each in found.stdout.splitlines()] == ["orders-1", "orders-1"]
    assert found.stderr == ""
