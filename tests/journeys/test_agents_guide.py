"""docs/agents.md, as it stands: its files are written, its commands run, and what they print is what it says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from cryptography.fernet import Fernet

from agent_server.configuration.settings import load_settings
from tests.support.processes import ROOT

GUIDE = ROOT / "docs" / "agents.md"
LIMIT = 60.0
READY = "agent-server ready "


@dataclass
class Block:
    kind: str
    file: str
    text: str


def blocks() -> list[Block]:
    found = re.findall(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(*each) for each in found]


class Shell:
    """Runs commands of the guide in a folder; a server that goes to the background is there until the next one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = ""
        self.server: subprocess.Popen[str] | None = None
        (folder / "bin").mkdir()
        for name, module in (("agent-server", "agent_server"), ("python", "")):
            script = folder / "bin" / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {f"-m {module}" if module else ""} "$@"\n')
            script.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }

    def run(self, command: str) -> str:
        if command.endswith(" &"):
            self.end()
            command = f"exec {command.removesuffix(' &')} --bind 127.0.0.1:0 --log-level error"
            self.server = subprocess.Popen(
                ["sh", "-c", command], cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True
            )
            assert self.server.stdout is not None
            line = self.server.stdout.readline()
            self.address = line.removeprefix(READY).strip()
            return line.replace(self.address, "127.0.0.1:50051")
        environment = {**self.environment, "AGENT_TARGET": self.address}
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=LIMIT
        )
        return done.stdout + done.stderr

    def end(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            server.send_signal(signal.SIGKILL)
            server.communicate(timeout=LIMIT)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.end()


def conversation(text: str) -> list[tuple[str, str]]:
    """Commands and what they print."""
    found = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)[1:]
    return list(zip(found[::2], found[1::2], strict=True))


def test_files_and_commands_of_the_guide(shell: Shell) -> None:
    made = 0
    for block in blocks():
        if block.file and block.kind in ("yaml", "python"):
            path = shell.folder / block.file
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text)
        elif block.kind == "console":
            for command, wanted in conversation(block.text):
                printed = shell.run(command)
                # In any order: that of a Struct's fields is not kept on the wire.
                missing = [each for each in re.split("…|\n", wanted) if each not in printed]
                assert not missing, f"$ {command}\n{printed}\nlacks: {missing}"
                made += 1
    assert made >= 12


def test_the_settings_of_the_guide_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = [each for each in blocks() if each.file == "agent.yaml"]
    for name in ("new.key", "old.key"):
        (tmp_path / name).write_bytes(Fernet.generate_key())
    (tmp_path / "books.url").write_text("postgresql+asyncpg://ann@db/books")
    (tmp_path / "agent.yaml").write_text(block.text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL_KEY", "hush")
    settings = load_settings(Path("agent.yaml"), {})
    assert settings.name == "clerk"
    assert set(yaml.safe_load(block.text)) <= set(type(settings).model_fields)


def test_what_the_guide_says_of_tools_is_so() -> None:
    from agent_server.tools.declare import BUILT_IN, load_tools

    text = GUIDE.read_text()
    for name in load_tools(BUILT_IN):
        group, _, last = name.partition(".")
        assert f"`{name}`" in text or (f"`{group}." in text and f"`.{last}`" in text), name
