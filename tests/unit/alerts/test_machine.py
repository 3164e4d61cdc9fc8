"""How much processor time and memory is used, by files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.alerts.machine import Machine, cpu_seconds
from sidecar.telemetry import names
from sidecar.telemetry.metrics import Metrics

MEMINFO = "MemTotal:       1000 kB\nMemFree:   10 kB\nMemAvailable:   250 kB\n"


def kernel(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def memory(root: Path, files: dict[str, str]) -> float | None:
    machine = Machine(Metrics(), root=kernel(root, files), used=lambda: 0.0)
    machine.sample(0.0)
    return machine.memory


def cpu(root: Path, files: dict[str, str], used: list[float], every: float = 5.0) -> float | None:
    readings = iter(used)
    machine = Machine(Metrics(), root=kernel(root, files), used=lambda: next(readings))
    for i in range(len(used)):
        machine.sample(i * every)
    return machine.cpu


def test_memory_of_the_machine(tmp_path: Path) -> None:
    assert memory(tmp_path, {}) == 0.75


def test_memory_of_the_container(tmp_path: Path) -> None:
    """Pages of files that nobody uses just now do not count."""
    files = {
        "proc/self/cgroup": "0::/pod/box\n",
        "sys/fs/cgroup/pod/box/memory.max": "100000\n",
        "sys/fs/cgroup/pod/box/memory.current": "95000\n",
        "sys/fs/cgroup/pod/box/memory.stat": "anon 60000\ninactive_file 15000\n",
    }
    assert memory(tmp_path, files) == 0.8


@pytest.mark.parametrize("limit", ["max", "99999999999"])
def test_a_container_without_a_limit_of_its_own_has_the_machine(tmp_path: Path, limit: str) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": limit,
        "sys/fs/cgroup/memory.current": "95000\n",
    }
    assert memory(tmp_path, files) == 0.75


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    machine = Machine(metrics := Metrics(), root=tmp_path, used=lambda: 0.0)
    machine.sample(0.0)
    assert (machine.memory, machine.cpu) == (None, None)
    assert metrics.samples(names.MEMORY_USAGE) == metrics.samples(names.CPU_USAGE) == {}


def test_processor_time_of_one_core(tmp_path: Path) -> None:
    assert cpu(tmp_path, {}, [0.0, 2.5, 5.0]) == 0.5
    assert cpu(tmp_path, {}, [0.0]) is None


def test_processor_time_is_that_of_the_last_minute(tmp_path: Path) -> None:
    assert cpu(tmp_path, {}, [*(5.0 * i for i in range(30)), *([145.0] * 13)]) == 0.0


@pytest.mark.parametrize(("quota", "share"), [("50000 100000", 1.0), ("max 100000", 0.5), ("400000 100000", 0.5)])
def test_processor_time_that_the_container_gets(tmp_path: Path, quota: str, share: float) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota}
    assert cpu(tmp_path, files, [0.0, 2.5]) == share


def test_processor_time_that_workers_share(tmp_path: Path) -> None:
    """One core for four workers: a quarter is all that each can have."""
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 100000"}
    used = iter([0.0, 2.5])
    machine = Machine(Metrics(), root=kernel(tmp_path, files), used=lambda: next(used))
    machine.shared_by(4)
    machine.sample(0.0)
    machine.sample(10.0)
    assert machine.cpu == 1.0


def test_on_this_machine() -> None:
    machine = Machine(metrics := Metrics())
    machine.sample(0.0)
    machine.sample(1.0)
    assert cpu_seconds() > 0
    assert 0 < metrics.samples(names.MEMORY_USAGE)[()] < 1
    assert metrics.samples(names.CPU_USAGE)[()] >= 0
