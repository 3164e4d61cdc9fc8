"""What the models' validator finds, said in our words: what is wrong; what is allowed."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, RootModel, SecretStr
from pydantic.fields import FieldInfo

from sidecar.config.document import Node
from sidecar.config.model import ContradictionsError
from sidecar.config.problems import Located, did_you_mean, listed, quoted
from sidecar.config.units import format_duration, format_size, parse_duration, parse_size

Loc: TypeAlias = "tuple[str | int, ...]"

_LENGTHS = {"too_short", "too_long", "string_too_short", "string_too_long"}


def findings(errors: Iterable[Any], model: type[BaseModel], root: Node) -> list[Located]:
    """pydantic's `ValidationError.errors()` for `model`, as located problems of the document `root`."""
    return [each for error in errors for each in _finding(error, model, root)]


def _finding(error: Mapping[str, Any], model: type[BaseModel], root: Node) -> list[Located]:
    loc: Loc = error["loc"]
    is_key = loc[-1:] == ("[key]",)
    if is_key:
        loc = loc[:-1]
    kind: str = error["type"]
    if kind == "too_short" and _has_enough(error["input"], error["ctx"]):
        return []
    if kind == "value_error":
        cause = error["ctx"]["error"]
        if isinstance(cause, ContradictionsError):
            return [_contradiction(loc, field, message, model, root) for field, message in cause.found]
        shown = f"{quoted(str(loc[-1]))} " if is_key else _shown(root, loc, model)
        return [Located(loc, f"{shown}{cause}", at_key=is_key)]
    return [Located(loc, _message(kind, error, loc, model, root), at_key=is_key or kind == "extra_forbidden")]


def _message(kind: str, error: Mapping[str, Any], loc: Loc, model: type[BaseModel], root: Node) -> str:
    context: Mapping[str, Any] = error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(str(loc[-1]), _type_at(model, loc[:-1]))
    if kind == "missing":
        return f"is required; add it ({_about(_type_at(model, loc[:-1]), str(loc[-1]))})"
    if kind in {"literal_error", "enum"}:
        return _not_one_of(root, loc, model)
    if kind in _BOUNDS:
        return f"{_shown(root, loc, model)}{_bound(kind, context, root.at(loc)[0])}"
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}; this is {_kind(error['input'])}{_hint(kind, error['input'])}"
    if kind in _LENGTHS:
        return _length(kind, context, _type_at(model, loc))
    # A kind no model here uses yet; a policy's own may.
    said = str(error["msg"])
    return f"{_shown(root, loc, model)}is not allowed: {said[:1].lower()}{said[1:]}"


def _contradiction(loc: Loc, field: str, message: str, model: type[BaseModel], root: Node) -> Located:
    at = (*loc, *(int(part) if part.isdigit() else part for part in field.split(".") if part))
    return Located(at, f"{_shown(root, at, model)}{message}" if root.at(at)[1] == at else message)


def _unknown(name: str, section: Any) -> str:
    known = _fields(section)
    return f"unknown field; {did_you_mean(name, known)}allowed: {listed(known) or 'nothing'}"


def _about(section: Any, name: str) -> str:
    field = _fields(section).get(name)
    return (field and field.description) or "see `sidecar schema`"


def _not_one_of(root: Node, loc: Loc, model: type[BaseModel]) -> str:
    annotation = _type_at(model, loc)
    words = [str(word) for word in get_args(annotation)] if get_origin(annotation) is Literal else []
    if not words and isinstance(annotation, type):
        words = [str(each.value) for each in getattr(annotation, "__members__", {}).values()]
    near = did_you_mean(root.at(loc)[0].text, words)
    return f"{_shown(root, loc, model)}is not known here; {near}allowed: {listed(words)}"


_BOUNDS = {
    "greater_than": "must be more than",
    "greater_than_equal": "must be at least",
    "less_than": "must be less than",
    "less_than_equal": "must be at most",
    "multiple_of": "must be a multiple of",
}
_BOUND_NAMES = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
_UNITS: tuple[tuple[Callable[[str], object], Callable[[Any], str]], ...] = (
    (parse_duration, format_duration),
    (parse_size, format_size),
)


def _bound(kind: str, context: Mapping[str, Any], node: Node) -> str:
    bound = context.get(_BOUND_NAMES.get(kind, kind))
    for parse, show in _UNITS:
        if isinstance(bound, int | float) and _parses(node.text, parse):
            return f"{_BOUNDS[kind]} {show(bound)}"
    return f"{_BOUNDS[kind]} {bound:g}" if isinstance(bound, float) else f"{_BOUNDS[kind]} {bound}"


def _parses(text: str, parse: Callable[[str], object]) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


_TEXT = "text"
_WHOLE = "a whole number, in decimal digits"
_NUMBER = "a number, in decimal digits"
_YES_NO = "true or false"
_MAPPING = "a mapping (name: value)"
_LIST = "a list ([a, b], or lines that begin with -)"
_TYPES = {
    "string_type": _TEXT,
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing_size": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": _NUMBER,
    "bool_type": _YES_NO,
    "bool_parsing": _YES_NO,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dict_type": _MAPPING,
    "mapping_type": _MAPPING,
    "tuple_type": _LIST,
    "list_type": _LIST,
    "set_type": _LIST,
    "frozen_set_type": _LIST,
}


def _kind(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return "something else"


def _hint(kind: str, value: object) -> str:
    wanted = _TYPES[kind]
    if wanted is _TEXT and isinstance(value, bool | int | float):
        return "; put it into quotes"
    if wanted is _YES_NO and isinstance(value, str):
        return "; only `true` and `false`, without quotes, are booleans"
    if wanted in {_WHOLE, _NUMBER} and isinstance(value, str):
        return "; no quotes, no leading 0, no 0x, no _"
    if wanted is _WHOLE and isinstance(value, float):
        return " with a fraction"
    return ""


def _has_enough(value: object, context: Mapping[str, Any]) -> bool:
    """pydantic counts the entries that are right; those that are wrong have their own finding."""
    return isinstance(value, list | tuple | dict) and len(value) >= context["min_length"]


def _length(kind: str, context: Mapping[str, Any], annotation: Any) -> str:
    is_text = kind.startswith("string_") or annotation in {str, SecretStr}
    what = "characters" if is_text else "entries"
    if kind.endswith("too_short"):
        least = context["min_length"]
        return f"must have at least {least} {'entry' if least == 1 and not is_text else what}"
    return f"must have at most {context['max_length']} {what}"


# A URL with a password in it is as secret as the password.
_CREDENTIALS = re.compile(r"://[^/\s]*@|passw")


def _shown(root: Node, loc: Loc, model: type[BaseModel]) -> str:
    """The value as the file writes it, for the beginning of a message; nothing for sections and secrets."""
    node = root.at(loc)[0]
    if node.kind != "scalar" or _type_at(model, loc) is SecretStr or _CREDENTIALS.search(node.text):
        return ""
    return f"{quoted(node.text)} "


def _type_at(annotation: Any, loc: Loc) -> Any:
    """The type a value at `loc` below `annotation` has; None where nothing is known."""
    for part in loc:
        annotation = _unwrapped(annotation)
        if _is_model(annotation):
            field = _fields(annotation).get(str(part))
            annotation = field.annotation if field else None
        elif get_origin(annotation) in {tuple, list, set, frozenset}:
            annotation = get_args(annotation)[0]
        elif get_args(annotation):
            annotation = get_args(annotation)[-1]
        else:
            return None
    return _unwrapped(annotation)


def _fields(section: Any) -> dict[str, FieldInfo]:
    """The fields of a section by their names in the file: `from` is no name that Python would take."""
    if not _is_model(section):
        return {}
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _unwrapped(annotation: Any) -> Any:
    """Without `Annotated` and `| None`; a model that is a list by another name is that list."""
    while True:
        if isinstance(annotation, type) and issubclass(annotation, RootModel):
            annotation = annotation.model_fields["root"].annotation
        elif hasattr(annotation, "__metadata__"):
            annotation = annotation.__origin__
        elif get_origin(annotation) in {Union, types.UnionType}:
            annotation = next((each for each in get_args(annotation) if each is not type(None)), None)
        else:
            return annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
