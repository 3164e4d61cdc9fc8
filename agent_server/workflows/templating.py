"""Templates in workflows: Jinja2's sandbox, with values kept as they are where a template is one expression.

Jinja2's sandbox keeps templates from what Python can do. It does not keep them from taking all time or all memory, and whoever
calls may bring a workflow of his own: so loops do not nest, nothing is assigned, and only what is listed here is called.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from grpc import StatusCode
from jinja2 import StrictUndefined, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agent_server.core.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_EXPRESSION = re.compile(r"\A\s*\{\{((?:(?!\}\}|\{\{).)*)\}\}\s*\Z", re.DOTALL)
_LONGEST = 16 << 20
_LARGEST_FACTOR = 1_000_000
_MOST_JOINED = 50
_LARGEST_ARGUMENT = 10_000
_FILTERS = frozenset(
    "abs batch capitalize count d default dictsort first float groupby int items join last length list lower map max min reject"
    " rejectattr replace reverse round select selectattr sort string sum title tojson trim truncate unique upper urlencode"
    " wordcount".split()
)
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        "capitalize casefold count endswith find index isalnum isalpha isdecimal isdigit islower isnumeric isspace istitle"
        " isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split"
        " splitlines startswith strip swapcase title upper".split()
    ),
    dict: frozenset(("get", "items", "keys", "values")),
    list: frozenset(("count", "index")),
    tuple: frozenset(("count", "index")),
}
_STATEMENTS = (
    nodes.Assign,
    nodes.AssignBlock,
    nodes.Block,
    nodes.CallBlock,
    nodes.Extends,
    nodes.FilterBlock,
    nodes.FromImport,
    nodes.Import,
    nodes.Include,
    nodes.Macro,
    nodes.With,
)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        # 'x' * 10**12 would take all memory, and 9**9**9 all time: neither is arithmetic that a workflow needs.
        if operator == "**" and (abs(left) > 10**6 or abs(right) > 64):
            raise TemplateError("** is for small numbers here")
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                is_sequence = isinstance(one, str | bytes | list | tuple) and isinstance(other, int)
                if is_sequence and len(one) * other > _LARGEST_FACTOR:
                    raise TemplateError("* would make something too large")
        if operator == "+" and not isinstance(left, int | float) and len(left) + len(right) > _LONGEST:
            raise TemplateError("+ would make something too large")
        if operator == "%" and not isinstance(left, int | float):
            raise TemplateError("% formats nothing here; use ~ to join texts")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, called: Any, *given: Any, **named: Any) -> Any:
        owner: Any = getattr(called, "__self__", None)
        name = getattr(called, "__name__", "")
        if called is not self.globals["range"] and name not in _METHODS.get(type(owner), frozenset()):
            raise TemplateError(f"{name or 'this'}() cannot be called here")
        if name == "replace":
            _check_replaced(owner, *given)
        elif name == "join" and given:
            given = (_checked_pieces(owner, given[0]),)
        return super().call(context, called, *given, **named)


def _bounded(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that makes nothing much larger than what it is given."""
    skipped = 2 if hasattr(work, "jinja_pass_arg") else 1

    @functools.wraps(work)
    def filtered(*given: Any, **named: Any) -> Any:
        options = (*given[skipped:], *named.values())
        if any(isinstance(each, int) and abs(each) > _LARGEST_ARGUMENT for each in options) and name not in _OF_VALUES:
            raise TemplateError(f"{name}: at most {_LARGEST_ARGUMENT}")
        if name == "replace":
            _check_replaced(*map(str, given[skipped - 1 : skipped + 2]))
        elif name == "join":
            separator = str(options[0]) if options else ""
            given = (*given[: skipped - 1], _checked_pieces(separator, given[skipped - 1]), *given[skipped:])
        return work(*given, **named)

    return filtered


_OF_VALUES = frozenset(("d", "default", "float", "int", "map", "reject", "rejectattr", "select", "selectattr", "sum"))
"""Their arguments are values, not sizes."""


def _check_replaced(text: str, old: str, new: str, *_: Any) -> None:
    if len(text) + text.count(old) * len(new) > _LONGEST:
        raise TemplateError("the text would be too long")


def _checked_pieces(separator: str, pieces: Any) -> list[Any]:
    found = list(pieces)
    if sum(len(each) if isinstance(each, str) else 32 for each in found) + len(separator) * len(found) > _LONGEST:
        raise TemplateError("the text would be too long")
    return found


_ENVIRONMENT = _Sandbox(undefined=StrictUndefined, autoescape=False)
_ENVIRONMENT.filters = {name: _bounded(name, work) for name, work in _ENVIRONMENT.filters.items() if name in _FILTERS}
_ENVIRONMENT.globals = {"range": _ENVIRONMENT.globals["range"]}
_compiled: dict[str, Callable[..., Any]] = {}


def fill(value: Any, names: Mapping[str, Any], where: str) -> Any:
    """Every string in `value` filled in. Raises Failure FAILED_PRECONDITION naming the place of a template that cannot be."""
    if isinstance(value, dict):
        return {name: fill(each, names, f"{where}.{name}") for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [fill(each, names, f"{where}.{number}") for number, each in enumerate(value)]
    if not isinstance(value, str) or "{" not in value:
        return value
    try:
        return _plain(_template(value)(**names))
    except Failure:
        raise
    except Exception as error:  # a template can raise whatever the values in it raise
        text = f"{where}: {type(error).__name__}: {error}"
        raise Failure(StatusCode.FAILED_PRECONDITION, "TEMPLATE_FAILED", text, metadata={"field": where}) from None


def _template(text: str) -> Callable[..., Any]:
    compiled = _compiled.get(text)
    if compiled is None:
        if len(_compiled) >= 1000:
            _compiled.clear()
        _check(_ENVIRONMENT.parse(text))
        if found := _EXPRESSION.match(text):
            compiled = _ENVIRONMENT.compile_expression(found[1].strip(), undefined_to_none=False)
        else:
            compiled = functools.partial(_rendered, _ENVIRONMENT.from_string(text).generate)
        _compiled[text] = compiled
    return compiled


def _rendered(generate: Callable[..., Any], **names: Any) -> str:
    pieces: list[str] = []
    size = 0
    for piece in generate(**names):
        size += len(piece)
        if size > _LONGEST:
            raise TemplateError("the text is too long")
        pieces.append(piece)
    return "".join(pieces)


def _check(tree: nodes.Template) -> None:
    if found := next(tree.find_all(_STATEMENTS), None):
        raise TemplateError(f"{type(found).__name__.lower()} is not for workflows; {{{{ }}}}, if and for are")
    if sum(len(each.nodes) for each in tree.find_all(nodes.Concat)) > _MOST_JOINED:
        raise TemplateError(f"~ joins {_MOST_JOINED} values at most")
    for loop in tree.find_all(nodes.For):
        if loop.recursive or next(loop.find_all(nodes.For), None):
            raise TemplateError("loops do not nest here")


def _plain(value: Any) -> Any:
    """Values of JSON only: filters give iterators, and an undefined value must not go on."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, StrictUndefined):
        str(value)  # raises, saying what is undefined
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if hasattr(value, "__iter__"):
        return [_plain(each) for each in value]
    msg = f"gives a {type(value).__name__}"
    raise TemplateError(msg)
