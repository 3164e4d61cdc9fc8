"""The rules of the house: what ARCHITECTURE.md and CONTRIBUTING.md promise, held against the tree."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(each for each in (ROOT / "sidecar").rglob("*.py") if "_pb2" not in each.name)

# Modules that a test of another kind covers; each with its reason.
TESTED_ELSEWHERE = {
    "sidecar/__init__.py": "a docstring and a version",
    "sidecar/__main__.py": "run by every journey",
    "sidecar/runtime.py": "used by every scene",
    "sidecar/policies/retry.py": "tests/scenes/test_retry.py: what it decides shows in a conversation only",
    "sidecar/policies/hedge.py": "tests/scenes/test_hedge.py: the same",
    "sidecar/policies/cache/policy.py": "tests/scenes/test_cache.py: the same",
    "sidecar/policies/mirror/policy.py": "tests/scenes/test_mirror.py: the same",
    "sidecar/policies/idempotency/policy.py": "tests/scenes/test_idempotency.py: the same",
    "sidecar/policies/idempotency/executions.py": "tests/scenes/test_idempotency.py: the same",
}
COVERED_BY = {
    # folder → where its behaviour is shown
    "sidecar/proxy": "tests/scenes",
    "sidecar/listeners": "tests/journeys",
    "sidecar/clusters": "tests/journeys",
    "sidecar/transport": "tests/journeys",
    "sidecar/control": "tests/journeys",
    "sidecar/cli": "tests/journeys",
    "sidecar/telemetry": "tests/journeys",
    "sidecar/supervision": "tests/journeys",
    "sidecar/alerts/senders": "tests/journeys",
    "sidecar/rollout": "tests/journeys",
}
LONG_FILES = {
    "sidecar/http2/connection.py": "one connection, one state; it reads in the order of a frame's way",
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("source", SOURCES, ids=relative)
def test_every_module_has_its_test(source: Path) -> None:
    name = relative(source)
    if name in TESTED_ELSEWHERE or source.name == "__init__.py":
        return
    mirrored = ROOT / "tests" / "unit" / Path(name).relative_to("sidecar").parent / f"test_{source.stem}.py"
    if mirrored.exists():
        return
    folder = next((each for each in COVERED_BY if name.startswith(f"{each}/")), None)
    assert folder is not None, f"{name} has no {relative(mirrored)}"
    assert any((ROOT / COVERED_BY[folder]).glob("test_*.py")), f"{COVERED_BY[folder]} has no tests"


@pytest.mark.parametrize("source", SOURCES, ids=relative)
def test_no_file_is_long_without_a_reason(source: Path) -> None:
    lines = len(source.read_text().splitlines())
    assert lines <= 600 or relative(source) in LONG_FILES, f"{relative(source)} has {lines} lines"


def test_the_named_steps_of_the_journey_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = text[text.index("## The journey of a call") : text.index("## Arrows")]
    named = re.findall(r"^\| \d+ \| `([\w.]+)`", table, re.MULTILINE)
    assert len(named) >= 7
    for dotted in named:
        module, _, attribute = dotted.partition(".")
        found = subprocess.run(
            [sys.executable, "-c", _RESOLVE, dotted], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, f"{dotted}: {found.stderr.strip().splitlines()[-1] if found.stderr else ''}"


_RESOLVE = """
import importlib, sys
parts = sys.argv[1].split(".")
for end in range(len(parts), 0, -1):
    try:
        found = importlib.import_module(".".join(["sidecar", *parts[:end]]))
        break
    except ModuleNotFoundError:
        continue
for part in parts[end:]:
    found = getattr(found, part)
"""


def test_every_policy_has_a_place_and_a_reason() -> None:
    from sidecar.policies import ORDER

    text = (ROOT / "sidecar/policies/__init__.py").read_text()
    for policy in ORDER:
        assert re.search(rf"^    {policy.__name__},  # \S", text, re.MULTILINE), f"{policy.__name__} has no reason"


def test_reasons_are_documented_words() -> None:
    from sidecar.proxy.rejection import Reason

    for reason in Reason:
        assert re.fullmatch(r"[A-Z][A-Z_]{2,62}", reason.name)
    # No two reasons are one: an alias would hide why a call was refused.
    assert len({reason.value for reason in Reason}) == len(Reason.__members__)


@pytest.mark.parametrize(
    "module", ["grpc", "redis", "jwt", "opentelemetry", "cryptography", "prometheus_client", "google"]
)
def test_a_plain_start_imports_only_what_it_needs(module: str) -> None:
    code = f"import sidecar.cli.run, sidecar.control.process, sys; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_locks_name_no_place() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "--hash=sha256:" in text
        assert not re.search(r"https?://|--index-url|--find-links|file:", text), lock.name


def test_nothing_names_a_machine_or_is_unfinished() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    unfinished = re.compile(r"\b(TODO|FIXME|XXX)\b|NotImplementedError\(\"not yet")
    places = re.compile(r"(?<![\w.])/(work|root)/\w")
    for name in tracked:
        path = ROOT / name
        if path.suffix not in {".py", ".md", ".yaml", ".toml", ".proto", ""} or not path.is_file() or "_pb2" in name:
            continue
        if name == "tests/house/test_house.py":
            continue
        text = path.read_text(errors="ignore")
        assert not unfinished.search(text), f"{name} looks unfinished"
        assert not places.search(text), f"{name} names a place on one machine"
