"""Progress of long commands: silent at first, one line on a terminal, few lines elsewhere."""

from __future__ import annotations

import io

from sidecar.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Watch:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_quick_is_silent() -> None:
    out, watch = Terminal(), Watch()
    with Progress("checking", stream=out, monotonic=watch) as progress:
        watch.now = 0.99
        progress.look()
    assert out.getvalue() == ""


def test_on_a_terminal_one_line_is_rewritten_and_wiped() -> None:
    out, watch = Terminal(), Watch()
    with Progress("checking", total=3, stream=out, monotonic=watch) as progress:
        progress.step("10.0.0.5:1")
        watch.now = 2.0
        progress.look()
        assert out.getvalue().endswith("checking 1 of 3: 10.0.0.5:1 (2 s)")
        progress.step("10.0.0.6:1")
        watch.now = 3.0
        progress.look()
        assert out.getvalue().endswith(" checking 2 of 3: 10.0.0.6:1 (3 s)")
        progress.say("10.0.0.6:1 does not answer")
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().rsplit("\n", 1)[0].endswith("10.0.0.6:1 does not answer")


def test_elsewhere_there_is_a_line_each_ten_seconds() -> None:
    out, watch = io.StringIO(), Watch()
    with Progress("verifying", stream=out, monotonic=watch) as progress:
        for now in (1.5, 3.0, 11.0, 11.6, 12.0):
            watch.now = now
            progress.look()
    assert out.getvalue().splitlines() == ["verifying (2 s)", "verifying (12 s)"]
