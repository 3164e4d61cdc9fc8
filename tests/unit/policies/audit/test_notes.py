"""Decisions about the mesh itself, in the same chain as the calls: once per audit log, never sampled."""

from __future__ import annotations

import json
from pathlib import Path

from sidecar.policies.audit.notes import note
from sidecar.policies.audit.policy import Audit
from sidecar.policies.audit.verify import verify
from tests.support.bench import Bench, of

WALL = 1_700_000_000.0


def bench_for(path: Path, more: str = "") -> Bench[Audit]:
    return of(Audit, f'{{sink: "file://{path}"{more}}}')


def kinds(path: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in path.read_text().splitlines()]


def test_a_note_is_a_sealed_record_with_its_facts(tmp_path: Path) -> None:
    bench = bench_for(tmp_path / "a.jsonl", ", sample: 0")
    note([bench.policy], "rollout", {"cluster": "local", "phase": "aborted"}, WALL)
    bench.policy.writer.close()
    record = next(
        each for each in map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines()) if each["kind"] == "rollout"
    )
    assert (record["cluster"], record["phase"]) == ("local", "aborted")
    assert record["time"].startswith("2023-11-14T22:13:20")
    assert verify([tmp_path / "a.jsonl"]).is_intact


def test_policies_that_share_a_log_write_it_once(tmp_path: Path) -> None:
    bench = bench_for(tmp_path / "a.jsonl")
    note([bench.policy, bench.policy], "rollout", {}, WALL)
    bench.policy.writer.close()
    assert kinds(tmp_path / "a.jsonl").count("rollout") == 1


def test_every_log_gets_it(tmp_path: Path) -> None:
    benches = [bench_for(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    note([each.policy for each in benches], "rollout", {}, WALL)
    for each, name in zip(benches, ("a.jsonl", "b.jsonl"), strict=True):
        each.policy.writer.close()
        assert "rollout" in kinds(tmp_path / name)
