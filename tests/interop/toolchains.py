"""The clients and drivers of each language, built once into folders that git ignores; a missing toolchain skips, and says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import ROOT

CLIENTS = ROOT / "clients"
DRIVERS = ROOT / "tests" / "interop" / "drivers"
BUILT = ROOT / ".tools" / "interop"
# A first build compiles gRPC and fetches what the lock files name.
_BUILD_LIMIT = 400.0


@dataclass(frozen=True, slots=True)
class Built:
    """Commands of one language: its client (as `python -m clients.python`), and its driver."""

    client: tuple[str, ...]
    driver: tuple[str, ...]


def _go() -> Built:
    environ = {"GOFLAGS": "-mod=readonly -buildvcs=false"}
    _run("go", "build", "-o", str(BUILT / "go-client"), "./cmd/agentclient", at=CLIENTS / "go", environ=environ)
    _run("go", "build", "-o", str(BUILT / "go-driver"), ".", at=DRIVERS / "go", environ=environ)
    return Built((str(BUILT / "go-client"),), (str(BUILT / "go-driver"),))


def _node() -> Built:
    folder = CLIENTS / "node"
    if _is_older(folder / "node_modules" / ".package-lock.json", folder / "package-lock.json"):
        _run("npm", "ci", at=folder)
    if _is_older(folder / "dist" / "main.js", *folder.glob("src/**/*.ts")):
        _run("npm", "run", "build", at=folder)
    node = shutil.which("node") or "node"
    return Built((node, str(folder / "dist" / "main.js")), (node, str(DRIVERS / "node" / "driver.mjs")))


def _java() -> Built:
    folder, classes = CLIENTS / "java", BUILT / "java"
    done = folder / "target" / "agent-client-0.1.0.jar"
    if _is_older(done, folder / "pom.xml", *folder.glob("src/main/**/*.java")):
        _run("mvn", "-q", "-B", "-ntp", "-DskipTests", "package", at=folder)
    libraries = str(folder / "target" / "libs" / "*")
    source = DRIVERS / "java" / "Driver.java"
    if _is_older(classes / "Driver.class", source, done):
        classes.mkdir(parents=True, exist_ok=True)
        _run("javac", "-d", str(classes), "-cp", libraries, str(source), at=folder)
    # Started often and for short: the first compiler is enough, and one collector thread.
    java = (shutil.which("java") or "java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-cp")
    return Built(
        (*java, os.pathsep.join([str(done), libraries]), "mesh.client.Main"),
        (*java, os.pathsep.join([str(classes), libraries]), "Driver"),
    )


def _python() -> Built:
    return Built((sys.executable, "-m", "clients.python"), (sys.executable, str(DRIVERS / "python" / "driver.py")))


LANGUAGES: dict[str, tuple[tuple[str, ...], Callable[[], Built]]] = {
    "python": ((), _python),
    "go": (("go",), _go),
    "node": (("node", "npm"), _node),
    "java": (("java", "javac", "mvn"), _java),
}
_built: dict[str, Built] = {}


def build(language: str) -> Built:
    """The commands of a language, built if they are older than their sources. Skips the test where a tool is missing."""
    tools, make = LANGUAGES[language]
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{language}: {', '.join(missing)} not installed")
    if language not in _built:
        BUILT.mkdir(parents=True, exist_ok=True)
        _built[language] = make()
    return _built[language]


def _is_older(made: Path, *sources: Path) -> bool:
    return not made.exists() or any(source.stat().st_mtime > made.stat().st_mtime for source in sources)


def _run(*command: str, at: Path, environ: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=at,
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=_BUILD_LIMIT,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
