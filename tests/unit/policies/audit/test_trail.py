"""The file itself: one chain over rotation, restart, torn lines, a full disk and a file that was taken away."""

from __future__ import annotations

import errno
import json
import os
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from sidecar.policies.audit.trail import Trail, TrailSettings, rfc3339
from sidecar.policies.audit.verify import verify


def trail_in(folder: Path, *, key: bool = True, size: int = 1 << 20, keep: int = 3, every: int = 10) -> Trail:
    settings = TrailSettings(rotate_size=size, keep=keep, every=every, key=folder / "key.pem" if key else None)
    return Trail(folder / "audit.jsonl", lambda: 1_800_000_000.0, settings)


def append(trail: Trail, *numbers: int) -> None:
    records: deque[dict[str, Any]] = deque({"kind": "call", "n": number, "text": "x" * 100} for number in numbers)
    trail.append(records)
    assert not records


def kill(trail: Trail) -> None:
    """What the kernel does with the descriptors of a process that was killed."""
    trail._release()


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("audit.jsonl*") if path.suffix not in {".lock", ".checkpoint"}]


def numbers(folder: Path) -> list[int]:
    records = [record for path in files(folder) for record in read(path)]
    return [record["n"] for record in sorted(records, key=lambda each: each["sequence"]) if "n" in record]


def test_a_file_begins_with_opened_and_follows_from_nothing(tmp_path: Path) -> None:
    trail = trail_in(tmp_path, key=False)
    append(trail, 1, 2)
    trail.close()
    records = read(tmp_path / "audit.jsonl")
    assert [record["kind"] for record in records] == ["opened", "call", "call"]
    assert [record["sequence"] for record in records] == [1, 2, 3]
    assert records[0]["prev"] == "0" * 64
    assert [record["prev"] for record in records[1:]] == [record["hash"] for record in records[:-1]]
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_restart_goes_on_with_the_chain(tmp_path: Path) -> None:
    for number in range(5):
        trail = trail_in(tmp_path)
        append(trail, number)
        trail.close()
    report = verify([tmp_path / "audit.jsonl"])
    assert report.is_intact
    assert numbers(tmp_path) == [0, 1, 2, 3, 4]
    assert [record["kind"] for record in read(tmp_path / "audit.jsonl")].count("opened") == 1


def test_rotation_keeps_the_chain_and_so_many_files(tmp_path: Path) -> None:
    trail = trail_in(tmp_path, size=4096, keep=3)
    for number in range(200):
        append(trail, number)
    trail.close()
    found = files(tmp_path)
    assert sorted(path.name for path in found) == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.3"]
    assert all(path.stat().st_size <= 4096 + 1024 for path in found)
    report = verify(found)
    assert report.is_intact
    # The oldest are gone, the rest is without a hole.
    kept = numbers(tmp_path)
    assert kept == list(range(kept[0], 200))
    assert kept[0] > 0
    assert any("earlier files were not given" in each for each in report.warnings)


def test_one_large_batch_rotates_in_between(tmp_path: Path) -> None:
    trail = trail_in(tmp_path, size=4096, keep=100)
    append(trail, *range(100))
    trail.close()
    assert len(files(tmp_path)) > 5
    assert verify(files(tmp_path)).is_intact
    assert numbers(tmp_path) == list(range(100))


def test_a_record_larger_than_a_file_has_one_of_its_own(tmp_path: Path) -> None:
    trail = trail_in(tmp_path, size=1024, keep=100)
    trail.append(deque([{"kind": "call", "n": number, "text": "x" * 3000} for number in range(3)]))
    trail.close()
    assert numbers(tmp_path) == [0, 1, 2]
    assert verify(files(tmp_path)).is_intact


def test_checkpoints_come_every_so_many_records_and_at_the_end(tmp_path: Path) -> None:
    trail = trail_in(tmp_path, every=10)
    append(trail, *range(35))
    kinds = [record["kind"] for record in read(tmp_path / "audit.jsonl")]
    assert kinds.count("checkpoint") == 3
    trail.close()
    trail.close()
    assert [record["kind"] for record in read(tmp_path / "audit.jsonl")].count("checkpoint") == 4
    last = read(tmp_path / "audit.jsonl")[-1]
    beside = json.loads((tmp_path / "audit.jsonl.checkpoint").read_text())
    assert (beside["sequence"], beside["hash"]) == (last["sequence"], last["hash"])


def test_every_single_record_can_be_signed(tmp_path: Path) -> None:
    trail = trail_in(tmp_path, every=1)
    append(trail, 1, 2, 3)
    assert [record["kind"] for record in read(tmp_path / "audit.jsonl")] == ["opened", *["call", "checkpoint"] * 3]


@pytest.mark.parametrize("cut", [1, 2, 40, 150])
def test_a_torn_last_line_is_named_and_the_chain_goes_on(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "audit.jsonl"
    trail = trail_in(tmp_path, key=False)
    append(trail, 1, 2, 3)
    kill(trail)
    os.truncate(path, path.stat().st_size - cut)
    torn = verify([path])
    assert torn.is_intact
    assert any(("torn" if cut > 1 else "has no end") in each for each in torn.warnings)
    trail = trail_in(tmp_path, key=False)
    append(trail, 4)
    trail.close()
    report = verify([path])
    assert report.is_intact
    if cut == 1:
        # Only its newline was missing: nothing is lost, nothing need be said.
        assert numbers(tmp_path) == [1, 2, 3, 4]
    else:
        assert b'"kind":"recovered"' in path.read_bytes()
        assert any("named by the record after it" in each for each in report.warnings)


def test_a_torn_first_line_is_recovered_too(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    trail = trail_in(tmp_path, key=False)
    append(trail, 1)
    kill(trail)
    os.truncate(path, 30)
    trail = trail_in(tmp_path, key=False)
    append(trail, 2)
    report = verify([path])
    assert report.is_intact
    assert report.first == 1
    assert any("torn line (31 bytes)" in each for each in report.warnings)


def test_what_was_torn_cannot_be_changed_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    trail = trail_in(tmp_path, key=False)
    append(trail, 1, 2)
    kill(trail)
    os.truncate(path, path.stat().st_size - 40)
    append(trail_in(tmp_path, key=False), 3)
    content = path.read_bytes()
    assert verify([path]).is_intact
    path.write_bytes(content.replace(b'"n":2', b'"n":9'))
    assert [each.kind for each in verify([path]).breaks] == ["edited"]


def test_a_tail_cut_while_the_sidecar_was_down_stays_visible(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    trail = trail_in(tmp_path)
    append(trail, *range(5))
    trail.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-3]))
    again = trail_in(tmp_path)
    append(again, 5)
    again.close()
    report = verify([path])
    assert [each.kind for each in report.breaks] == ["removed"]
    assert any("the file ends at" in each for each in report.warnings)


def test_a_tail_cut_under_a_running_sidecar_stays_visible(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    trail = trail_in(tmp_path, key=False)
    append(trail, *range(5))
    trail.close()
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    append(trail, 5)
    assert [each.kind for each in verify([path]).breaks] == ["removed"]


def test_a_file_that_is_taken_away_is_followed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    trail = trail_in(tmp_path)
    append(trail, 1, 2)
    moved = path.rename(tmp_path / "moved.jsonl")
    append(trail, 3)
    trail.close()
    assert read(path)[0]["kind"] == "opened"
    assert read(path)[0]["prev"] == read(moved)[-1]["hash"]
    assert verify([path, moved], checkpoint=tmp_path / "audit.jsonl.checkpoint").is_intact


def test_killed_between_the_last_record_of_a_file_and_its_renaming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trail = trail_in(tmp_path, size=2048)

    class Killed(BaseException):
        pass

    def killed(self: Trail) -> None:
        raise Killed

    monkeypatch.setattr(Trail, "_shift", killed)
    with pytest.raises(Killed):
        for number in range(20):
            append(trail, number)
    assert [path.name for path in files(tmp_path)] == ["audit.jsonl"]
    monkeypatch.undo()
    kill(trail)
    again = trail_in(tmp_path, size=2048)
    append(again, 100)
    again.close()
    assert sorted(path.name for path in files(tmp_path)) == ["audit.jsonl", "audit.jsonl.1"]
    report = verify(files(tmp_path))
    assert report.is_intact
    assert not any("torn" in each for each in report.warnings)


def test_a_disk_that_takes_half_leaves_whole_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trail = trail_in(tmp_path, key=False)
    append(trail, 1, 2)
    before = (tmp_path / "audit.jsonl").read_bytes()
    real = os.write
    writes = iter([100])

    def half(file: int, content: bytes) -> int:
        room = next(writes, 0)
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, content[:room])

    monkeypatch.setattr(os, "write", half)
    records: deque[dict[str, Any]] = deque([{"kind": "call", "n": 3}, {"kind": "call", "n": 4}])
    with pytest.raises(OSError, match="No space left"):
        trail.append(records)
    assert (tmp_path / "audit.jsonl").read_bytes() == before
    assert len(records) == 2
    monkeypatch.undo()
    trail.append(records)
    trail.close()
    assert numbers(tmp_path) == [1, 2, 3, 4]
    report = verify([tmp_path / "audit.jsonl"])
    assert report.is_intact
    assert [record["kind"] for record in read(tmp_path / "audit.jsonl")].count("recovered") == 0


def test_two_writers_do_not_share_a_file(tmp_path: Path) -> None:
    first, second = trail_in(tmp_path, key=False), trail_in(tmp_path, key=False)
    append(first, 1)
    with pytest.raises(OSError, match="another process writes this audit log"):
        append(second, 2)
    first.close()
    append(second, 2)
    second.close()
    assert verify([tmp_path / "audit.jsonl"]).is_intact


def test_another_file_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"something else\n" * 100_000)
    with pytest.raises(OSError, match="this is another file"):
        append(trail_in(tmp_path, key=False), 1)
    assert path.read_bytes() == b"something else\n" * 100_000


def test_a_key_that_is_none_stops_nothing_but_the_audit(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("no key")
    trail = trail_in(tmp_path, every=1)
    with pytest.raises(ValueError, match="is no private key in PEM"):
        append(trail, 1)


def test_times_are_rfc_3339_in_utc() -> None:
    assert rfc3339(1_800_000_000.0) == "2027-01-15T08:00:00.000Z"
    assert rfc3339(1_800_000_000.1239) == "2027-01-15T08:00:00.123Z"
