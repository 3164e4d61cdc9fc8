"""A YAML document as a tree with positions, read strictly.

Why not `yaml.safe_load`? It keeps the last of two equal keys, reads `012` as ten and `on` as true, forgets where a
value stood, and recurses as deep as the file says. Here events become nodes in one loop with a bound on depth and size;
only `true` and `false` are booleans, numbers are decimal, and whatever else YAML can do (tags, merge keys, complex
keys) is refused with its line.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeAlias

import yaml

from sidecar.config.problems import Problem, dotted, quoted

# The C parser where PyYAML was built with it; both give the same events.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_DEPTH = 32
MAX_NODES = 100_000

Scalar: TypeAlias = str | int | float | bool


@dataclass(slots=True, eq=False)
class Node:
    """A value of the document and where it stands (line and column from 1)."""

    kind: Literal["scalar", "list", "mapping"]
    line: int
    column: int
    text: str = ""
    """Of a scalar: as written, before the environment is put in."""
    is_plain: bool = False
    """Of a scalar: without quotes, so that it may be a number or a boolean."""
    items: list[Node] = field(default_factory=list)
    fields: dict[str, tuple[Node, Node]] = field(default_factory=dict)
    """Of a mapping: name → (node of the name, node of the value)."""
    is_whole: bool = False

    def at(self, loc: tuple[str | int, ...]) -> tuple[Node, tuple[str | int, ...]]:
        """The node at `loc`, or the nearest above it, and the part of `loc` that led there."""
        node, found = self, 0
        for part in loc:
            child = node.child(part)
            if child is None:
                break
            node, found = child, found + 1
        return node, loc[:found]

    def child(self, part: str | int) -> Node | None:
        if self.kind == "mapping" and isinstance(part, str):
            pair = self.fields.get(part)
            return pair[1] if pair else None
        if self.kind == "list" and isinstance(part, int) and 0 <= part < len(self.items):
            return self.items[part]
        return None


class UnreadableError(Exception):
    """The document cannot be read further; holds the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def read_document(text: str, file: str) -> tuple[Node | None, list[Problem]]:
    """Read one YAML document: its root (None if there is nothing in it) and what is wrong with it.

    Raises UnreadableError where reading cannot go on: YAML syntax, depth, a second document, an unknown anchor.
    """
    _refuse_control_characters(text, file)
    reader = _Reader(file)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        is_unfinished = any(known in (error.problem or "") for known in _UNFINISHED)
        if is_unfinished and mark and _REFERENCE in _line(text, mark.line):
            problem = Problem(file, mark.line + 1, mark.column + 1, "", _UNQUOTED)
            raise UnreadableError(problem) from None
        if is_unfinished and error.context_mark:
            mark = error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise UnreadableError(Problem(file, line, column, "", _syntax(error, text, line, column))) from None
    except yaml.YAMLError:
        raise UnreadableError(Problem(file, 1, 1, "", "cannot be read as YAML; save it as plain UTF-8 text")) from None
    return reader.root, reader.problems


def resolve(text: str) -> Scalar | None:
    """A plain scalar → boolean, decimal number, None for nothing, else the text itself. Raises ValueError."""
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text == "true":
        return True
    if text == "false":
        return False
    if _INT.fullmatch(text):
        if len(text) > 20:  # more digits than any 64-bit number has
            raise ValueError("is a number with too many digits; put it into quotes if it is text")
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError("is a number that is too large; put it into quotes if it is text")
        return number
    return text


_INT = re.compile(r"-?(?:0|[1-9][0-9]*)", re.ASCII)
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)


class _Reader:
    """Builds the tree from events, one at a time; the stack is a list, so that depth is ours to bound."""

    def __init__(self, file: str) -> None:
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self._file = file
        self._open: list[tuple[Node, Node | None]] = []
        """Collections not yet closed, each with the name whose value is awaited (mappings)."""
        self._anchors: dict[str, Node] = {}
        self._documents = 0
        self._nodes = 0

    def take(self, event: Any) -> None:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    self._stop(line, column, "a second document begins here; keep one document in a file")
            case yaml.AliasEvent():
                self._place(self._aliased(str(event.anchor), line, column))
            case yaml.ScalarEvent():
                node = Node("scalar", line, column, text=event.value, is_plain=event.implicit[0])
                node.is_whole = True
                self._begin(event, node)
                self._place(node)
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                kind: Literal["list", "mapping"] = "list" if isinstance(event, yaml.SequenceStartEvent) else "mapping"
                node = Node(kind, line, column)
                self._begin(event, node)
                self._push(node)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                node = self._open.pop()[0]
                node.is_whole = True
                self._place(node)

    def _begin(self, event: Any, node: Node) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._stop(node.line, node.column, f"more than {MAX_NODES} values; split the configuration")
        if event.tag is not None:
            self._tell(node, "", f"the tag {quoted(event.tag)} is not supported; remove it, and put text into quotes")
        if event.anchor is not None:
            self._anchors[event.anchor] = node

    def _push(self, node: Node) -> None:
        if len(self._open) >= MAX_DEPTH:
            self._stop(node.line, node.column, f"nested deeper than {MAX_DEPTH} levels; no section is that deep")
        if self._open and self._open[-1][0].kind == "mapping" and self._open[-1][1] is None:
            self._stop(node.line, node.column, "a list or mapping stands where a field name must; write name: value")
        self._open.append((node, None))

    def _aliased(self, anchor: str, line: int, column: int) -> Node:
        node = self._anchors.get(anchor)
        if node is None:
            self._stop(line, column, f"*{anchor} refers to nothing; define it before with &{anchor}")
        if not node.is_whole:
            self._stop(line, column, f"*{anchor} refers to the value it stands in; repeat what is needed instead")
        return node

    def _place(self, node: Node) -> None:
        if not self._open:
            self.root = node
            return
        parent, name = self._open[-1]
        if parent.kind == "list":
            parent.items.append(node)
        elif name is None:
            if node.kind != "scalar":
                self._stop(
                    node.line, node.column, "a list or mapping stands where a field name must; write name: value"
                )
            self._open[-1] = (parent, node)
        else:
            self._open[-1] = (parent, None)
            self._add(parent, name, node)

    def _add(self, parent: Node, name: Node, value: Node) -> None:
        key = name.text
        if name.is_plain and key == "<<":
            self._tell(name, "", "merge keys (<<) are not supported; write the fields out, or alias the whole value")
        elif not key:
            self._tell(name, "", "a field without a name; write name: value")
        elif key in parent.fields:
            first = parent.fields[key][0].line
            self._tell(name, key, f"is given twice (first on line {first}); keep one of them")
        else:
            parent.fields[key] = (name, value)

    def _tell(self, node: Node, key: str, message: str) -> None:
        path = dotted([*self._path(), *([key] if key else [])])
        self.problems.append(Problem(self._file, node.line, node.column, path, message))

    def _path(self) -> list[str]:
        parts = []
        for node, name in self._open:
            if node.kind == "list":
                parts.append(str(len(node.items)))
            elif name is not None:
                parts.append(name.text)
        return parts

    def _stop(self, line: int, column: int, message: str) -> NoReturn:
        raise UnreadableError(Problem(self._file, line, column, dotted(self._path()), message))


# YAML 1.1 §5.1, without the byte-order mark inside a text.
_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def _refuse_control_characters(text: str, file: str) -> None:
    found = _CONTROL.search(text)
    if found:
        line, column = position(text, found.start())
        name = f"U+{ord(found[0]):04X}"
        raise UnreadableError(
            Problem(file, line, column, "", f"the character {name} is not allowed in YAML; remove it")
        )


def position(text: str, offset: int) -> tuple[int, int]:
    """Line and column (from 1) of the character at `offset`."""
    before = text[:offset].replace("\r\n", "\n").replace("\r", "\n")
    return before.count("\n") + 1, len(before) - before.rfind("\n")


_REFERENCE = "${"
_UNQUOTED = "`${` begins a mapping here; between brackets or braces put ${NAME} into quotes"

# Found missing at the end, and to be mended where it began.
_UNFINISHED = ("expected ',' or ']'", "expected ',' or '}'", "unexpected end of stream")
_SYNTAX = (
    (
        "mapping values are not allowed",
        "a `:` where no field can begin; put text with `: ` into quotes, or check the indentation",
    ),
    ("could not find expected ':'", "a field without `:`; write name: value"),
    (
        "did not find expected key",
        "not indented like the fields around it, or a quote, bracket or brace is missing; align it",
    ),
    ("did not find expected '-' indicator", "not indented like the list around it; align it with the other `-`"),
    ("block sequence entries are not allowed", "a `-` where no list can begin; put it on a line of its own"),
    ("did not find expected ',' or ']'", "a list that began with `[` does not end; add `,` or `]`"),
    ("did not find expected ',' or '}'", "a mapping that began with `{` does not end; add `,` or `}`"),
    ("found unexpected end of stream", "a quote that was opened does not end; add the closing quote"),
    ("found unknown escape character", "an unknown escape after `\\`; use single quotes, or write `\\\\`"),
    ("did not find expected <document start>", "text after the end of the document; check the indentation"),
    ("did not find expected node content", "a value is missing here; write one, or remove the mark before it"),
)


def _line(text: str, index: int) -> str:
    lines = text.splitlines()
    return lines[index] if index < len(lines) else ""


def _syntax(error: yaml.MarkedYAMLError, text: str, line: int, column: int) -> str:
    """What the parser says, in words that tell what to do."""
    said = error.problem or error.context or "cannot be read"
    here = _line(text, line - 1)
    indentation = here[: len(here) - len(here.lstrip())]
    if "\t" in indentation and column <= len(indentation) + 1:
        return "a tab in the indentation; YAML is indented with spaces only"
    if "cannot start any token" in said:
        character = here[column - 1 : column] or "this character"
        return f"a value cannot begin with `{character}`; put it into quotes"
    for known, words in _SYNTAX:
        if known in said:
            return words
    return f"not valid YAML: {said}; put text with special characters into quotes"
