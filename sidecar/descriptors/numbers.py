"""Reads a whole number out of messages of the agent: what one of them says it has cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sidecar.descriptors.descriptor_set import decode_error
from sidecar.descriptors.selection import Kind, Selection, Shape, is_set, read
from sidecar.descriptors.source import Fields
from sidecar.grpc_wire.compression import unpack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.descriptors.selection import Node, Pending
    from sidecar.descriptors.source import Connected
    from sidecar.runtime import Runtime


class NumberField:
    """A field of answers, by its path from the message, that holds a whole number which is not negative."""

    def __init__(self, source: Path | Literal["reflection"], path: str, runtime: Runtime) -> None:
        """Raises ValueError when the file is wrong, or no answer has such a field."""
        self._fields: Fields[bool] = Fields(source, {path: True}, runtime, side="response", rooted=True, check=_check)
        self.files = self._fields.files
        self.reload = self._fields.reload

    def begin(self, cluster: Connected | None) -> None:
        self._fields.begin(cluster)

    def read(self, method: str, message: bytes, encoding: bytes | None, limit: int) -> int | None:
        """The number in `message` (with its prefix), all of them together where the path leads through lists.

        None = it is not there. Raises ValueError when nobody can tell, or it is no whole number from 0 on.
        """
        view = self._fields.view
        if view is None:
            raise ValueError("there are no descriptors yet")
        found = view.type(method)
        if found is None or not found.node.is_live:
            return None
        try:
            numbers = list(_Reading(view.selection).numbers(found.read(unpack(message, encoding, limit)), found.node))
        except decode_error() as error:
            raise ValueError(f"the message does not parse as {found.name}") from error
        # NaN and infinity leave no remainder that is 0.
        if any(each < 0 or each % 1 != 0 for each in numbers):
            raise ValueError("a charge is no whole number")
        return int(sum(numbers)) if numbers else None


def _check(selection: Selection[bool]) -> None:
    for text, fields in selection.targets.items():
        for field in fields:
            if field is not None and (field.cpp_type not in _whole(field) or field.is_repeated):
                raise ValueError(f"{text}: {field.full_name} is no whole number")


def _whole(field: Any) -> tuple[int, ...]:
    return (field.CPPTYPE_INT32, field.CPPTYPE_INT64, field.CPPTYPE_UINT32, field.CPPTYPE_UINT64)


class _Reading:
    __slots__ = ("_selection",)

    def __init__(self, selection: Selection[bool]) -> None:
        self._selection = selection

    def numbers(self, message: Any, node: Node[bool]) -> Iterator[float]:
        if node.kind is not Kind.MESSAGE:
            yield from self._dynamic(message, node.kind, node.pending)
            return
        for hit in node.hits:
            # A number without presence says 0 by being absent; that its message is there makes the difference.
            if not hit.field.has_presence or is_set(message, hit):
                yield read(message, hit)
        for edge in node.edges:
            if edge.node is None or edge.shape is Shape.MAP:
                continue
            if edge.shape is Shape.MANY:
                for each in read(message, edge):
                    yield from self.numbers(each, edge.node)
            elif is_set(message, edge):
                yield from self.numbers(read(message, edge), edge.node)

    def _dynamic(self, message: Any, kind: Kind, pending: Pending) -> Iterator[float]:
        if kind is Kind.STRUCT:
            for key in {parts[0] for parts, _ in pending}:
                if key in message.fields:
                    hits, inside = self._selection.keyed(key, pending)
                    yield from self._value(message.fields[key], inside, is_it=bool(hits))
        elif kind is Kind.VALUE:
            yield from self._value(message, pending, is_it=False)

    def _value(self, value: Any, pending: Pending, *, is_it: bool) -> Iterator[float]:
        which = value.WhichOneof("kind")
        if is_it:
            yield value.number_value if which == "number_value" else -1
        elif which == "struct_value":
            yield from self._dynamic(value.struct_value, Kind.STRUCT, pending)
