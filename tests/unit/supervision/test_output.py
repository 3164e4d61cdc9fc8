"""Lines of a process: whole, bounded, and no flood."""

from __future__ import annotations

import pytest

from sidecar.supervision.output import LINES_PER_SECOND, LONGEST_LINE, Lines


@pytest.fixture
def written() -> list[str]:
    return []


@pytest.fixture
def skipped() -> list[int]:
    return []


@pytest.fixture
def lines(written: list[str], skipped: list[int]) -> Lines:
    return Lines(written.append, skipped.append)


def test_lines_are_put_together_across_reads(lines: Lines, written: list[str]) -> None:
    for part in (b"on", b"e\ntw", b"o\r\n", "drei é".encode()):
        lines.feed(part, 0.0)
    assert written == ["one", "two"]
    lines.close(0.0)
    assert written == ["one", "two", "drei é"]


def test_bytes_that_are_no_text_are_marked(lines: Lines, written: list[str]) -> None:
    lines.feed(b"a\xffb\n", 0.0)
    assert written == ["a\ufffdb"]


def test_an_endless_line_is_cut_once_and_what_follows_is_whole(lines: Lines, written: list[str]) -> None:
    for _ in range(10):
        lines.feed(b"x" * LONGEST_LINE, 0.0)
    lines.feed(b"rest of it\nnext\n", 0.0)
    assert [each[:1] + each[-5:] for each in written[:1]] == ["x(cut)"]
    assert written[1:] == ["next"]
    assert len(written[0]) < LONGEST_LINE + 10


def test_a_flood_is_counted(lines: Lines, written: list[str], skipped: list[int]) -> None:
    lines.feed(b"y\n" * (LINES_PER_SECOND + 5), 10.0)
    assert (len(written), skipped) == (LINES_PER_SECOND, [])
    lines.feed(b"z\n", 11.0)
    assert (written[-1], skipped) == ("z", [5])


def test_a_flood_at_the_end_is_told_too(lines: Lines, skipped: list[int]) -> None:
    lines.feed(b"y\n" * (LINES_PER_SECOND + 2), 10.0)
    lines.close(10.0)
    assert skipped == [2]
