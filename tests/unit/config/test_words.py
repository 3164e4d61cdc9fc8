from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, Literal

import pytest
from pydantic import Field, SecretStr, ValidationError

from sidecar.config.document import read_document
from sidecar.config.model import Model
from sidecar.config.problems import Located
from sidecar.config.units import Duration, Size
from sidecar.config.values import plain_values
from sidecar.config.words import findings


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class InnerConfig(Model):
    deep: int = Field(default=0, le=5, description="how deep")
    needed: str = Field(description="what is needed")


class OuterConfig(Model):
    """One field of each kind."""

    text: str = ""
    number: float = Field(default=0.0, gt=0, lt=10)
    count: int = Field(default=0, ge=1)
    even: int = Field(default=0, multiple_of=2)
    flag: bool = False
    wait: Duration = Field(default=1.0, gt=0, le=60)
    room: Size = Field(default=1024, ge=1024)
    mode: Literal["fast", "slow"] = "fast"
    colour: Colour = Colour.RED
    secret: SecretStr = Field(default=SecretStr(""), min_length=8, max_length=9)
    few: tuple[str, ...] = Field(default=(), max_length=2)
    many: tuple[str, ...] = Field(default=("a", "b"), min_length=2)
    short: str = Field(default="", max_length=3)
    code: str = Field(default="", pattern="^[a-z]+$")
    inner: InnerConfig | None = None
    by_name: dict[str, InnerConfig] = Field(default_factory=dict)
    counts: dict[Literal["a"], int] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("text", "loc", "message"),
    [
        ("text: 5", "text", "must be text; this is a number; put it into quotes"),
        ("text: true", "text", "must be text; this is true or false; put it into quotes"),
        ("text: [a]", "text", "must be text; this is a list"),
        ("text: {a: b}", "text", "must be text; this is a mapping"),
        (
            "number: x",
            "number",
            "must be a number, in decimal digits; this is text; no quotes, no leading 0, no 0x, no _",
        ),
        ("number: 0", "number", "`0` must be more than 0"),
        ("number: 10.5", "number", "`10.5` must be less than 10"),
        ("number: true", "number", "must be a number, in decimal digits; this is true or false"),
        ("count: 1.5", "count", "must be a whole number, in decimal digits; this is a number with a fraction"),
        (
            "count: 012",
            "count",
            "must be a whole number, in decimal digits; this is text; no quotes, no leading 0, no 0x, no _",
        ),
        ("count: 0", "count", "`0` must be at least 1"),
        ("even: 3", "even", "`3` must be a multiple of 2"),
        (
            "flag: yes",
            "flag",
            "must be true or false; this is text; only `true` and `false`, without quotes, are booleans",
        ),
        ("flag: 1", "flag", "must be true or false; this is a number"),
        ("wait: 0s", "wait", "`0s` must be more than 0s"),
        ("wait: 2m", "wait", "`2m` must be at most 1m"),
        ("room: 12B", "room", "`12B` must be at least 1KiB"),
        ("mode: fats", "mode", "`fats` is not known here; did you mean `fast`? allowed: fast, slow"),
        ("mode: [fast]", "mode", "is not known here; allowed: fast, slow"),
        ("colour: redd", "colour", "`redd` is not known here; did you mean `red`? allowed: red, blue"),
        ("secret: abc", "secret", "must have at least 8 characters"),
        ("secret: abcdefghijk", "secret", "must have at most 9 characters"),
        ("few: [a, b, c]", "few", "must have at most 2 entries"),
        ("many: [a]", "many", "must have at least 2 entries"),
        ("short: abcd", "short", "must have at most 3 characters"),
        ("code: A1", "code", "`A1` is not allowed: string should match pattern '^[a-z]+$'"),
        ("few: a", "few", "must be a list ([a, b], or lines that begin with -); this is text"),
        ("few: [a, 5]", "few.1", "must be text; this is a number; put it into quotes"),
        ("inner: x", "inner", "must be a mapping (name: value); this is text"),
        ("inner: {deep: 1}", "inner.needed", "is required; add it (what is needed)"),
        ("inner: {needed: a, deep: 9}", "inner.deep", "`9` must be at most 5"),
        (
            "by_name: {x: {needed: a, depe: 1}}",
            "by_name.x.depe",
            "unknown field; did you mean `deep`? allowed: deep, needed",
        ),
        ("by_name: []", "by_name", "must be a mapping (name: value); this is a list"),
        ("zzz: 1", "zzz", "unknown field; allowed: " + ", ".join(OuterConfig.model_fields)),
    ],
)
def test_what_is_wrong_and_what_is_allowed(text: str, loc: str, message: str) -> None:
    found = _findings(text)
    assert [(".".join(map(str, each.loc)), each.message) for each in found] == [(loc, message)]


def test_a_list_with_wrong_entries_is_not_called_short() -> None:
    assert [each.loc for each in _findings("many: [1, 2]")] == [("many", 0), ("many", 1)]


def test_an_unknown_field_is_shown_at_its_name() -> None:
    assert _findings("zzz: 1")[0].at_key
    assert not _findings("count: 0")[0].at_key


def test_what_the_environment_gave_is_shown_as_written() -> None:
    (found,) = _findings("wait: ${WAIT}", WAIT="hunter2")
    assert found.message == "`${WAIT}` is not a duration; write a number and a unit: 250ms, 5s, 30m, 24h"


def test_long_and_unprintable_values_are_shown_shortened_and_escaped() -> None:
    assert _findings(f"wait: {'x' * 100}")[0].message.startswith(f"`{'x' * 60}…` is not")
    assert _findings('wait: "\\e[31m"')[0].message.startswith("`\\x1b[31m` is not")


def _findings(text: str, **environ: str) -> list[Located]:
    root, _ = read_document(text, "c")
    assert root is not None
    data: Any = plain_values(root, environ)[0]
    with pytest.raises(ValidationError) as refused:
        OuterConfig.model_validate_json(json.dumps(data))
    return findings(refused.value.errors(), OuterConfig, root)
