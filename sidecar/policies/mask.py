"""Masks fields of the agent's answers: what is named here leaves no sidecar in the clear.

Text becomes `***`, numbers 0, messages and maps empty; lists keep their length. A message in which nothing was masked goes on
as it came; one that was changed goes on uncompressed, which gRPC allows in any stream (the flag belongs to the message). An
`Any` of an unknown type cannot be looked into: its content is removed. Metadata, and the text of a status, are no messages
and stay as they are; so do cells of tables, whose column names are data: name the cells.

What cannot be masked is refused: before the agent hears of the call where that is clear by then (no descriptors yet, a
method they lack), else when the message comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field

from sidecar.config.model import Model
from sidecar.descriptors.descriptor_set import decode_error
from sidecar.descriptors.selection import Kind, Selection, Shape, is_set, map_part, parse_selector, read
from sidecar.descriptors.source import UNDESCRIBED, DescriptorsFrom, Fields
from sidecar.grpc_wire.compression import CorruptMessage, UnknownEncoding, encoding_of, unpack
from sidecar.grpc_wire.messages import MessageTooLarge, frame
from sidecar.proxy.policy import Policy
from sidecar.proxy.rejection import Reason, Rejection
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

    from sidecar.descriptors.selection import Edge, Hit, Node, Pending
    from sidecar.descriptors.source import Type
    from sidecar.http2.hpack import Field as HeaderField
    from sidecar.proxy.call import Call
    from sidecar.proxy.plan import Cluster
    from sidecar.runtime import Runtime

Place: TypeAlias = Literal["logs", "audit", "responses"]

_TEXT = "***"
_DEEPEST_ANY = 16
_RETRY = 1.0
"""Seconds after which a caller may come back when descriptors are not there yet."""


class MaskConfig(Model):
    """Fields that are made unreadable."""

    descriptors: DescriptorsFrom | None = Field(
        None, description="a descriptor set (protoc --include_imports --descriptor_set_out), or: reflection"
    )
    fields: tuple[Annotated[str, AfterValidator(parse_selector)], ...] = Field(
        min_length=1, description="a name anywhere, a path (user.password), or a type and a path (pkg.Type.field)"
    )
    places: tuple[Place, ...] = Field(
        ("logs", "audit", "responses"), alias="in", min_length=1, description="where: logs, audit, responses"
    )
    unknown_methods: Literal["refuse", "allow"] = Field(
        "refuse", description="calls of methods that the descriptors lack"
    )
    unknown_fields: Literal["keep", "remove"] = Field("keep", description="fields of answers that the descriptors lack")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if "responses" in self.places and self.descriptors is None:
            yield "descriptors", "is missing, and responses cannot be read without; name a file, or say reflection"


class Mask(Policy[MaskConfig]):
    """Knows what is to be masked where; with `responses` among the places, a `_ResponseMask`."""

    name = "mask"
    config_model = MaskConfig

    def __new__(cls, config: MaskConfig, runtime: Runtime) -> Self:
        # Only where answers are masked are messages taken apart.
        if "responses" in config.places:
            cls = _ResponseMask  # type: ignore[assignment]  # noqa: PLW0642
        return super().__new__(cls)

    def __init__(self, config: MaskConfig, runtime: Runtime) -> None:
        self._config = config
        self._runtime = runtime

    def fields_in(self, place: Place) -> tuple[str, ...]:
        """What must not be readable in `place`, for whoever writes there."""
        return self._config.fields if place in self._config.places else ()


class _ResponseMask(Mask):
    """The same for answers."""

    def __init__(self, config: MaskConfig, runtime: Runtime) -> None:
        super().__init__(config, runtime)
        assert config.descriptors is not None
        selectors = dict.fromkeys(config.fields, True)
        self._fields: Fields[bool] = Fields(config.descriptors, selectors, runtime, side="response", rooted=False)
        self._refuses = config.unknown_methods == "refuse"
        self._removes = config.unknown_fields == "remove"
        self._masked = runtime.metrics.counter(names.MESSAGES_MASKED, listener=runtime.listener, route=runtime.route)

    @property
    def files(self) -> tuple[Path, ...]:
        return self._fields.files

    def reload(self) -> bool:
        """Descriptors have changed."""
        return self._fields.reload()

    def begin(self, cluster: Cluster | None) -> None:
        self._fields.begin(cluster)

    def on_request(self, call: Call) -> Rejection | None:
        view = self._fields.view
        if view is None:
            if call.path in UNDESCRIBED:
                return None
            return Reason.AGENT_NOT_READY.reject(
                f"answers of {call.path} are masked, and there are no descriptors for that yet: {self._fields.problem}",
                retry_after=_RETRY,
                method=call.path,
                cause=self._fields.problem,
            )
        if self._refuses and view.type(call.path) is None and call.path not in UNDESCRIBED:
            return Reason.CANNOT_MASK.reject(
                f"answers of route {call.route} are masked, and the descriptors know no method {call.path}",
                route=call.route,
                method=call.path,
            )
        return None

    def on_response_headers(self, call: Call, fields: list[HeaderField]) -> None:
        encoding = encoding_of(fields)
        if encoding != b"identity":
            call.note(self.name, encoding)

    def on_response_message(self, call: Call, message: bytes) -> Rejection | bytes | None:
        view = self._fields.view
        found = None if view is None else view.type(call.path)
        if view is None or found is None:
            if call.path in UNDESCRIBED or (view is not None and not self._refuses):
                return None
            return _cannot(call, "there are no descriptors for it")

        encoding = None if call.notes is None else call.notes.get(self.name)
        try:
            body = unpack(message, encoding, call.plan.max_message)
            masked = _Masking(view.selection, removes=self._removes).message(found, body)
        except (UnknownEncoding, CorruptMessage) as error:
            return _cannot(call, str(error))
        except MessageTooLarge as error:
            return _cannot(call, f"it holds more than {error.limit} bytes when it is decompressed")
        except (decode_error(), RecursionError):
            return _cannot(call, f"it does not parse as {found.name}")
        if masked is None:
            return None
        self._masked.inc()
        return frame(masked)


def _cannot(call: Call, why: str) -> Rejection:
    return Reason.CANNOT_MASK.reject(
        f"a message of the agent cannot be masked, so it is withheld: {why}", method=call.path, cause=why
    )


class _Masking:
    """One message, being masked. Methods say whether they changed anything."""

    __slots__ = ("_depth", "_removes", "_selection")

    def __init__(self, selection: Selection[bool], *, removes: bool) -> None:
        self._selection = selection
        self._removes = removes
        self._depth = 0

    def message(self, found: Type[bool], body: bytes) -> bytes | None:
        """`body` with all masked; None = as it is. Raises DecodeError, RecursionError."""
        message = found.read(body)
        if not found.node.is_live and not self._removes:
            return None
        return self._written(message, body, self._walk(message, found.node))

    def _written(self, message: Any, body: bytes, changed: bool) -> bytes | None:
        if self._removes:
            message.DiscardUnknownFields()
        # What a later occurrence of a field, or another member of its oneof, has overwritten is in the bytes still: then
        # they are more than the message needs.
        if changed or message.ByteSize() != len(body):
            # Partial: what is masked may be a required field, and what the agent left out is between it and the caller.
            written: bytes = message.SerializePartialToString()
            return written
        return None

    def _walk(self, message: Any, node: Node[bool]) -> bool:
        kind = node.kind
        if kind is not Kind.MESSAGE:
            return self._walk_dynamic(message, kind, node.pending)
        changed = False
        for hit in node.hits:
            changed |= _hide(message, hit)
        for edge in node.edges:
            if edge.shape is Shape.ONE:
                if is_set(message, edge):
                    changed |= self._walk(read(message, edge), edge.node)  # type: ignore[arg-type]  # a single edge has one
            elif edge.shape is Shape.MANY:
                for each in read(message, edge):
                    changed |= self._walk(each, edge.node)  # type: ignore[arg-type]
            else:
                changed |= self._walk_map(read(message, edge), edge)
        return changed

    def _walk_map(self, entries: Any, edge: Edge[bool]) -> bool:
        changed = False
        node = edge.node
        value = map_part(edge.field, "value")
        for key in list(entries):
            if edge.keys:
                hits, inside = self._selection.keyed(key, edge.keys)
                if hits:
                    changed |= _hide_entry(entries, key, value)
                    continue
                if inside and value.message_type is not None:
                    changed |= self._walk(entries[key], self._selection.node(value.message_type, inside))
            if node is not None and node.is_live:
                changed |= self._walk(entries[key], node)
        return changed

    # ── messages whose fields are data ──

    def _walk_dynamic(self, message: Any, kind: Kind, pending: Pending) -> bool:
        if kind is Kind.ANY:
            return self._walk_any(message, pending)
        if kind is Kind.STRUCT:
            changed = False
            for key, value in message.fields.items():
                hits, inside = self._selection.keyed(key, pending)
                if hits:
                    changed |= _hide_value(value)
                else:
                    changed |= self._walk_value(value, inside)
            return changed
        if kind is Kind.LIST:
            changed = False
            for value in message.values:
                changed |= self._walk_value(value, pending)
            return changed
        return self._walk_value(message, pending)

    def _walk_value(self, value: Any, pending: Pending) -> bool:
        which = value.WhichOneof("kind")
        if which == "struct_value":
            return self._walk_dynamic(value.struct_value, Kind.STRUCT, pending)
        if which == "list_value":
            return self._walk_dynamic(value.list_value, Kind.LIST, pending)
        return False

    def _walk_any(self, message: Any, pending: Pending) -> bool:
        body = message.value
        descriptors = self._selection.descriptors
        descriptor = descriptors.types.get(message.type_url.rpartition("/")[2])
        if descriptor is None or self._depth == _DEEPEST_ANY:
            message.value = b""
            return bool(body)
        inner = descriptors.message(descriptor).FromString(body)
        self._depth += 1
        changed = self._walk(inner, self._selection.node(descriptor, pending))
        self._depth -= 1
        written = self._written(inner, body, changed)
        if written is None:
            return False
        message.value = written
        return True


def _hide(message: Any, hit: Hit[bool]) -> bool:
    """Make a field unreadable; was there anything?"""
    field = hit.field
    if hit.shape is Shape.ONE:
        if not is_set(message, hit):
            return False
        if field.message_type is not None:
            _empty(read(message, hit))
        elif hit.is_extension:
            message.Extensions[field] = _blank(field)
        else:
            setattr(message, hit.name, _blank(field))
        return True
    values: Any = read(message, hit)
    if not values:
        return False
    if hit.shape is Shape.MAP:
        # Keys may say as much as values.
        values.clear()
    elif field.message_type is not None:
        for each in values:
            _empty(each)
    else:
        values[:] = [_blank(field)] * len(values)
    return True


def _hide_entry(entries: Any, key: str, value: Any) -> bool:
    if value.message_type is not None:
        _empty(entries[key])
    else:
        entries[key] = _blank(value)
    return True


def _empty(message: Any) -> None:
    if message.DESCRIPTOR.full_name == "google.protobuf.Value":
        # One without a kind is not valid.
        _hide_value(message)
    else:
        message.Clear()


def _hide_value(value: Any) -> bool:
    """The same for a value of JSON."""
    which = value.WhichOneof("kind")
    if which == "string_value":
        value.string_value = _TEXT
    elif which == "number_value":
        value.number_value = 0
    elif which == "bool_value":
        value.bool_value = False
    elif which == "struct_value":
        value.struct_value.Clear()
        value.struct_value.SetInParent()
    elif which == "list_value":
        for each in value.list_value.values:
            _hide_value(each)
    else:
        return False
    return True


def _blank(field: Any) -> Any:
    if field.type == field.TYPE_STRING:
        return _TEXT
    if field.type == field.TYPE_BYTES:
        return _TEXT.encode()
    if field.enum_type is not None:
        return field.enum_type.values[0].number
    return False if field.type == field.TYPE_BOOL else 0
