"""Reads fields out of a request: what it is about, as bytes that are the same whenever the fields are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from sidecar.descriptors.descriptor_set import decode_error
from sidecar.descriptors.selection import Kind, Selection, Shape, is_set, read
from sidecar.descriptors.source import Fields
from sidecar.grpc_wire.compression import unpack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sidecar.descriptors.selection import Node, Pending
    from sidecar.descriptors.source import Connected
    from sidecar.runtime import Runtime


class FieldValues:
    """Fields of requests, by their paths from the message."""

    def __init__(self, source: Path | Literal["reflection"], paths: Sequence[str], runtime: Runtime) -> None:
        """Raises ValueError when the file is wrong, or no request has one of the fields."""
        self._paths = tuple(paths)
        self._fields: Fields[str] = Fields(source, {each: each for each in paths}, runtime, side="request", rooted=True)
        self.files = self._fields.files
        self.reload = self._fields.reload

    def begin(self, cluster: Connected | None) -> None:
        self._fields.begin(cluster)

    def read(self, method: str, message: bytes, encoding: bytes | None, limit: int) -> bytes | None:
        """The values of all fields in `message` (with its prefix), in the order of the paths.

        None = one of them is not there, or empty. Raises ValueError when nobody can tell.
        """
        view = self._fields.view
        if view is None:
            raise ValueError(f"there are no descriptors: {self._fields.problem}")
        found = view.type(method)
        if found is None or not found.node.is_live:
            return None
        values: dict[str, list[Any]] = {each: [] for each in self._paths}
        try:
            for path, value in _Reading(view.selection).values(
                found.read(unpack(message, encoding, limit)), found.node
            ):
                values[path].append(value)
        except decode_error() as error:
            raise ValueError(f"the message does not parse as {found.name}") from error
        if not all(values.values()):
            return None
        return json.dumps([values[each] for each in self._paths], separators=(",", ":"), sort_keys=True).encode()


class _Reading:
    __slots__ = ("_selection",)

    def __init__(self, selection: Selection[str]) -> None:
        self._selection = selection

    def values(self, message: Any, node: Node[str]) -> Iterator[tuple[str, Any]]:
        """(path, value as of JSON) of what is there."""
        if node.kind is not Kind.MESSAGE:
            yield from self._dynamic(message, node.kind, node.pending)
            return
        for hit in node.hits:
            if hit.shape is Shape.ONE:
                if is_set(message, hit):
                    yield from ((path, _plain(read(message, hit))) for path in hit.payloads)
            elif hit.shape is Shape.MANY:
                found = [_plain(each) for each in read(message, hit)]
                yield from ((path, found) for path in hit.payloads if found)
            elif entries := {str(key): _plain(value) for key, value in read(message, hit).items()}:
                yield from ((path, entries) for path in hit.payloads)
        for edge in node.edges:
            if edge.node is None or edge.shape is Shape.MAP:
                continue
            if edge.shape is Shape.MANY:
                for each in read(message, edge):
                    yield from self.values(each, edge.node)
            elif is_set(message, edge):
                yield from self.values(read(message, edge), edge.node)

    def _dynamic(self, message: Any, kind: Kind, pending: Pending) -> Iterator[tuple[str, Any]]:
        if kind is Kind.VALUE:
            if message.WhichOneof("kind") == "struct_value":
                yield from self._dynamic(message.struct_value, Kind.STRUCT, pending)
            return
        if kind is not Kind.STRUCT:
            return
        for key in sorted({parts[0] for parts, _ in pending}):
            if key not in message.fields:
                continue
            value = message.fields[key]
            hits, inside = self._selection.keyed(key, pending)
            if value.WhichOneof("kind") not in {None, "null_value"}:
                yield from ((path, _plain(value)) for path in hits)
            if inside:
                yield from self._dynamic(value, Kind.VALUE, inside)


def _plain(value: Any) -> Any:
    """As of JSON; messages and bytes as hexadecimal, the same for the same content."""
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "SerializeToString"):
        return value.SerializeToString(deterministic=True).hex()
    return value
