from __future__ import annotations

from pathlib import Path

from sidecar.control.watch import INTERVAL, FileWatch
from tests.support.clock import FakeClock


def watching(*files: Path) -> tuple[FakeClock, list[set[Path]]]:
    clock = FakeClock()
    seen: list[set[Path]] = []
    FileWatch(clock, seen.append).watch(files)
    return clock, seen


def test_content_counts_not_time(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    clock, seen = watching(file)
    file.write_text("one")
    clock.advance(INTERVAL)
    assert seen == []
    file.write_text("two")
    clock.advance(INTERVAL)
    clock.advance(INTERVAL)
    assert seen == [{file}]


def test_a_swapped_symlink_shows(tmp_path: Path) -> None:
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tls.crt").write_text(name)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "tls.crt").symlink_to("..data/tls.crt")
    clock, seen = watching(tmp_path / "tls.crt")
    (tmp_path / "new").symlink_to("v2")
    (tmp_path / "new").rename(tmp_path / "..data")
    clock.advance(INTERVAL)
    assert seen == [{tmp_path / "tls.crt"}]


def test_a_file_that_is_missing_for_a_moment_is_not_news(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    clock, seen = watching(file)
    file.unlink()
    clock.advance(INTERVAL)
    file.write_text("one")
    clock.advance(INTERVAL)
    assert seen == []
    file.write_text("two")
    clock.advance(INTERVAL)
    assert seen == [{file}]


def test_stop(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    clock = FakeClock()
    seen: list[set[Path]] = []
    watch = FileWatch(clock, seen.append)
    watch.watch([file])
    watch.stop()
    file.write_text("two")
    clock.advance(10)
    assert seen == []
