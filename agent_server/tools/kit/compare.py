"""Two lists of rows against each other."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from pydantic import Field

from agent_server.agents.declare import Input, Output
from agent_server.core.failure import invalid
from agent_server.tools.declare import Use, tool


class CompareInput(Input):
    """The two lists and the fields that name a row."""

    left: list[dict[str, Any]]
    right: list[dict[str, Any]]
    key: list[str] = Field(min_length=1)
    fields: list[str] = Field(default_factory=list, description="To compare; empty: all that both have.")
    tolerance: float = Field(default=0.0, ge=0, description="By which numbers may differ.")


class Difference(Output):
    """A row that is in both and not the same."""

    key: dict[str, Any]
    field: str
    left: Any
    right: Any


class CompareOutput(Output):
    """What differs."""

    matched: int = Field(description="Rows in both that are the same.")
    only_left: list[dict[str, Any]]
    only_right: list[dict[str, Any]]
    different: list[Difference]


@tool("table.compare", changes=False)
async def compare(request: CompareInput, use: Use) -> CompareOutput:
    """Finds rows that are in one list only, and fields that differ. Numbers are compared as numbers, also when given as text."""
    left, right = _by_key("left", request.left, request.key), _by_key("right", request.right, request.key)
    different: list[Difference] = []
    matched = 0
    for key in left.keys() & right.keys():
        one, other = left[key], right[key]
        names = request.fields or [name for name in one if name in other and name not in request.key]
        found = [
            Difference(
                key={name: one[name] for name in request.key}, field=name, left=one.get(name), right=other.get(name)
            )
            for name in names
            if not _same(one.get(name), other.get(name), Decimal(str(request.tolerance)))
        ]
        different += found
        matched += not found
    different.sort(key=lambda each: (tuple(map(str, each.key.values())), each.field))
    return CompareOutput(
        matched=matched,
        only_left=[left[key] for key in left if key not in right],
        only_right=[right[key] for key in right if key not in left],
        different=different,
    )


def _by_key(side: str, rows: list[dict[str, Any]], names: list[str]) -> dict[tuple[str, ...], dict[str, Any]]:
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for number, row in enumerate(rows):
        if missing := [name for name in names if row.get(name) is None]:
            raise invalid(f"{side}.{number}", f"has no {', '.join(missing)}")
        key = tuple(str(row[name]).strip() for name in names)
        if key in found:
            raise invalid(f"{side}.{number}", f"a second row with the key {', '.join(key)}")
        found[key] = row
    return found


def _same(one: Any, other: Any, tolerance: Decimal) -> bool:
    if one == other:
        return True
    try:
        return abs(Decimal(str(one).strip()) - Decimal(str(other).strip())) <= tolerance
    except InvalidOperation:
        return str(one).strip() == str(other).strip()
