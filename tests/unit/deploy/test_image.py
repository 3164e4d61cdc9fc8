"""Dockerfile: what its last stage promises, and that what it copies is in the context."""

from __future__ import annotations

import json
import re

from sidecar.cli.main import sidecar
from tests.support.command_line import takes
from tests.support.processes import ROOT

TEXT = (ROOT / "Dockerfile").read_text()


def stages() -> list[list[tuple[str, str]]]:
    """(instruction, rest) of each stage."""
    lines = [line for line in TEXT.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    found: list[list[tuple[str, str]]] = []
    for line in lines:
        word, rest = line.split(" ", 1)
        assert re.fullmatch(
            "FROM|ARG|RUN|COPY|LABEL|ENV|USER|WORKDIR|EXPOSE|HEALTHCHECK|STOPSIGNAL|ENTRYPOINT|CMD", word
        ), line
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


def last(word: str) -> list[str]:
    return [rest for each, rest in stages()[-1] if each == word]


def test_it_runs_as_nobody_in_particular_and_hears_signals_itself() -> None:
    assert last("USER") == ["10001:10001"]
    assert json.loads(last("ENTRYPOINT")[0]) == ["sidecar"]
    assert last("STOPSIGNAL") == ["SIGTERM"]
    assert takes(sidecar, json.loads(last("CMD")[0])) == ["run"]


def test_health_is_told_by_probe() -> None:
    options, _, command = last("HEALTHCHECK")[0].partition(" CMD ")
    assert {"--interval=2s", "--timeout=2s"} <= set(options.split())
    program, *words = json.loads(command)
    assert program == "sidecar"
    assert takes(sidecar, words) == ["probe"]


def test_compilers_stay_behind() -> None:
    build, final = stages()
    assert any("gcc" in rest for word, rest in build if word == "RUN")
    assert any("HATCH_BUILD_HOOK_ENABLE_MYPYC=true" in rest for word, rest in build if word == "RUN")
    assert not any(re.search("apt-get|pip|gcc", rest) for word, rest in final if word == "RUN")
    assert [rest for word, rest in final if word == "COPY"] == ["--from=build /opt/sidecar /opt/sidecar"]
    # Nothing that is of one processor only, and one base, so that the interpreter is the one that was installed for.
    assert not re.search(r"amd64|x86_64|--platform", "".join(rest for stage in stages() for _, rest in stage))
    assert build[0][1].split()[0] == final[0][1]


def test_everything_installed_is_pinned_by_hash() -> None:
    for word, rest in stages()[0]:
        for step in rest.split("&&") if word == "RUN" else ():
            if "pip" in step and " install " in step:
                assert "--require-hashes" in step or "--no-deps" in step, step
                for name in re.findall(r"-r (\S+)", step):
                    text = (ROOT / name).read_text()
                    assert text.count("--hash=sha256:") >= text.count("==") > 0, name


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
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', last("LABEL")[0]))
    assert labels["licenses"] == "Apache-2.0"
    assert {"title", "description", "revision", "base.name"} <= set(labels)
