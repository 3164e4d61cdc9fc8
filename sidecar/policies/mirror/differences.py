"""What two messages of one type differ in: the paths of fields, never their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import FieldDescriptor

_MOST = 50
"""Paths that are told of one answer."""


def differing(one: Any, other: Any, ignored: frozenset[str]) -> list[str]:
    """Paths of the fields that differ between two messages of one type, sorted.

    `ignored`: names of fields, or whole paths, that may differ. Elements of lists stand under the path of the list: `rows.name`.
    """
    found: set[str] = set()
    for path in _walk(one, other, "", ignored):
        found.add(path)
        if len(found) == _MOST:
            break
    return sorted(found)


def _walk(one: Any, other: Any, before: str, ignored: frozenset[str]) -> Iterator[str]:
    for field in one.DESCRIPTOR.fields:
        path = f"{before}{field.name}"
        if field.name in ignored or path in ignored:
            continue
        yield from _field(one, other, field, path, ignored)
    # What the descriptors lack is compared as it is, all of it together.
    if not before and one.ByteSize() != other.ByteSize() and _known(one) == _known(other):
        yield "(unknown fields)"


def _field(one: Any, other: Any, field: FieldDescriptor, path: str, ignored: frozenset[str]) -> Iterator[str]:
    left, right = getattr(one, field.name), getattr(other, field.name)
    inner = field.message_type
    if field.is_repeated:
        if inner is not None and inner.GetOptions().map_entry:
            yield from _map(left, right, inner.fields_by_name["value"], path, ignored)
        elif inner is None:
            if list(left) != list(right):
                yield path
        elif len(left) != len(right):
            yield path
        else:
            for first, second in zip(left, right, strict=True):
                yield from _walk(first, second, f"{path}.", ignored)
    elif inner is not None:
        if one.HasField(field.name) != other.HasField(field.name):
            yield path
        elif one.HasField(field.name):
            yield from _walk(left, right, f"{path}.", ignored)
    elif left != right or (field.has_presence and one.HasField(field.name) != other.HasField(field.name)):
        yield path


def _map(left: Any, right: Any, value: FieldDescriptor, path: str, ignored: frozenset[str]) -> Iterator[str]:
    if set(left) != set(right):
        yield path
        return
    for key in left:
        if str(key) in ignored:
            continue
        if value.message_type is not None:
            yield from _walk(left[key], right[key], f"{path}.", ignored)
        elif left[key] != right[key]:
            yield path


def _known(message: Any) -> int:
    copy = type(message)()
    copy.CopyFrom(message)
    copy.DiscardUnknownFields()
    size: int = copy.ByteSize()
    return size
