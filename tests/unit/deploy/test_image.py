"""Dockerfile: what its two images promise, and that what they copy is in the context."""

from __future__ import annotations

import json
import re

import pytest

from agent_server.cli import main as agent_server
from sidecar.cli.main import sidecar
from tests.support.command_line import takes
from tests.support.processes import ROOT

TEXT = (ROOT / "Dockerfile").read_text()


Stage = list[tuple[str, str]]


def stages() -> dict[str, Stage]:
    """Name → (instruction, rest) of each stage, the first of which is its FROM."""
    lines = [line for line in TEXT.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    found: dict[str, Stage] = {}
    for line in lines:
        word, rest = line.split(" ", 1)
        assert re.fullmatch(
            "FROM|ARG|RUN|COPY|LABEL|ENV|USER|WORKDIR|EXPOSE|HEALTHCHECK|STOPSIGNAL|ENTRYPOINT|CMD", word
        ), line
        if word == "FROM":
            stage: Stage = []
            found[rest.split(" AS ")[1]] = stage
        stage.append((word, rest))
    return found


def image(name: str) -> Stage:
    """What an image is made by, after the interpreter's."""
    steps = stages()[name]
    parent = steps[0][1].split(" AS ")[0]
    return (image(parent) if parent in stages() else []) + steps


def said(name: str, word: str) -> list[str]:
    return [rest for each, rest in image(name) if each == word]


IMAGES = {"sidecar": sidecar, "agent-server": agent_server}


@pytest.mark.parametrize("name", IMAGES)
def test_it_runs_as_nobody_in_particular_and_hears_signals_itself(name: str) -> None:
    assert said(name, "USER") == ["10001:10001"]
    assert json.loads(said(name, "ENTRYPOINT")[-1]) == [name]
    assert said(name, "STOPSIGNAL") == ["SIGTERM"]
    assert takes(IMAGES[name], json.loads(said(name, "CMD")[-1])) == ["run"]


@pytest.mark.parametrize("name", IMAGES)
def test_health_is_told_by_probe(name: str) -> None:
    options, _, command = said(name, "HEALTHCHECK")[0].partition(" CMD ")
    assert {"--interval=2s", "--timeout=2s"} <= set(options.split())
    program, *words = json.loads(command)
    assert program == "sidecar"
    assert takes(sidecar, words) == ["probe"]


def test_the_sidecar_is_what_is_built_without_a_target() -> None:
    assert list(stages())[-1] == "sidecar"


@pytest.mark.parametrize(("name", "builder"), [("sidecar", "build-sidecar"), ("agent-server", "build-agent")])
def test_compilers_stay_behind(name: str, builder: str) -> None:
    final, build = image(name), image(builder)
    assert any("gcc" in rest for word, rest in build if word == "RUN")
    assert any("HATCH_BUILD_HOOK_ENABLE_MYPYC=true" in rest for word, rest in build if word == "RUN")
    assert not any(re.search("apt-get|pip|gcc", rest) for word, rest in final if word == "RUN")
    assert [rest for word, rest in final if word == "COPY"] == [f"--from={builder} /opt/sidecar /opt/sidecar"]
    # Nothing that is of one processor only, and one base, so that the interpreter is the one that was installed for.
    assert not re.search(r"amd64|x86_64|--platform", "".join(rest for _, rest in build + final))
    assert build[0][1].split()[0] == final[0][1].split()[0]


def test_everything_installed_is_pinned_by_hash() -> None:
    steps = [rest for stage in stages().values() for word, rest in stage if word == "RUN"]
    for step in [part for rest in steps for part in rest.split("&&")]:
        if "pip" in step and " install " in step:
            assert "--require-hashes" in step or "--no-deps" in step, step
            for name in re.findall(r"-r (\S+)", step):
                text = (ROOT / name).read_text()
                assert text.count("--hash=sha256:") >= text.count("==") > 0, name


def test_the_images_have_the_versions_that_are_tested() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^([a-z0-9-]+==\S+)", (ROOT / f"requirements/{name}.txt").read_text(), re.MULTILINE))

    assert pins("sidecar") < pins("run") and pins("agent") < pins("run")
    assert not any(pin.startswith(("sqlalchemy", "httpx", "asyncpg")) for pin in pins("sidecar"))


def test_the_context_has_what_is_copied_and_what_the_wheel_needs() -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert all((ROOT / each).exists() for each in let_in)
    assert {
        "sidecar",
        "agent_server",
        "clients/python",
        "pyproject.toml",
        "requirements",
        "README.md",
        "LICENSE",
    } <= let_in


def test_labels() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', said("sidecar", "LABEL")[0]))
    assert labels["licenses"] == "Apache-2.0"
    assert {"title", "description", "revision", "base.name"} <= set(labels)
