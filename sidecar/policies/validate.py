"""Validates the caller's messages: each parses as what its method takes, and holds the rules of its fields.

A refusal lists every field that broke a rule, with the rule and never with the value. Rules without a type begin in the
message itself (`task`, `parameters.limit`, `items.name`); those with a type hold wherever such messages occur in it.

The agent hears nothing of a call before its first message has passed, so a call that is refused for it has had no effect
and costs its budget nothing. (An agent that speaks before its caller does would wait for ever: no such route should
validate.)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeInt

from sidecar.config.model import Model
from sidecar.descriptors.descriptor_set import decode_error
from sidecar.descriptors.selection import Kind, Selection, Shape, is_set, map_part, parse_selector, read
from sidecar.descriptors.source import UNDESCRIBED, DescriptorsFrom, Fields
from sidecar.grpc_wire.compression import CorruptMessage, UnknownEncoding, unpack
from sidecar.grpc_wire.details import BadRequest, FieldViolation
from sidecar.grpc_wire.messages import MessageTooLarge
from sidecar.proxy.policy import Policy
from sidecar.proxy.rejection import Reason, Rejection
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from google.protobuf.descriptor import FieldDescriptor

    from sidecar.descriptors.selection import Hit, Node, Pending
    from sidecar.proxy.call import Call
    from sidecar.proxy.plan import Cluster
    from sidecar.runtime import Runtime

_TOLD = 20
"""Violations that a refusal lists; trailers are bounded, what a message may break is not."""
_DEEPEST_ANY = 16
_RETRY = 1.0
"""Seconds after which a caller may come back when descriptors are not there yet."""
_WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Bool", "Bytes", "Double", "Float", "Int32", "Int64", "String", "UInt32", "UInt64")
)


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}; write one as Python's re module has them") from None
    return text


Number = Annotated[int | float, Field(allow_inf_nan=False)]


class FieldRulesConfig(Model):
    """What a field must be like."""

    required: bool = Field(False, description="it must be there, and not be empty or 0")
    min_length: NonNegativeInt | None = Field(None, description="characters of text, bytes of bytes")
    max_length: NonNegativeInt | None = Field(None, description="characters of text, bytes of bytes")
    pattern: Annotated[str, AfterValidator(_pattern)] | None = Field(
        None,
        description="a regular expression (Python's re) that the whole text must match; nested repetitions take time that "
        "grows with the text, so bound it by max_length",
    )
    one_of: tuple[str | int | float | bool, ...] | None = Field(
        None, alias="in", min_length=1, description="the values that are allowed; names of an enum"
    )
    lowest: Number | None = Field(None, alias="min", description="the lowest number")
    highest: Number | None = Field(None, alias="max", description="the highest number")
    min_items: NonNegativeInt | None = Field(None, description="of a list or map")
    max_items: NonNegativeInt | None = Field(None, description="of a list or map")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if not self.model_fields_set:
            yield "required", "is missing, as every other rule; name at least one"
        for low, high, least, most in (
            ("min_length", "max_length", self.min_length, self.max_length),
            ("min", "max", self.lowest, self.highest),
            ("min_items", "max_items", self.min_items, self.max_items),
        ):
            if least is not None and most is not None and least > most:
                yield low, f"is more than {high}, so nothing could pass; at most {most}"


class ValidateConfig(Model):
    """What callers may send."""

    descriptors: DescriptorsFrom = Field(
        description="a descriptor set (protoc --include_imports --descriptor_set_out), or: reflection"
    )
    rules: dict[Annotated[str, AfterValidator(parse_selector)], FieldRulesConfig] = Field(
        default_factory=dict,
        description="a path from the message (task), or a type and a path (pkg.Type.field) → rules",
    )
    unknown_methods: Literal["refuse", "allow"] = Field(
        "refuse", description="calls of methods that the descriptors lack"
    )


class Validate(Policy[ValidateConfig]):
    """Lets messages pass that are what they should be."""

    name = "validate"
    config_model = ValidateConfig
    before_start = True

    def __init__(self, config: ValidateConfig, runtime: Runtime) -> None:
        rules = {text: FieldRules(each) for text, each in config.rules.items()}
        self._fields: Fields[FieldRules] = Fields(
            config.descriptors, rules, runtime, side="request", rooted=True, check=lambda found: _check(found, rules)
        )
        self._refuses = config.unknown_methods == "refuse"
        self._invalid = runtime.metrics.counter(names.MESSAGES_INVALID, listener=runtime.listener, route=runtime.route)

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
        if call.path in UNDESCRIBED and (view is None or view.type(call.path) is None):
            return None
        if view is None:
            return Reason.AGENT_NOT_READY.reject(
                f"messages of {call.path} are validated, and there are no descriptors for that yet: {self._fields.problem}",
                retry_after=_RETRY,
                method=call.path,
                cause=self._fields.problem,
            )
        if self._refuses and view.type(call.path) is None:
            return Reason.CANNOT_MASK.reject(
                f"messages of route {call.route} are validated, and the descriptors know no method {call.path}",
                route=call.route,
                method=call.path,
            )
        return None

    def on_request_message(self, call: Call, message: bytes) -> Rejection | None:
        view = self._fields.view
        found = None if view is None else view.type(call.path)
        if view is None or found is None:
            if call.path in UNDESCRIBED or (view is not None and not self._refuses):
                return None
            return Reason.CANNOT_MASK.reject(
                f"a message of {call.path} cannot be validated: the descriptors lack it now", method=call.path
            )
        try:
            body = unpack(message, call.metadata(b"grpc-encoding"), call.plan.max_message)
            parsed = found.read(body)
            judgement = _Judgement(view.selection)
            if found.node.is_live:
                judgement.walk(parsed, found.node, "")
        except UnknownEncoding as error:
            return Reason.CANNOT_MASK.reject(
                f"a message of {call.path} cannot be validated: {error}", method=call.path, cause=error
            )
        except MessageTooLarge as error:
            return Reason.MESSAGE_TOO_LARGE.reject(
                f"a request message holds more than {error.limit} bytes when it is decompressed; "
                f"listener {call.edge.name} allows {error.limit}",
                direction="request",
                limit=error.limit,
            )
        except CorruptMessage as error:
            return self._refuse(call, found.name, [("", str(error))])
        except (decode_error(), RecursionError):
            return self._refuse(call, found.name, [("", f"the message does not parse as {found.name}")])
        violations = judgement.violations
        if not parsed.IsInitialized():
            violations += [(each, "is required") for each in parsed.FindInitializationErrors()]
        return self._refuse(call, found.name, violations) if violations else None

    def _refuse(self, call: Call, kind: str, violations: list[tuple[str, str]]) -> Rejection:
        self._invalid.inc()
        told = violations[:_TOLD]
        text = "; ".join(f"{path} {rule}" if path else rule for path, rule in told[:3])
        more = f"; and {len(violations) - 3} more" if len(violations) > 3 else ""
        return Reason.INVALID_MESSAGE.reject(
            f"the message is no valid {kind}: {text}{more}",
            details=(BadRequest(tuple(FieldViolation(*each) for each in told)),),
            method=call.path,
            type=kind,
            violations=len(violations),
        )


# ── rules ──


class FieldRules:
    """The rules of one selector, compiled. They yield what is broken, in words that do not repeat the value."""

    __slots__ = ("_config", "_match", "_one_of", "asks_items", "asks_numbers", "asks_texts", "asks_values", "required")

    def __init__(self, config: FieldRulesConfig) -> None:
        self._config = config
        self._match = None if config.pattern is None else re.compile(config.pattern).fullmatch
        # True is 1 in Python, and not in a message.
        self._one_of = None if config.one_of is None else frozenset((isinstance(e, bool), e) for e in config.one_of)
        self.required = config.required
        self.asks_texts = not (config.min_length is None and config.max_length is None and config.pattern is None)
        self.asks_numbers = not (config.lowest is None and config.highest is None)
        self.asks_items = not (config.min_items is None and config.max_items is None)
        self.asks_values = self.asks_texts or self.asks_numbers or self._one_of is not None

    def unsuited(self, field: FieldDescriptor) -> str | None:
        """Why these rules cannot be those of `field`, or None."""
        is_list = field.is_repeated
        if self.asks_items and not is_list and not _is_dynamic(field):
            return "is neither list nor map, which min_items and max_items are for"
        value = field
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = map_part(field, "value")
        if _is_dynamic(value):
            return None
        if value.message_type is not None and value.message_type.full_name in _WRAPPERS:
            value = value.message_type.fields_by_name["value"]
        is_text = value.type == value.TYPE_STRING
        is_bytes = value.type == value.TYPE_BYTES
        if self._match is not None and not is_text:
            return "is no text, which pattern is for"
        if self.asks_texts and not (is_text or is_bytes):
            return "is neither text nor bytes, which min_length and max_length are for"
        is_number = value.message_type is None and value.enum_type is None and value.type != value.TYPE_BOOL
        if self.asks_numbers and (not is_number or is_text or is_bytes):
            return "is no number, which min and max are for"
        if self._one_of is not None and (value.message_type is not None or is_bytes):
            return "is neither text nor number nor enum, which `in` is for"
        if value.enum_type is not None and self._one_of is not None:
            unknown = [text for _, text in self._one_of if text not in value.enum_type.values_by_name]
            if unknown:
                return f"has no value {unknown[0]}; allowed: {', '.join(value.enum_type.values_by_name)}"
        return None

    def of_items(self, count: int) -> Iterator[str]:
        config = self._config
        if self.required and not count:
            yield "is required"
        elif config.min_items is not None and count < config.min_items:
            yield f"must have at least {_counted(config.min_items, 'item')}"
        if config.max_items is not None and count > config.max_items:
            yield f"must have at most {_counted(config.max_items, 'item')}"

    def of_value(self, value: Any) -> Iterator[str]:
        """`value`: text, bytes, a number, a bool; None is what is none of these."""
        config = self._config
        is_too_long = False
        if self.asks_texts:
            if isinstance(value, str | bytes):
                unit = "character" if isinstance(value, str) else "byte"
                if config.min_length is not None and len(value) < config.min_length:
                    yield f"must have at least {_counted(config.min_length, unit)}"
                if config.max_length is not None and len(value) > config.max_length:
                    is_too_long = True
                    yield f"must have at most {_counted(config.max_length, unit)}"
            else:
                yield "must be text"
            # Whoever chooses the text must not choose our time: a text that is too long is not searched.
            if self._match is not None and isinstance(value, str) and not is_too_long and self._match(value) is None:
                yield f"must match {config.pattern}"
        if self.asks_numbers:
            if isinstance(value, bool) or not isinstance(value, int | float):
                yield "must be a number"
            else:
                # Turned round, so that NaN is out of every range.
                if config.lowest is not None and not value >= config.lowest:
                    yield f"must be at least {config.lowest}"
                if config.highest is not None and not value <= config.highest:
                    yield f"must be at most {config.highest}"
        if self._one_of is not None and (isinstance(value, bool), value) not in self._one_of:
            yield f"must be one of {', '.join(map(str, config.one_of or ()))}"


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def _is_dynamic(field: FieldDescriptor) -> bool:
    message = field.message_type
    return message is not None and message.full_name in {
        "google.protobuf.Value",
        "google.protobuf.ListValue",
        "google.protobuf.Struct",
        "google.protobuf.Any",
    }


def _check(selection: Selection[FieldRules], rules: dict[str, FieldRules]) -> None:
    for text, each in rules.items():
        for field in selection.targets[text]:
            why = None if field is None else each.unsuited(field)
            if why is not None and field is not None:
                raise ValueError(f"{text}: {field.full_name} {why}")


# ── one message ──


class _Judgement:
    """One message, being judged. `violations` are (path from the message, what is wrong)."""

    __slots__ = ("_depth", "_selection", "violations")

    def __init__(self, selection: Selection[FieldRules]) -> None:
        self._selection = selection
        self._depth = 0
        self.violations: list[tuple[str, str]] = []

    def walk(self, message: Any, node: Node[FieldRules], at: str) -> None:
        kind = node.kind
        if kind is not Kind.MESSAGE:
            self._walk_dynamic(message, kind, node.pending, at)
            return
        for hit in node.hits:
            self._judge(message, hit, at + hit.name)
        for edge in node.edges:
            path = at + edge.name
            if edge.shape is Shape.ONE:
                if is_set(message, edge) and edge.node is not None:
                    self.walk(read(message, edge), edge.node, f"{path}.")
            elif edge.shape is Shape.MANY:
                for i, each in enumerate(read(message, edge)):
                    assert edge.node is not None
                    self.walk(each, edge.node, f"{path}[{i}].")
            else:
                self._walk_map(read(message, edge), edge.field, edge.node, edge.keys, path)

    def _tell(self, path: str, problems: Iterator[str]) -> None:
        self.violations += [(path, each) for each in problems]

    def _judge(self, message: Any, hit: Hit[FieldRules], path: str) -> None:
        field = hit.field
        for rules in hit.payloads:
            if hit.shape is Shape.ONE:
                self._judge_one(message, hit, rules, path)
                continue
            values: Any = read(message, hit)
            self._tell(path, rules.of_items(len(values)))
            if not rules.asks_values:
                continue
            if hit.shape is Shape.MAP:
                value = map_part(field, "value")
                # Keys are the caller's, so they are not repeated.
                for key in values:
                    self._tell(f"{path}[]", rules.of_value(_plain(values[key], value)))
            else:
                for i, each in enumerate(values):
                    self._tell(f"{path}[{i}]", rules.of_value(_plain(each, field)))

    def _judge_one(self, message: Any, hit: Hit[FieldRules], rules: FieldRules, path: str) -> None:
        field = hit.field
        if not is_set(message, hit):
            if rules.required:
                self.violations.append((path, "is required"))
                return
            if field.has_presence:
                return
        value: Any = read(message, hit)
        if field.message_type is not None and field.message_type.full_name == "google.protobuf.Value":
            self._judge_value(value, rules, path)
        elif field.message_type is not None and field.message_type.full_name == "google.protobuf.ListValue":
            self._judge_list(value, rules, path)
        elif rules.asks_values:
            self._tell(path, rules.of_value(_plain(value, field)))

    def _judge_value(self, value: Any, rules: FieldRules, path: str) -> None:
        which = value.WhichOneof("kind")
        if which == "list_value":
            self._judge_list(value.list_value, rules, path)
            return
        if rules.required and which in {None, "null_value"}:
            self.violations.append((path, "is required"))
            return
        if rules.asks_items:
            self.violations.append((path, "must be a list"))
        if rules.asks_values:
            plain = getattr(value, which) if which in {"string_value", "number_value", "bool_value"} else None
            self._tell(path, rules.of_value(plain))

    def _judge_list(self, values: Any, rules: FieldRules, path: str) -> None:
        self._tell(path, rules.of_items(len(values.values)))
        for i, each in enumerate(values.values):
            if rules.asks_values:
                self._judge_value(each, rules, f"{path}[{i}]")

    def _walk_map(
        self, entries: Any, field: FieldDescriptor, node: Node[FieldRules] | None, keys: Pending, path: str
    ) -> None:
        value = map_part(field, "value")
        for key in entries:
            if node is not None and node.is_live:
                self.walk(entries[key], node, f"{path}[].")
        for key in self._named(keys):
            hits, inside = self._selection.keyed(key, keys)
            for rules in hits:
                if key not in entries:
                    if rules.required:
                        self.violations.append((f"{path}.{key}", "is required"))
                elif rules.asks_values:
                    self._tell(f"{path}.{key}", rules.of_value(_plain(entries[key], value)))
            if inside and value.message_type is not None and key in entries:
                self.walk(entries[key], self._selection.node(value.message_type, inside), f"{path}.{key}.")

    def _named(self, pending: Pending) -> list[str]:
        """The keys that rules name."""
        return sorted({parts[0] for parts, _ in pending})

    # ── messages whose fields are data ──

    def _walk_dynamic(self, message: Any, kind: Kind, pending: Pending, at: str) -> None:
        if kind is Kind.ANY:
            self._walk_any(message, pending, at)
        elif kind is Kind.STRUCT:
            for key in self._named(pending):
                hits, inside = self._selection.keyed(key, pending)
                path = at + key
                if key not in message.fields:
                    self.violations += [(path, "is required") for rules in hits if rules.required]
                    continue
                value = message.fields[key]
                for rules in hits:
                    self._judge_value(value, rules, path)
                if inside:
                    self._walk_value(value, inside, f"{path}.")
        elif kind is Kind.LIST:
            for value in message.values:
                self._walk_value(value, pending, at)
        else:
            self._walk_value(message, pending, at)

    def _walk_value(self, value: Any, pending: Pending, at: str) -> None:
        which = value.WhichOneof("kind")
        if which == "struct_value":
            self._walk_dynamic(value.struct_value, Kind.STRUCT, pending, at)
        elif which == "list_value":
            self._walk_dynamic(value.list_value, Kind.LIST, pending, at)

    def _walk_any(self, message: Any, pending: Pending, at: str) -> None:
        descriptors = self._selection.descriptors
        descriptor = descriptors.types.get(message.type_url.rpartition("/")[2])
        if descriptor is None:
            # No rule is for a type that nobody knows; a path that leads into it is for any type.
            if pending:
                self.violations.append((at.rstrip("."), "must hold a message of a known type"))
            return
        if self._depth == _DEEPEST_ANY:
            self.violations.append((at.rstrip("."), "is nested too deeply"))
            return
        self._depth += 1
        inner = descriptors.message(descriptor).FromString(message.value)
        self.walk(inner, self._selection.node(descriptor, pending), at)
        self._depth -= 1


def _plain(value: Any, field: FieldDescriptor) -> Any:
    """A value of a field as rules judge it: enums by name, wrappers without their wrapping, other messages as None."""
    if field.enum_type is not None:
        found = field.enum_type.values_by_number.get(value)
        return value if found is None else found.name
    if field.message_type is not None:
        return value.value if field.message_type.full_name in _WRAPPERS else None
    return value
