"""What all tests share: how much chance they get, where the tools are, and that none leaves something behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# Where `.ci/run` and `go install` put h2spec and grpcurl.
TOOLS = (ROOT / ".tools" / "bin", Path.home() / "go" / "bin")

# No deadline: how long an example takes depends on the machine. In CI the same examples each time: a failure is the change's.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_configure() -> None:
    """Put the tools on the PATH, before any module asks for them."""
    known = os.environ.get("PATH", "").split(os.pathsep)
    found = [str(folder) for folder in TOOLS if folder.is_dir() and str(folder) not in known]
    os.environ["PATH"] = os.pathsep.join([*found, *known])


def _children() -> dict[int, str]:
    """Processes that this one started and has not waited for, with their command lines; empty where the system does not say."""
    found: dict[int, str] = {}
    for listing in Path("/proc/self/task").glob("*/children"):
        try:
            for each in map(int, listing.read_text().split()):
                found[each] = Path(f"/proc/{each}/cmdline").read_text().replace("\0", " ")
        except OSError:  # The thread or the process ended meanwhile.
            continue
    return found


def _threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if not each.daemon}


@pytest.fixture(autouse=True)
def no_thread_stays_behind() -> Iterator[None]:
    """A thread that a test leaves would keep the interpreter alive. Tasks and sockets are watched by warnings, which are errors."""
    before = _threads()
    yield
    left = _threads() - before
    for each in left:  # Those that are ending get to end.
        each.join(5)
    assert [each.name for each in left if each.is_alive()] == [], "threads that the test left"


@pytest.fixture(scope="module", autouse=True)
def no_process_stays_behind() -> Iterator[None]:
    """A module ends the processes that it started. Per module: what its tests share starts when the first one asks."""
    before = _children()
    yield
    # multiprocessing keeps a process of its own until the interpreter ends.
    left = {number: command for number, command in _children().items() if "multiprocessing" not in command}
    assert {number: command for number, command in left.items() if number not in before} == {}, (
        "processes that the tests left"
    )
