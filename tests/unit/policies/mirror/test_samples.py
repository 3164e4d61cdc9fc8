from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from sidecar.policies.mirror.samples import Samples
from tests.support.clock import FakeClock


def samples(path: Path, clock: FakeClock, per_minute: int = 3, max_bytes: int = 10_000) -> Samples:
    return Samples(path, per_minute, max_bytes, clock, logging.getLogger("samples"))


def test_so_many_a_minute_and_no_more(tmp_path: Path) -> None:
    clock, path = FakeClock(monotonic=600.0), tmp_path / "d.jsonl"
    made = samples(path, clock)
    assert [made.take({"n": i}) for i in range(5)] == [True, True, True, False, False]
    clock.advance(60.0)
    assert made.take({"n": 5})
    made.close()
    assert [json.loads(each)["n"] for each in path.read_text().splitlines()] == [0, 1, 2, 5]


def test_a_file_that_has_grown_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("x" * 200)
    made = samples(path, FakeClock(), max_bytes=100)
    made.take({"n": 1})
    made.close()
    assert path.read_text() == '{"n":1}\n'
    assert (tmp_path / "d.jsonl.1").read_text() == "x" * 200


def test_a_place_that_cannot_be_written_is_told_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = samples(tmp_path / "missing" / "d.jsonl", FakeClock())
    assert made.take({"n": 1})
    made.close()
    assert [each.message for each in caplog.records] == ["samples of differences cannot be written"]


def test_nothing_to_write_is_no_thread(tmp_path: Path) -> None:
    made = samples(tmp_path / "d.jsonl", FakeClock())
    made.close()
    assert not (tmp_path / "d.jsonl").exists()
