"""Templates in workflows: Jinja2's sandbox, with values kept as they are where a template is one expression."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from grpc import StatusCode
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agent_server.core.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_EXPRESSION = re.compile(r"\A\s*\{\{((?:(?!\}\}|\{\{).)*)\}\}\s*\Z", re.DOTALL)
_LONGEST = 16 << 20
_LARGEST_FACTOR = 1_000_000


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        # 'x' * 10**12 would take all memory, and 9**9**9 all time: neither is arithmetic that a workflow needs.
        if operator == "**" and (abs(left) > 10**6 or abs(right) > 64):
            raise TemplateError("** is for small numbers here")
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                is_sequence = isinstance(one, str | bytes | list | tuple) and isinstance(other, int)
                if is_sequence and len(one) * other > _LARGEST_FACTOR:
                    raise TemplateError("* would make something too large")
        if operator == "%" and not isinstance(left, int | float):
            raise TemplateError("% formats nothing here; use ~ to join texts")
        return super().call_binop(context, operator, left, right)


_ENVIRONMENT = _Sandbox(undefined=StrictUndefined, autoescape=False, cache_size=1000)
for _name in ("pprint", "xmlattr", "urlize", "format", "center", "indent", "wordwrap"):
    _ENVIRONMENT.filters.pop(_name, None)
_expressions: dict[str, Callable[..., Any]] = {}


def fill(value: Any, names: Mapping[str, Any], where: str) -> Any:
    """Every string in `value` filled in. Raises Failure FAILED_PRECONDITION naming the place of a template that cannot be."""
    if isinstance(value, dict):
        return {name: fill(each, names, f"{where}.{name}") for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [fill(each, names, f"{where}.{number}") for number, each in enumerate(value)]
    if not isinstance(value, str) or "{" not in value:
        return value
    try:
        if found := _EXPRESSION.match(value):
            return _plain(_expression(found[1])(**names))
        text = _ENVIRONMENT.from_string(value).render(names)
        if len(text) > _LONGEST:
            raise TemplateError("the text is too long")
        return text
    except Failure:
        raise
    except Exception as error:  # a template can raise whatever the values in it raise
        text = f"{where}: {type(error).__name__}: {error}"
        raise Failure(StatusCode.FAILED_PRECONDITION, "TEMPLATE_FAILED", text, metadata={"field": where}) from None


def _expression(text: str) -> Callable[..., Any]:
    compiled = _expressions.get(text)
    if compiled is None:
        if len(_expressions) >= 1000:
            _expressions.clear()
        compiled = _expressions[text] = _ENVIRONMENT.compile_expression(text.strip(), undefined_to_none=False)
    return compiled


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
