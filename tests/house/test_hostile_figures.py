"""What `make hostile` computes from what it measured, and that it says so when an attack hurt."""

from __future__ import annotations

import pytest

from bench.attacks import ATTACKS
from bench.hostile import problems, ratio
from bench.steady import percentile

WELL = {
    "failed": 0,
    "failures": {},
    "p99_ms": 9.0,
    "ratio": 2.9,
    "ratio_spin": 1.0,
    "growth_mib": 3.0,
    "recovery_s": 0.4,
    "connections_left": 0,
}


def test_percentiles_are_values_that_occurred() -> None:
    assert percentile([1.0], 0.99) == 1.0
    assert percentile([float(i) for i in range(1, 1001)], 0.99) == 990.0
    assert percentile([float(i) for i in range(1, 101)], 0.5) == 50.0
    assert percentile([1.0, 2.0, 3.0], 1.0) == 3.0
    assert percentile([], 0.99) == 0.0


def test_a_ratio_is_to_the_mean_of_what_was_around() -> None:
    assert ratio(6.0, 1.0, 3.0) == 3.0
    assert ratio(0.0, 0.0, 0.0) == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"failed": 1, "failures": {"14": 1}},
        {"ratio": 3.1, "ratio_spin": 3.1},
        {"growth_mib": 100.0},
        {"recovery_s": 20.0},
        {"connections_left": 2},
        {"connections_left": -1},
    ],
)
def test_what_hurts_is_said(change: dict[str, object]) -> None:
    assert problems(WELL) == []
    assert len(problems(WELL | change)) == 1


def test_a_busy_core_alone_is_not_the_attackers_merit() -> None:
    assert problems(WELL | {"ratio": 8.0, "ratio_spin": 1.2}) == []


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.own is None])
def test_every_attack_has_something_to_send(name: str) -> None:
    attack = ATTACKS[name]
    chunk, count = next(attack.chunks())
    assert attack.opening or chunk
    assert count == 0 or chunk
