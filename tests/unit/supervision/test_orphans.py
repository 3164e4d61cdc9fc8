"""Who is buried: a child that has ended, and that nobody waited for between two looks."""

from __future__ import annotations

import os
import subprocess
import sys

from sidecar.runtime import Runtime
from sidecar.supervision.orphans import Orphans, zombies


def orphans() -> Orphans:
    return Orphans(Runtime.__new__(Runtime))


def test_a_zombie_is_buried_at_the_second_look() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    try:
        found = zombies(os.getpid())
        assert process.pid in found
        mine = frozenset({process.pid})
        looks = orphans()
        looks.look(mine)
        assert looks.buried == 0, "its own parent may be about to wait for it"
        looks.look(mine)
        assert looks.buried == 1
        assert process.pid not in zombies(os.getpid())
    finally:
        process.wait()


def test_one_that_was_waited_for_meanwhile_is_left_alone() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    looks = orphans()
    looks.look(frozenset({process.pid}))
    looks.look(frozenset({process.pid}))
    assert looks.buried == 0
