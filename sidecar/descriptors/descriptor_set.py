"""Message types and methods of one descriptor set, in a pool of its own: what other sets say does not matter.

Immutable; a changed file or another agent makes another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.message import Message

_WELL_KNOWN = frozenset(
    f"google/protobuf/{name}.proto"
    for name in (
        "any",
        "api",
        "descriptor",
        "duration",
        "empty",
        "field_mask",
        "source_context",
        "struct",
        "timestamp",
        "type",
        "wrappers",
    )
)
_HOW_TO_MAKE = "make one with protoc --include_imports --descriptor_set_out=FILE"


@dataclass(frozen=True, slots=True)
class Method:
    """One method as its service declares it. `path` is /package.Service/Method."""

    path: str
    request: Descriptor
    response: Descriptor
    client_streams: bool
    server_streams: bool

    @property
    def kind(self) -> str:
        """unary, client_stream, server_stream or bidi_stream."""
        if self.client_streams:
            return "bidi_stream" if self.server_streams else "client_stream"
        return "server_stream" if self.server_streams else "unary"


class Descriptors:
    """`methods` by path, `types` by full name."""

    __slots__ = ("_classes", "_pool", "methods", "types")

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        """Raises ValueError naming what is missing or contradicts itself."""
        from google.protobuf.descriptor_pool import DescriptorPool

        self._pool = DescriptorPool()
        self._classes: dict[str, type[Message]] = {}
        known = {each.name: each for each in files}
        methods: dict[str, Method] = {}
        types: dict[str, Descriptor] = {}
        for file in _in_order(known):
            self._add(file)
            described: FileDescriptor = self._pool.FindFileByName(file.name)
            for message in described.message_types_by_name.values():
                types.update((each.full_name, each) for each in _with_nested(message))
            for service in described.services_by_name.values():
                for method in service.methods:
                    path = f"/{service.full_name}/{method.name}"
                    methods[path] = Method(
                        path,
                        method.input_type,
                        method.output_type,
                        bool(method.client_streaming),
                        bool(method.server_streaming),
                    )
        self.methods: Mapping[str, Method] = methods
        self.types: Mapping[str, Descriptor] = types

    def _add(self, file: FileDescriptorProto) -> None:
        try:
            self._pool.AddSerializedFile(file.SerializeToString())
        except TypeError as error:
            raise ValueError(f"{file.name} contradicts itself: {error}") from None

    def method(self, path: str) -> Method | None:
        """What the descriptors say about /package.Service/Method."""
        return self.methods.get(path)

    def extensions(self, descriptor: Descriptor) -> list[FieldDescriptor]:
        """Fields that other files add to a message (proto2)."""
        return list(self._pool.FindAllExtensions(descriptor)) if descriptor.is_extendable else []

    def message(self, descriptor: Descriptor) -> Any:
        """The class of messages of a type; `FromString` reads one."""
        found = self._classes.get(descriptor.full_name)
        if found is None:
            from google.protobuf.message_factory import GetMessageClass

            found = self._classes[descriptor.full_name] = GetMessageClass(descriptor)
        return found


def decode_error() -> type[Exception]:
    """What `FromString` raises. To be called in an `except` clause, which costs nothing until something is raised."""
    from google.protobuf.message import DecodeError

    return DecodeError


def parse_set(data: bytes) -> Descriptors:
    """Read a serialized FileDescriptorSet. Raises ValueError saying what is wrong and how to make one that is right."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    try:
        found = FileDescriptorSet.FromString(data)
    except decode_error():
        raise ValueError(f"is no descriptor set; {_HOW_TO_MAKE}") from None
    if not found.file:
        raise ValueError(f"is a descriptor set without files; {_HOW_TO_MAKE}")
    return Descriptors(found.file)


def well_known(name: str) -> FileDescriptorProto | None:
    """`google/protobuf/*.proto` as protobuf itself has it; None for any other file."""
    if name not in _WELL_KNOWN:
        return None
    from importlib import import_module

    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    found = FileDescriptorProto()
    stem = name.removeprefix("google/protobuf/").removesuffix(".proto")
    import_module(f"google.protobuf.{stem}_pb2").DESCRIPTOR.CopyToProto(found)
    return found


def _in_order(files: Mapping[str, FileDescriptorProto]) -> Iterator[FileDescriptorProto]:
    """Every file after those it imports; protoc writes them so, others need not."""
    done: set[str] = set()
    begun: set[str] = set()
    for name in files:
        waiting = [name]
        while waiting:
            top = waiting[-1]
            if top in done:
                waiting.pop()
                continue
            file = files.get(top) or well_known(top)
            if file is None:
                raise ValueError(f"lacks {top}, which {waiting[-2]} imports; {_HOW_TO_MAKE}")
            missing = [each for each in file.dependency if each not in done]
            if missing and top in begun:
                raise ValueError(f"{top} imports itself, by way of {missing[0]}")
            begun.add(top)
            if missing:
                waiting += missing
            else:
                waiting.pop()
                done.add(top)
                yield file


def _with_nested(message: Descriptor) -> Iterator[Descriptor]:
    yield message
    for each in message.nested_types:
        yield from _with_nested(each)
