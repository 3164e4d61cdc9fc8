"""The data path does not grow dearer unseen: bytecodes per RPC, which are the same on every machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.path import BASELINE, CONFIGS, bytecodes, python

ALLOWED = 1.03
KEPT: dict[str, dict[str, int]] = json.loads(BASELINE.read_text())


@pytest.mark.parametrize("config", CONFIGS)
def test_bytecodes_per_rpc(config: str, tmp_path: Path) -> None:
    if python() not in KEPT:
        pytest.skip(f"bench/path.json has no figures of Python {python()}")
    now, kept = bytecodes(config, tmp_path), KEPT[python()][config]
    assert now <= kept * ALLOWED, (
        f"{config}: {now} bytecodes per RPC, {kept} in bench/path.json; "
        "if the feature is worth it: python -m bench.path --bytecodes --write"
    )


def test_refusing_costs_less_than_serving(tmp_path: Path) -> None:
    assert bytecodes("refused", tmp_path) < 0.8 * bytecodes("relay", tmp_path)
