"""No test sleeps: it waits for what it wants to see, or moves the clock. A turn of the loop (`asyncio.sleep(0)`) is allowed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def sleeps(source: str) -> list[int]:
    """Lines that call `time.sleep` or `asyncio.sleep` with anything but the constant 0, however it was imported."""
    tree = ast.parse(source)
    names = {"time.sleep", "asyncio.sleep"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in {"time", "asyncio"}:
            names.update(each.asname or each.name for each in node.names if each.name == "sleep")
        if isinstance(node, ast.Import):
            names.update(
                f"{each.asname}.sleep" for each in node.names if each.name in {"time", "asyncio"} and each.asname
            )
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in names
        and not (node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0)
    ]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_test_sleeps(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    found = sleeps(path.read_text())
    assert not found, f"{name} sleeps in lines {found}"


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import time\ntime.sleep(1)", [2]),
        ("import time as t\nt.sleep(1)", [2]),
        ("from asyncio import sleep as nap\nasync def f():\n  await nap(0.1)", [3]),
        ("import asyncio\nasync def f(wait):\n  await asyncio.sleep(wait)", [3]),
        ("import asyncio\nasync def f():\n  await asyncio.sleep(0)", []),
        ("clock.sleep(1)", []),
    ],
)
def test_sleeping_is_recognised(source: str, lines: list[int]) -> None:
    assert sleeps(source) == lines
