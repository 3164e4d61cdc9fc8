"""HTML that cannot be broken out of: text is escaped unless it was made by `tag`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TypeAlias


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Child: TypeAlias = "str | float | Sequence[Child] | None"
"""What may stand in an element; None is nothing."""

_VOID = frozenset({"input", "link", "meta", "br", "hr", "path", "line", "rect", "circle"})


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """`tag("a", "text", href="/x", class_="y")`. True = the bare attribute; None and False = none. `_` becomes `-`."""
    opened = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        shown = key.rstrip("_").replace("_", "-")
        opened.append(shown if value is True else f'{shown}="{escape(str(value))}"')
    start = f"<{' '.join(opened)}>"
    if name in _VOID:
        return Html(start if name[0] in "ilmbh" else f"{start[:-1]}/>")
    return Html(f"{start}{joined(children)}</{name}>")


def joined(children: Sequence[Child]) -> Html:
    """Children one after the other."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str | float | int):
            parts.append(escape(str(child), quote=False))
        else:
            parts.append(joined(child))
    return Html("".join(parts))
