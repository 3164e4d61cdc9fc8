"""Whatever is done to a file afterwards is found, and called what it is."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.policies.audit.hashes import GENESIS, read_pin, seal, unseal
from sidecar.policies.audit.trail import Trail, TrailSettings
from sidecar.policies.audit.verify import Report, verify

Lines = list[bytes]


class Log:
    """An audit log as a sidecar has left it: `opened`, 12 calls, a checkpoint every 5, one at the end."""

    def __init__(self, folder: Path, *, signed: bool = True) -> None:
        self.path = folder / "audit.jsonl"
        self.beside = folder / "audit.jsonl.checkpoint"
        key = folder / "key.pem" if signed else None
        trail = Trail(self.path, lambda: 1.8e9, TrailSettings(rotate_size=1 << 20, keep=3, every=5, key=key))
        trail.append(deque({"kind": "call", "n": number} for number in range(12)))
        trail.close()
        self.lines = self.path.read_bytes().splitlines(keepends=True)
        self.pin = read_pin(f"{key}.pub") if key else ""

    def verify(self, *, pinned: bool = True) -> Report:
        return verify([self.path], pins=[self.pin] if pinned and self.pin else [])

    def with_lines(self, lines: Lines) -> Report:
        self.path.write_bytes(b"".join(lines))
        return self.verify()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return Log(tmp_path_factory.mktemp("log"))


def kinds(report: Report) -> list[tuple[str, int]]:
    return [(each.kind, each.line) for each in report.breaks]


def rehashed(lines: Lines, start: int, change: Callable[[dict[str, object]], None]) -> Lines:
    """What somebody does who knows the format and has no key: change line `start`, compute all later hashes anew."""
    done = lines[:start]
    prev = unseal(lines[start - 1].strip()).hash if start else GENESIS
    for i, line in enumerate(lines[start:]):
        record = json.loads(line)
        del record["hash"]
        sequence = record.pop("sequence")
        del record["prev"]
        if i == 0:
            change(record)
        line, prev = seal(record, sequence, prev)
        done.append(line)
    return done


def test_an_untouched_file_is_intact(log: Log) -> None:
    report = log.with_lines(log.lines)
    assert report.is_intact
    assert not report.warnings
    assert (report.first, report.last, report.records, report.signed_to) == (
        1,
        len(log.lines),
        len(log.lines),
        len(log.lines),
    )
    assert report.keys == [log.pin]


def test_edited(log: Log) -> None:
    lines = list(log.lines)
    lines[4] = lines[4].replace(b'"n":', b'"m":')
    assert kinds(log.with_lines(lines)) == [("edited", 5)]


def test_edited_first_and_last_line(log: Log) -> None:
    for position in (0, len(log.lines) - 1):
        lines = list(log.lines)
        lines[position] = lines[position].replace(b'"kind"', b'"kinD"')
        assert kinds(log.with_lines(lines))[0] == ("edited", position + 1)


def test_removed(log: Log) -> None:
    for position in range(1, len(log.lines) - 1):
        assert kinds(log.with_lines(log.lines[:position] + log.lines[position + 1 :])) == [("removed", position + 1)]


def test_removed_from_the_beginning(log: Log) -> None:
    for count in range(1, len(log.lines)):
        assert kinds(log.with_lines(log.lines[count:]))[0] == ("removed", 1)


def test_swapped(log: Log) -> None:
    lines = list(log.lines)
    lines[3], lines[4] = lines[4], lines[3]
    report = log.with_lines(lines)
    assert kinds(report) == [("swapped", 4)]
    assert "record 4 belongs before this line, and stands in line 5" in report.breaks[0].text


def test_inserted_copy_of_another_line(log: Log) -> None:
    assert kinds(log.with_lines([*log.lines[:6], log.lines[2], *log.lines[6:]])) == [("inserted", 7)]


def test_inserted_with_a_hash_that_fits(log: Log) -> None:
    last = unseal(log.lines[5].strip())
    forged = seal({"kind": "call", "n": 666}, last.sequence + 1, last.hash)[0]
    assert ("inserted", 8) in kinds(log.with_lines([*log.lines[:6], forged, *log.lines[6:]]))


def test_inserted_nonsense(log: Log) -> None:
    for nonsense in (b"\n", b"{}\n", b"nonsense\n"):
        found = kinds(log.with_lines([*log.lines[:6], nonsense, *log.lines[6:]]))
        assert found[0] == ("edited", 7)


def test_truncated_after_any_line(log: Log) -> None:
    for left in range(len(log.lines)):
        assert "truncated" in [each.kind for each in log.with_lines(log.lines[:left]).breaks], left


def test_truncated_within_a_line_is_torn_and_truncated(log: Log) -> None:
    report = log.with_lines([*log.lines[:-1], log.lines[-1][:-20]])
    assert [each.kind for each in report.breaks] == ["truncated"]
    assert any("torn" in each for each in report.warnings)


def test_emptied(log: Log) -> None:
    assert [each.kind for each in log.with_lines([]).breaks] == ["removed", "truncated"]


def test_all_hashes_computed_anew_without_the_key(log: Log) -> None:
    report = log.with_lines(rehashed(log.lines, 3, lambda record: record.update(n=666)))
    assert "signature" in [each.kind for each in report.breaks]


def test_all_hashes_computed_anew_after_the_last_checkpoint_in_the_chain(log: Log) -> None:
    """The signatures inside still fit; the one beside the file does not."""
    report = log.with_lines(rehashed(log.lines, len(log.lines) - 1, lambda record: record.update(time="1999")))
    assert kinds(report) == [("edited", len(log.lines))]


def test_signed_again_with_another_key(tmp_path: Path) -> None:
    log, other = Log(tmp_path), Log.__new__(Log)
    (tmp_path / "other").mkdir()
    other.__init__(tmp_path / "other")
    log.path.write_bytes(other.path.read_bytes())
    log.beside.write_bytes(other.beside.read_bytes())
    assert {each.kind for each in log.verify().breaks} == {"key"}
    # Who names no key is told which one it was.
    report = log.verify(pinned=False)
    assert report.is_intact
    assert any(other.pin in each for each in report.warnings)


def test_a_checkpoint_that_is_gone_or_changed(tmp_path: Path) -> None:
    log = Log(tmp_path)
    content = log.beside.read_bytes()
    log.beside.write_bytes(content.replace(b'"sequence": 1', b'"sequence": 2'))
    assert [each.kind for each in log.verify().breaks] == ["signature"]
    log.beside.write_bytes(b"nothing")
    assert [each.kind for each in log.verify().breaks] == ["signature"]
    log.beside.unlink()
    assert [each.kind for each in log.verify().breaks] == ["truncated"]
    assert any("a cut end cannot be found" in each for each in log.verify(pinned=False).warnings)


def test_a_number_noted_elsewhere_finds_a_cut_without_any_key(tmp_path: Path) -> None:
    log = Log(tmp_path, signed=False)
    assert verify([log.path], expect_sequence=13).is_intact
    assert [each.kind for each in verify([log.path], expect_sequence=14).breaks] == ["truncated"]


def test_files_are_one_chain_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    trail = Trail(path, lambda: 1.8e9, TrailSettings(rotate_size=1500, keep=9, every=5, key=tmp_path / "k"))
    trail.append(deque({"kind": "call", "n": number} for number in range(30)))
    trail.close()
    files = [path, *(tmp_path / f"audit.jsonl.{number}" for number in range(1, 4))]
    pins = [read_pin(str(tmp_path / "k.pub"))]
    assert verify(files, pins=pins).is_intact
    assert verify(files[::-1], pins=pins).is_intact
    # A file in the middle that was not given is a hole; alone, each is right in itself.
    assert [each.kind for each in verify([files[0], files[2]], pins=pins).breaks] == ["removed"]
    for each in files:
        assert verify([each], pins=pins).is_intact, each
    # A full file whose end is cut says so itself.
    lines = files[2].read_bytes().splitlines(keepends=True)
    files[2].write_bytes(b"".join(lines[:-1]))
    assert [each.kind for each in verify([files[2]], pins=pins).breaks] == ["truncated"]
    assert "removed" in [each.kind for each in verify(files, pins=pins).breaks]


def test_what_the_log_says_of_itself_is_passed_on(tmp_path: Path) -> None:
    trail = Trail(tmp_path / "a", lambda: 1.8e9, TrailSettings(rotate_size=1 << 20, keep=1))
    trail.append(deque([{"kind": "gap", "dropped": 17}]))
    trail.close()
    assert any("17 records were dropped" in each for each in verify([tmp_path / "a"]).warnings)


# ── any single mutation ──


@st.composite
def mutation(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    where = draw(st.floats(0, 1, exclude_max=True))
    kind = draw(st.sampled_from(["flip", "delete", "insert", "cut", "drop_line", "copy_line", "swap_lines"]))
    byte = draw(st.integers(0, 255))
    other = draw(st.floats(0, 1, exclude_max=True))

    def change(content: bytes) -> bytes:
        position = int(where * len(content))
        lines = content.splitlines(keepends=True)
        line, second = int(where * len(lines)), int(other * len(lines))
        if kind == "flip":
            return content[:position] + bytes([content[position] ^ (byte or 1)]) + content[position + 1 :]
        if kind == "delete":
            return content[:position] + content[position + 1 + byte :]
        if kind == "insert":
            return content[:position] + bytes([byte]) + content[position:]
        if kind == "cut":
            return content[:position]
        if kind == "drop_line":
            return b"".join(lines[:line] + lines[line + 1 :])
        if kind == "copy_line":
            return b"".join([*lines[:line], lines[second], *lines[line:]])
        lines[line], lines[second] = lines[second], lines[line]
        return b"".join(lines)

    return change


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=mutation())
def test_any_single_mutation_is_found(log: Log, change: Callable[[bytes], bytes]) -> None:
    original = b"".join(log.lines)
    changed = change(original)
    log.path.write_bytes(changed)
    report = log.verify()
    if changed == original:
        assert report.is_intact
    elif changed == original[:-1]:
        # The very last newline alone: all records are there, and signed; it is said.
        assert report.warnings
    else:
        assert not report.is_intact
