"""Every page: its configurations are taken, its commands and their options are known, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from agent_server.cli import main as agent_server
from clients.python.__main__ import main as client
from sidecar.cli.main import sidecar
from sidecar.config.load import load
from sidecar.config.root import default_root
from tests.support.command_line import takes
from tests.support.processes import ROOT

PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = {"sidecar": sidecar, "agent-server": agent_server, "python -m clients.python": client}
# Beside ours; of these only the name is looked at.
OTHERS = {
    "cat", "cd", "cmp", "cp", "curl", "dig", "docker", "echo", "export", "git", "go", "gh", "grep", "grpcurl", "helm", "jq", "kill",
    "kubectl", "kustomize", "make", "mkdir", "mv", "openssl", "pip", "printf", "promtool", "prometheus", "python", "redis-cli",
    "sleep", "sqlite3", "true",
}  # fmt: skip
SECRET = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="  # a Fernet key, and long enough for everything else
SHELLS = {"sh", "console", "bash", "shell"}
SECTIONS = {field.alias or name for name, field in default_root().model_fields.items()}
POLICIES = {
    field.alias or name for name, field in default_root().model_fields["policies"].annotation.model_fields.items()
}
ROUTES = [
    {"name": "checkout", "match": {"method": "/shop.Checkout/*"}, "to": "local"},
    {"name": "all", "match": {"method": "/*"}, "to": "local"},
]
LISTENER = {"name": "inbound", "direction": "inbound", "bind": "127.0.0.1:0"}


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*kinds: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(r"^( *)```(\S*)([^\n]*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
            body = "".join(line.removeprefix(match[1]) for line in match[4].splitlines(keepends=True))
            found.append(Block(page, text.count("\n", 0, match.start()) + 1, match[2], body))
    return [block for block in found if block.kind in kinds]


def sidecar_files() -> Iterator[Block]:
    """The YAML that is a sidecar's file, or sections of one."""
    for block in blocks("yaml"):
        named = set(re.findall(r"^([a-z_]+):", block.text, re.MULTILINE))
        if named and (named <= SECTIONS or named <= POLICIES) and named & (SECTIONS | POLICIES):
            yield block


def whole(text: str) -> str:
    """A whole file around sections, or around policies. The text stays as it is, for the loader to read."""
    named = set(re.findall(r"^([a-z_]+):", text, re.MULTILINE))
    if not named <= SECTIONS:
        text = "policies:\n" + "".join(f"  {line}" for line in text.splitlines(keepends=True))
        named = {"policies"}
    routes = _routes_to(text)
    frame: dict[str, Any] = {}
    if "listeners" not in named:
        frame["listeners"] = [LISTENER | {"routes": ROUTES}]
        routes.add("local")
    if "clusters" not in named:
        frame["clusters"] = {name: {"endpoints": ["127.0.0.1:50051"]} for name in sorted(routes | {"local"})}
    elif "listeners" not in named:
        clusters = list(yaml.safe_load(text)["clusters"])
        frame["listeners"] = [LISTENER | {"routes": [ROUTES[1] | {"to": clusters[0]}]}]
    return text + ("\n" + yaml.safe_dump(frame) if frame else "")


def _routes_to(text: str) -> set[str]:
    return set(re.findall(r"\bto: ([a-z][a-z0-9-]*)\b", text))


@pytest.mark.parametrize("block", list(sidecar_files()), ids=str)
def test_the_configuration_is_taken(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "sidecar.yaml"
    path.write_text(whole(block.text))
    names = set(re.findall(r"\$\{(\w+)", block.text))
    assert load(path, environ=dict.fromkeys(names, SECRET)).root.listeners


def test_most_of_the_yaml_is_of_the_sidecar() -> None:
    """What is not is of the agent server, Kubernetes, Compose or Envoy, and says so by its first key."""
    rest = [block for block in blocks("yaml") if block not in set(sidecar_files())]
    for block in rest:
        value = yaml.safe_load(block.text)
        known = {
            "name",
            "bind",
            "apiVersion",
            "services",
            "static_resources",
            "scrape_configs",
            "spec",
            "match",
            "agents",
            "initContainers",
        }
        assert isinstance(value, dict) and set(value) & known, f"{block}: of what is this?"


def commands(block: Block) -> Iterator[str]:
    """The command lines of a block, continued lines joined; in a console, those after `$ `."""
    text = re.sub(r"\\\n\s*", " ", block.text)
    for line in text.splitlines():
        is_typed = line.startswith("$ ")
        if block.kind == "console" and not is_typed:
            continue
        line = line.removeprefix("$ ").strip()
        if line and not line.startswith("#"):
            yield line


def plain(line: str) -> Iterator[list[str]]:
    """The simple commands of a line, without assignments, redirections and what runs in them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word.startswith("#"):  # a comment to the end
            break
        if set(word) <= set("|&;"):
            if words:
                yield words
            words = []
        elif not (not words and re.fullmatch(r"\w+=.*", word)):
            words.append(word)
    if words:
        yield words


def checked(words: list[str]) -> str | None:
    """What is wrong with a command; None if nothing is."""
    cut = next((i for i, word in enumerate(words) if re.match(r"\d?[<>]", word)), len(words))
    words = words[:cut]
    for program, command in PROGRAMS.items():
        parts = program.split()
        if words[: len(parts)] == parts:
            try:
                takes(command, words[len(parts) :])
            except click.ClickException as error:
                return f"{' '.join(words)}: {error.format_message()}"
            return None
    name = Path(words[0]).name
    return None if name in OTHERS else f"{name} is no command that is known here"


@pytest.mark.parametrize("block", blocks(*SHELLS), ids=str)
def test_the_commands_are_known(block: Block) -> None:
    problems = []
    for line in commands(block):
        for words in plain(line):
            problem = checked(words)
            if problem is not None:
                problems.append(problem)
    assert not problems


def test_makes_targets_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(*SHELLS, ""):
        for line in block.text.splitlines():
            found = re.match(r"(?:\$ )?make ([a-z-]+)$", line)
            assert found is None or found[1] in targets, f"{block}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_its_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link} leads nowhere"
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            made = {"".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_") for title in titles}
            assert heading in made, f"{link}: no such heading"


@pytest.mark.parametrize(
    "line",
    [
        "sidecar nope",
        "sidecar probe --address x",
        "sidecar rollout promote",
        "agent-server run --port 1",
        "sidecar version | nope",
        "nope && sidecar version",
    ],
)
def test_a_mistake_is_found(line: str) -> None:
    assert [problem for words in plain(line) if (problem := checked(words))]


def test_blocks_of_all_kinds_are_found() -> None:
    assert len(list(sidecar_files())) > 10
    assert {block.page.name for block in blocks(*SHELLS)} >= {"README.md", "drills.md", "agents.md"}


def test_every_policy_has_an_example_in_the_order_of_enforcement() -> None:
    """The order in which the root names them is the order of enforcement."""
    text = (ROOT / "docs" / "policies.md").read_text()
    titles = re.findall(r"^## (\w+)$", text, re.MULTILINE)
    fields = default_root().model_fields["policies"].annotation.model_fields
    assert titles == [field.alias or name for name, field in fields.items()]
    for title, section in zip(titles, re.split(r"^## \w+$", text, flags=re.MULTILINE)[1:], strict=True):
        assert re.search(rf"^ *{title}:", section, re.MULTILINE), title


def test_what_security_points_to_is_there() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    pointed = re.findall(r"`(tests/[\w/.]+)`", text)
    assert len(pointed) > 10
    assert not [each for each in pointed if not (ROOT / each).exists()]
