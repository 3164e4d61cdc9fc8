"""The queue and its thread: nothing is lost in silence."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from sidecar.policies.audit import writer as writer_module
from sidecar.policies.audit.trail import TrailSettings
from sidecar.policies.audit.verify import verify
from sidecar.policies.audit.writer import Writer
from tests.support.clock import FakeClock


class Entry:
    def __init__(self, settings: TrailSettings, number: int) -> None:
        self.settings = settings
        self.number = number

    def describe(self, wall_offset: float) -> dict[str, Any]:
        if self.number < 0:
            raise ZeroDivisionError("cannot be told")
        return {"kind": "call", "n": self.number, "offset": wall_offset}


class Sink:
    """A writer without its thread: `write` and `sign` are called by the test."""

    def __init__(self, folder: Path, *, key: bool = False) -> None:
        self.path = folder / "audit.jsonl"
        self.settings = TrailSettings(rotate_size=1 << 24, keep=3, key=folder / "key" if key else None)
        self.clock = FakeClock()
        self.writer = Writer(self.path, self.clock, logging.getLogger("audit test"), self.settings)

    def put(self, *numbers: int) -> None:
        self.writer.queue.extend(Entry(self.settings, number) for number in numbers)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    @property
    def numbers(self) -> list[int]:
        return [record["n"] for record in self.records if "n" in record]


@pytest.fixture
def sink(tmp_path: Path) -> Sink:
    return Sink(tmp_path)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    def refuse(file: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    return monkeypatch


def test_what_is_queued_is_written_in_order(sink: Sink) -> None:
    sink.put(*range(5000))
    assert sink.writer.waiting == 5000
    assert sink.writer.write()
    assert sink.numbers == list(range(5000))
    assert (sink.writer.written, sink.writer.waiting) == (5000, 0)
    # The offset from monotonic to wall time is taken when it is written.
    assert sink.records[-1]["offset"] == 1_800_000_000.0 - 1000.0


def test_the_thread_writes_what_wakes_it_and_close_waits_for_it(sink: Sink) -> None:
    for number in range(100):
        sink.put(number)
        if sink.writer.asleep:
            sink.writer.wake()
    sink.writer.close()
    assert sink.numbers == list(range(100))
    # It starts again for whatever comes late.
    sink.put(100)
    sink.writer.wake()
    sink.writer.close()
    sink.writer.close()
    assert sink.numbers == list(range(101))
    assert verify([sink.path]).is_intact


def test_close_writes_what_nobody_woke_it_for(sink: Sink) -> None:
    sink.put(1)
    sink.writer.close()
    assert sink.numbers == [1]


def test_nothing_to_write_makes_no_file(sink: Sink) -> None:
    sink.writer.close()
    assert not sink.path.exists()


def test_a_gap_is_recorded_behind_what_was_queued(sink: Sink) -> None:
    sink.put(1, 2)
    sink.writer.dropped += 7
    sink.writer.write()
    sink.put(3)
    sink.writer.write()
    assert [(record["kind"], record.get("dropped")) for record in sink.records[1:]] == [
        ("call", None),
        ("call", None),
        ("gap", 7),
        ("call", None),
    ]
    sink.writer.dropped += 2
    sink.writer.write()
    assert sink.records[-1]["dropped"] == 2


def test_a_full_disk_is_logged_once_counted_and_tried_again(
    sink: Sink, full_disk: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sink.put(1, 2)
    assert not sink.writer.write()
    assert not sink.writer.write()
    assert (sink.writer.failures, sink.writer.written, sink.writer.waiting) == (2, 0, 2)
    assert [record.getMessage() for record in caplog.records] == ["audit log cannot be written"]
    assert "No space left" in caplog.records[0].cause
    full_disk.undo()
    with caplog.at_level("INFO"):
        assert sink.writer.write()
    assert caplog.records[-1].getMessage() == "audit log is written again"
    assert sink.numbers == [1, 2]
    assert verify([sink.path]).is_intact


def test_the_end_with_a_full_disk_says_what_is_lost(
    sink: Sink, full_disk: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sink.put(1, 2, 3)
    sink.writer.close()
    assert sink.writer.dropped == 3
    assert caplog.records[-1].getMessage() == "audit records lost"
    assert caplog.records[-1].records == 3


def test_the_thread_tries_again_by_itself(
    sink: Sink, full_disk: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk.setattr(writer_module, "_RETRY", 0.001)
    failed = sink.writer._failed

    def failed_once(error: Exception) -> None:
        failed(error)
        full_disk.undo()

    sink.writer._failed = failed_once  # the disk has room again after the first failure
    sink.put(1)
    sink.writer.wake()
    sink.writer.close()
    assert sink.numbers == [1]
    assert sink.writer.failures == 1
    assert sink.writer.dropped == 0


def test_a_record_that_cannot_be_told_is_still_one(sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    sink.put(1, -1, 2)
    sink.writer.write()
    assert sink.numbers == [1, 2]
    assert [record.get("defect") for record in sink.records] == [None, None, "ZeroDivisionError", None]
    assert caplog.records[0].getMessage() == "defect"


def test_signed_when_due_and_let_go_of_when_idle(tmp_path: Path) -> None:
    sink = Sink(tmp_path, key=True)
    sink.put(1)
    sink.writer.write()
    assert not sink.writer._is_due()
    sink.clock.advance(10)
    assert sink.writer._is_due()
    sink.writer.sign()
    assert sink.records[-1]["kind"] == "checkpoint"
    assert sink.writer._trail.is_open
    assert sink.writer._rest() == 10.0
    sink.clock.advance(10)
    sink.writer.sign()
    # Nothing came: another process might take over the file; we wait for nothing but records.
    assert not sink.writer._trail.is_open
    assert sink.writer._rest() is None
    sink.put(2)
    sink.writer.write()
    sink.writer.finish()
    assert sink.numbers == [1, 2]
    assert verify([sink.path]).is_intact


def test_settings_come_with_the_records(sink: Sink, tmp_path: Path) -> None:
    """A generation that is rejected changes nothing; one that is in force counts from its first record."""
    sink.put(1)
    sink.writer.write()
    sink.settings = TrailSettings(rotate_size=1 << 20, keep=3, key=tmp_path / "key")
    sink.put(2)
    sink.writer.write()
    sink.writer.finish()
    assert [record["kind"] for record in sink.records] == ["opened", "call", "call", "checkpoint"]
