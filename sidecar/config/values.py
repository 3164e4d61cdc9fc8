"""From the document to plain values: environment put in, numbers recognised, aliases expanded within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from sidecar.config.document import MAX_DEPTH, MAX_NODES, Node, resolve
from sidecar.config.environment import substitute
from sidecar.config.problems import Located

Loc: TypeAlias = "tuple[str | int, ...]"

MAX_TEXT = 16 * 1024 * 1024
"""Characters of all values together, aliased ones counted as often as they are used."""


class TooLargeError(Exception):
    """Aliases make the document larger than a configuration can be; holds the node where it became too much."""

    def __init__(self, node: Node, loc: Loc) -> None:
        super().__init__()
        self.node = node
        self.loc = loc


def plain_values(root: Node, environ: Mapping[str, str]) -> tuple[Any, list[Located]]:
    """The document as dicts, lists and scalars (None where a value is broken), and what is broken.

    Raises TooLargeError.
    """
    reading = _Reading(environ)
    return reading.value(root, ()), reading.problems


class _Reading:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self.problems: list[Located] = []
        self._environ = environ
        self._nodes = 0
        self._text = 0

    def value(self, node: Node, loc: Loc) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES or len(loc) > MAX_DEPTH:
            raise TooLargeError(node, loc)
        if node.kind == "mapping":
            return {name: self.value(child, (*loc, name)) for name, (_, child) in node.fields.items()}
        if node.kind == "list":
            return [self.value(child, (*loc, index)) for index, child in enumerate(node.items)]
        value = self._scalar(node, loc)
        self._text += len(str(value))
        if self._text > MAX_TEXT:
            raise TooLargeError(node, loc)
        return value

    def _scalar(self, node: Node, loc: Loc) -> Any:
        try:
            text = substitute(node.text, self._environ) if "$" in node.text else node.text
            value = resolve(text) if node.is_plain else text
        except ValueError as error:
            self.problems.append(Located(loc, str(error)))
            return None
        if value is None:
            self.problems.append(Located(loc, _missing(node)))
        return value


def _missing(node: Node) -> str:
    if not node.text:
        return "has no value; write one, or remove the field"
    if "$" in node.text:
        return 'is empty once the environment is put in; set the variable, or put it into quotes if "" is meant'
    return "is null, which stands for nothing here; remove the field, or put the word into quotes"
