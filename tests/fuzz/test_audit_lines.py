"""Audit logs that somebody has had in hand: what verification calls intact is as it was written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.policies.audit.hashes import GENESIS, seal, unseal
from sidecar.policies.audit.verify import verify

many = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")))


def written() -> list[bytes]:
    lines, prev = [], GENESIS
    for sequence in range(1, 7):
        line, prev = seal(
            {"kind": "call" if sequence > 1 else "opened", "method": f"/a.B/{sequence}", "code": "OK"}, sequence, prev
        )
        lines.append(line)
    return lines


LINES = written()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.jsonl"


def check(log: Path, content: bytes) -> None:
    log.write_bytes(content)
    report = verify([log])
    if not report.is_intact:
        return
    # A last line without its end is torn: told as a warning, and not believed.
    kept = [line + b"\n" for line in content.split(b"\n")[:-1] if line]
    begins = LINES.index(kept[0]) if kept and kept[0] in LINES else 0
    believed = kept[: report.records]
    assert believed == LINES[begins : begins + len(believed)]
    assert report.records >= len(kept) - 1 or report.warnings


def test_it_was_intact(log: Path) -> None:
    log.write_bytes(b"".join(LINES))
    report = verify([log])
    assert report.is_intact and report.records == 6


@many
@given(st.data())
def test_bytes_that_were_altered(log: Path, data: st.DataObject) -> None:
    content = b"".join(LINES)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        content = content[:at] + data.draw(st.binary(max_size=3)) + content[at + data.draw(st.integers(0, 5)) :]
    check(log, content)


@many
@given(st.lists(st.integers(0, 5), max_size=8))
def test_lines_that_were_moved_removed_or_repeated(log: Path, order: list[int]) -> None:
    log.write_bytes(b"".join(LINES[i] for i in order))
    report = verify([log])
    assert report.is_intact == (order == list(range(max(1, len(order)))))


@many
@given(st.binary(max_size=300))
def test_any_line(log: Path, line: bytes) -> None:
    assert unseal(line) is None
    check(log, line)
    check(log, b"".join(LINES) + line)
