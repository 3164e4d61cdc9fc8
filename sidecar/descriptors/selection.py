"""Finds fields in messages: selectors, compiled against the types of a descriptor set into a graph of nodes.

A selector is
- `agent.v1.ExecuteRequest.task`: a message type and a path in it, wherever messages of that type occur;
- `usage.total_tokens`: a path without a type. From the message itself (`rooted`), or beginning anywhere;
- `password`: the same with one part. Anywhere, it also means keys: of `google.protobuf.Struct`, of maps with text keys.

Paths go through lists, maps, oneofs, Struct and Any without naming them: `users.name` is the name of every user.
Anywhere, names are compared without case, `_` and `-`: `credit_card` is `creditCard`, too.

A node stands for (a message type, what of selectors is still to be found in it). Types that contain themselves make a
graph with cycles, and what can hold nothing selected is not in it: a message costs what is looked at.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

from sidecar.config.problems import did_you_mean, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from google.protobuf.descriptor import Descriptor, FieldDescriptor

    from sidecar.descriptors.descriptor_set import Descriptors

P = TypeVar("P")
Pending: TypeAlias = "frozenset[tuple[tuple[str, ...], int]]"
"""(parts still to be found, number of the selector)."""

_NOTHING: Pending = frozenset()
_KEYS_KEPT = 4096
_SELECTOR = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
_STRUCT = "google.protobuf.Struct"
_VALUE = "google.protobuf.Value"
_LIST = "google.protobuf.ListValue"
_ANY = "google.protobuf.Any"
_DYNAMIC = frozenset({_STRUCT, _VALUE, _LIST, _ANY})


def parse_selector(text: str) -> str:
    """A selector as it stands in the file. Raises ValueError saying what is allowed."""
    if not _SELECTOR.fullmatch(text):
        raise ValueError(
            "selects no field; write a name, a path (user.password), or a type and a path (pkg.Type.field)"
        )
    return text


def fold(name: str) -> str:
    """What names that mean the same have in common."""
    return name.lower().replace("_", "").replace("-", "")


class Shape(Enum):
    """How a field holds its values."""

    ONE = "one"
    MANY = "many"
    MAP = "map"


class Kind(Enum):
    """How to walk through a message."""

    MESSAGE = "message"
    STRUCT = "struct"
    VALUE = "value"
    LIST = "list"
    ANY = "any"


_KINDS = {_STRUCT: Kind.STRUCT, _VALUE: Kind.VALUE, _LIST: Kind.LIST, _ANY: Kind.ANY}


class Hit(Generic[P]):
    """A field that selectors name. `payloads` are theirs."""

    __slots__ = ("field", "is_extension", "name", "payloads", "shape")

    def __init__(self, field: FieldDescriptor, payloads: tuple[P, ...]) -> None:
        self.field = field
        self.name = field.name
        self.is_extension = field.is_extension
        self.shape = shape_of(field)
        self.payloads = payloads


class Edge(Generic[P]):
    """A field to go through. `node`: for its messages; `keys`: what keys of a map with text keys may be named."""

    __slots__ = ("field", "is_extension", "keys", "name", "node", "shape")

    def __init__(self, field: FieldDescriptor, node: Node[P] | None, keys: Pending) -> None:
        self.field = field
        self.name = field.name
        self.is_extension = field.is_extension
        self.shape = shape_of(field)
        self.node = node
        self.keys = keys


class Node(Generic[P]):
    """One message type, and what is still to be found in it. `is_live`: can anything be found at all?"""

    __slots__ = ("descriptor", "edges", "hits", "is_live", "kind", "pending")

    def __init__(self, descriptor: Descriptor, pending: Pending) -> None:
        self.descriptor = descriptor
        self.kind = _KINDS.get(descriptor.full_name, Kind.MESSAGE)
        self.pending = pending
        self.hits: tuple[Hit[P], ...] = ()
        self.edges: tuple[Edge[P], ...] = ()
        self.is_live = False


class Selection(Generic[P]):
    """Selectors (text → payload) over the types of `descriptors`."""

    __slots__ = ("_anchored", "_anywhere", "_fold", "_keys", "_nodes", "_payloads", "_rooted", "descriptors", "targets")

    def __init__(
        self,
        descriptors: Descriptors,
        selectors: Mapping[str, P],
        *,
        rooted: Callable[[], Iterator[Descriptor]] | None = None,
    ) -> None:
        """`rooted`: the types of messages that paths without a type begin in; None = they begin anywhere.

        Raises ValueError naming a selector that finds nothing. `targets` are the fields that each can find; None among
        them is what only a message will tell (a key).
        """
        self.descriptors = descriptors
        self._payloads = tuple(selectors.values())
        self._fold: Callable[[str], str] = fold if rooted is None else str
        self._anchored: dict[str, Pending] = {}
        self._nodes: dict[tuple[str, Pending], Node[P]] = {}
        self._keys: dict[tuple[str, Pending], tuple[tuple[P, ...], Pending]] = {}
        self.targets: dict[str, list[FieldDescriptor | None]] = {}
        anywhere = set()
        for i, text in enumerate(selectors):
            anchor, parts = self._parts(text)
            if anchor is not None:
                self._anchored[anchor] = self._anchored.get(anchor, _NOTHING) | {(parts, i)}
                roots = [descriptors.types[anchor]]
            else:
                anywhere.add((parts, i))
                roots = list(descriptors.types.values() if rooted is None else rooted())
            self.targets[text] = [each for root in roots for each in self._ends(root, parts)]
            if anchor is None and rooted is None and any(map(self._has_keys, roots)):
                self.targets[text].append(None)
            if not self.targets[text]:
                raise ValueError(self._unknown(text, anchor, roots))
        self._anywhere: Pending = frozenset(anywhere) if rooted is None else _NOTHING
        self._rooted: Pending = _NOTHING if rooted is None else frozenset(anywhere)

    # ── what selectors mean ──

    def _parts(self, text: str) -> tuple[str | None, tuple[str, ...]]:
        """(the type it begins in, the path)."""
        parts = text.split(".")
        types = self.descriptors.types
        for end in range(len(parts) - 1, 0, -1):
            anchor = ".".join(parts[:end])
            if anchor in types:
                if anchor in _DYNAMIC:
                    raise ValueError(f"{text}: name the field that holds the {anchor}, or a key")
                return anchor, tuple(map(self._fold, parts[end:]))
        if text in types:
            raise ValueError(f"{text} is a message type; name a field of it")
        packages = {each.file.package for each in types.values()}
        if any(text.startswith(f"{package}.") for package in packages if package):
            known = [f"{name}.{field.name}" for name, each in types.items() for field in each.fields]
            raise ValueError(f"{text} is no field that the descriptors know; {did_you_mean(text, known)}".rstrip("; "))
        return None, tuple(map(self._fold, parts))

    def _ends(self, descriptor: Descriptor, parts: tuple[str, ...]) -> Iterator[FieldDescriptor | None]:
        """The fields that the path `parts` ends at when it begins in `descriptor`; None = that depends on the message."""
        if descriptor.full_name in _DYNAMIC:
            yield None
            return
        for field in self._fields(descriptor):
            if not self._is(field, parts[0]):
                continue
            rest = parts[1:]
            if not rest:
                yield field
                continue
            value = field
            if shape_of(field) is Shape.MAP:
                value = map_part(field, "value")
                if _has_text_keys(field):
                    yield from [value] if len(rest) == 1 else self._inside(value, rest[1:])
            yield from self._inside(value, rest)

    def _inside(self, field: FieldDescriptor, rest: tuple[str, ...]) -> Iterator[FieldDescriptor | None]:
        if field.message_type is not None:
            yield from self._ends(field.message_type, rest)

    def _has_keys(self, descriptor: Descriptor) -> bool:
        return any(shape_of(each) is Shape.MAP and _has_text_keys(each) for each in self._fields(descriptor))

    def _unknown(self, text: str, anchor: str | None, roots: list[Descriptor]) -> str:
        names = {field.name for root in roots for field in self._fields(root)}
        if anchor is not None:
            rest = text.removeprefix(f"{anchor}.")
            return f"{quoted(text)}: {anchor} has no field {rest}; {did_you_mean(rest, names)}".rstrip("; ")
        return f"{quoted(text)} is no field of any message; {did_you_mean(text, names)}".rstrip("; ")

    def _is(self, field: FieldDescriptor, part: str) -> bool:
        return part in {self._fold(field.name), self._fold(field.json_name)}

    def _fields(self, descriptor: Descriptor) -> list[FieldDescriptor]:
        return [*descriptor.fields, *self.descriptors.extensions(descriptor)]

    # ── nodes ──

    def root(self, descriptor: Descriptor) -> Node[P]:
        """Where to begin with a message of this type."""
        return self.node(descriptor, self._rooted)

    def node(self, descriptor: Descriptor, pending: Pending) -> Node[P]:
        """The node for a type and what is pending in it; made once, with all that it leads to."""
        found = self._nodes.get((descriptor.full_name, pending))
        if found is None:
            fresh: list[Node[P]] = []
            found = self._make(descriptor, pending, fresh)
            # Cycles: who can find something makes all that lead to it able to.
            spreads = True
            while spreads:
                spreads = False
                for each in fresh:
                    if not each.is_live and any(edge.node is not None and edge.node.is_live for edge in each.edges):
                        each.is_live = spreads = True
            for each in fresh:
                each.edges = tuple(
                    edge for edge in each.edges if edge.keys or (edge.node is not None and edge.node.is_live)
                )
        return found

    def _make(self, descriptor: Descriptor, pending: Pending, fresh: list[Node[P]]) -> Node[P]:
        key = (descriptor.full_name, pending)
        found = self._nodes.get(key)
        if found is not None:
            return found
        node: Node[P] = Node(descriptor, pending)
        self._nodes[key] = node
        fresh.append(node)
        if node.kind is not Kind.MESSAGE:
            node.is_live = bool(pending or self._anywhere or (node.kind is Kind.ANY and self._anchored))
            return node
        candidates = pending | self._anywhere | self._anchored.get(descriptor.full_name, _NOTHING)
        hits: list[Hit[P]] = []
        edges: list[Edge[P]] = []
        for field in self._fields(descriptor):
            rest = frozenset((parts[1:], i) for parts, i in candidates if self._is(field, parts[0]))
            payloads = tuple(self._payloads[i] for parts, i in sorted(rest) if not parts)
            if payloads:
                hits.append(Hit(field, payloads))
            rest = frozenset(each for each in rest if each[0])
            edge = self._edge(field, rest, fresh)
            if edge is not None:
                edges.append(edge)
        node.hits, node.edges = tuple(hits), tuple(edges)
        node.is_live = bool(hits) or any(edge.keys for edge in edges)
        return node

    def _edge(self, field: FieldDescriptor, rest: Pending, fresh: list[Node[P]]) -> Edge[P] | None:
        value, keys = field, _NOTHING
        if shape_of(field) is Shape.MAP:
            value = map_part(field, "value")
            if _has_text_keys(field):
                keys = rest | self._anywhere
                if self._fold is str and value.message_type is not None:
                    # From the root, a part that may be a field of the value is no key.
                    fields = self._fields(value.message_type)
                    keys = frozenset(each for each in rest if not any(self._is(field, each[0][0]) for field in fields))
        child = None if value.message_type is None else self._make(value.message_type, rest, fresh)
        return None if child is None and not keys else Edge(field, child, keys)

    def keyed(self, key: str, pending: Pending) -> tuple[tuple[P, ...], Pending]:
        """What a key of a map or Struct, with these selectors pending, finds: payloads, and what is pending inside."""
        found = self._keys.get((key, pending))
        if found is None:
            name = self._fold(key)
            rest = {(parts[1:], i) for parts, i in pending | self._anywhere if parts[0] == name}
            payloads = tuple(self._payloads[i] for parts, i in sorted(rest) if not parts)
            found = payloads, frozenset(each for each in rest if each[0])
            if len(self._keys) >= _KEYS_KEPT:
                self._keys.clear()
            if len(key) <= 128:
                self._keys[key, pending] = found
        return found


def shape_of(field: FieldDescriptor) -> Shape:
    if not field.is_repeated:
        return Shape.ONE
    message = field.message_type
    return Shape.MAP if message is not None and message.GetOptions().map_entry else Shape.MANY


def map_part(field: FieldDescriptor, part: Literal["key", "value"]) -> FieldDescriptor:
    """The field that holds keys, or values, of a map."""
    assert field.message_type is not None
    return field.message_type.fields_by_name[part]


def _has_text_keys(field: FieldDescriptor) -> bool:
    key = map_part(field, "key")
    return bool(key.type == key.TYPE_STRING)


def read(message: Any, place: Hit[P] | Edge[P]) -> Any:
    """The value of a field, plain or extension."""
    if place.is_extension:
        return message.Extensions[place.field]
    return getattr(message, place.name)


def is_set(message: Any, place: Hit[P] | Edge[P]) -> bool:
    """Is a field that is no list and no map there? One without presence is there if it is not its default."""
    field = place.field
    if place.is_extension:
        return bool(message.HasExtension(field))
    if field.has_presence:
        return bool(message.HasField(place.name))
    return bool(getattr(message, place.name) != field.default_value)
