"""What is wrong with a configuration, where, and what is allowed instead; always all of it at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

_SHOWN = 60


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong: file, line and column (from 1), `path.to.field`, and what is wrong; what is allowed."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: "
        return printable(f"{where}{self.path}: {self.message}" if self.path else f"{where}{self.message}")


@dataclass(frozen=True, slots=True)
class Located:
    """A problem before it has a line: where in the document (keys and indices) and what."""

    loc: tuple[str | int, ...]
    message: str
    at_key: bool = field(default=False)
    """The name of the field is wrong, not its value."""


class ConfigError(Exception):
    """The configuration cannot be used; `problems` says why, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.problems)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean `x`? ` for the nearest of `known`, else nothing."""
    near = difflib.get_close_matches(word[:100], sorted(known), n=1)
    return f"did you mean `{near[0]}`? " if near else ""


def listed(words: Iterable[str]) -> str:
    return ", ".join(words)


def dotted(loc: Iterable[str | int]) -> str:
    """(listeners, 0, bind) → `listeners.0.bind`."""
    return printable(".".join(map(str, loc)))


def quoted(text: str) -> str:
    """A value of the file between backticks, shortened, on one line."""
    shown = printable(text)
    return f"`{shown}`" if len(shown) <= _SHOWN else f"`{shown[:_SHOWN]}…`"


def printable(text: str) -> str:
    """`text` with whatever would break a line or move a terminal's cursor escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
