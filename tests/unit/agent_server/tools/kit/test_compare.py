"""Two lists of rows against each other."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from agent_server.core.failure import Failure
from agent_server.tools.declare import Use
from agent_server.tools.kit.compare import CompareInput, CompareOutput, compare

USE = Use(cast("Any", None))


def compared(left: list[dict[str, Any]], right: list[dict[str, Any]], **more: Any) -> CompareOutput:
    return asyncio.run(compare(CompareInput(left=left, right=right, **{"key": ["id"], **more}), USE))


def test_numbers_are_compared_as_numbers_and_texts_without_their_margins() -> None:
    found = compared([{"id": "1", "v": "2.50", "n": " Ann "}], [{"id": 1, "v": 2.5, "n": "Ann"}])
    assert (found.matched, found.different) == (1, [])


def test_what_differs_is_named_field_by_field() -> None:
    found = compared(
        [{"id": 2, "v": 1, "w": 1}, {"id": 1, "v": 1}, {"id": 3, "v": 1}],
        [{"id": 2, "v": 2, "w": 2}, {"id": 1, "v": 1}, {"id": 4, "v": 1}],
    )
    assert [(each.key, each.field, each.left, each.right) for each in found.different] == [
        ({"id": 2}, "v", 1, 2),
        ({"id": 2}, "w", 1, 2),
    ]
    assert (found.matched, found.only_left, found.only_right) == (1, [{"id": 3, "v": 1}], [{"id": 4, "v": 1}])


@pytest.mark.parametrize(("tolerance", "differs"), [(0.0, 1), (0.01, 0)])
def test_numbers_may_differ_by_the_tolerance(tolerance: float, differs: int) -> None:
    found = compared([{"id": 1, "v": "10.00"}], [{"id": 1, "v": 10.01}], tolerance=tolerance)
    assert len(found.different) == differs


def test_only_the_fields_that_are_asked_for_and_keys_of_several() -> None:
    left, right = [{"a": 1, "b": 1, "v": 1, "w": 1}], [{"a": 1, "b": 1, "v": 2, "w": 2}]
    assert [each.field for each in compared(left, right, key=["a", "b"], fields=["w"]).different] == ["w"]


@pytest.mark.parametrize(
    ("left", "said"), [([{"v": 1}], "has no id"), ([{"id": 1}, {"id": "1 "}], "a second row with the key 1")]
)
def test_rows_without_a_key_of_their_own(left: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(Failure, match=said):
        compared(left, [])
