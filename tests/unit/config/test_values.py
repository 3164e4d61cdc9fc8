from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.document import MAX_DEPTH, read_document
from sidecar.config.problems import Located
from sidecar.config.values import MAX_TEXT, TooLargeError, plain_values


def test_plain_words_become_values_and_quoted_ones_stay_text() -> None:
    data, problems = _values("a: 5\nb: '5'\nc: true\nd: 'true'\ne: [1.5, on]\nf: |\n  5\n")
    assert data == {"a": 5, "b": "5", "c": True, "d": "true", "e": [1.5, "on"], "f": "5\n"}
    assert problems == []


def test_the_environment_is_put_in_before_words_are_read() -> None:
    data, _ = _values("a: '${PORT}'\nb: ${PORT}\nc: ${NONE:-true}\nd: x-${PORT}\n", PORT="80")
    assert data == {"a": "80", "b": 80, "c": True, "d": "x-80"}


def test_what_is_put_in_adds_no_structure() -> None:
    data, _ = _values("a: ${X}", X="{b: [1]}\nc: 2")
    assert data == {"a": "{b: [1]}\nc: 2"}


def test_names_of_fields_take_no_environment() -> None:
    assert _values("'${A}': 1", A="b")[0] == {"${A}": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:", "has no value; write one, or remove the field"),
        ("a: ~", "is null, which stands for nothing here; remove the field, or put the word into quotes"),
        ("a: null", "is null, which stands for nothing here; remove the field, or put the word into quotes"),
        (
            "a: ${X:-}",
            'is empty once the environment is put in; set the variable, or put it into quotes if "" is meant',
        ),
        ("a: ${X}", "needs the environment variable X, which is not set; set it, or write ${X:-default}"),
        ("a: 1e999", "is a number that is too large; put it into quotes if it is text"),
    ],
)
def test_a_broken_value_is_told_and_leaves_nothing(text: str, message: str) -> None:
    assert _values(text) == ({"a": None}, [Located(("a",), message)])


def test_problems_are_found_wherever_they_are() -> None:
    _, problems = _values("a: [1, {b: ~}]\nc: ${X}\n")
    assert [each.loc for each in problems] == [("a", 1, "b"), ("c",)]


def test_aliases_cannot_multiply_without_bound() -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
    )
    with pytest.raises(TooLargeError):
        _values(laughs)


def test_aliases_cannot_multiply_text() -> None:
    text = "a: &a " + "x" * 100_000 + "\nb: [" + "*a, " * (MAX_TEXT // 100_000) + "]\n"
    with pytest.raises(TooLargeError) as refused:
        _values(text)
    assert refused.value.loc[0] == "b"


def test_aliases_cannot_deepen_without_bound() -> None:
    text = "a0: &a0 [[[[[[[[[[x]]]]]]]]]]\n" + "".join(
        f"a{i}: &a{i} [[[[[[[[[[*a{i - 1}]]]]]]]]]]\n" for i in range(1, 5)
    )
    with pytest.raises(TooLargeError) as refused:
        _values(text)
    assert len(refused.value.loc) == MAX_DEPTH + 1


def _values(text: str, **environ: str) -> tuple[Any, list[Located]]:
    root, problems = read_document(text, "c")
    assert root is not None
    assert not problems
    return plain_values(root, environ)
