from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.rollout.config import RolloutConfig, VersionConfig


def config(**more: Any) -> RolloutConfig:
    return RolloutConfig.model_validate({"stable": "a", "candidate": "b", **more}, strict=False)


def test_the_defaults_are_those_of_the_guide() -> None:
    rules = config()
    assert (rules.shares, rules.length(0), rules.length(1)) == ((10, 25, 50, 100), 1800, 600)
    assert rules.keep_old_for == 86_400


def test_the_last_step_is_all_of_it() -> None:
    assert config(steps=(5, 20)).shares == (5, 20, 100)
    assert config(strategy="blue_green", steps=(5, 20)).shares == (100,)
    assert config(strategy="blue_green", step_for=7.0).length(0) == 7


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"candidate": "a"}, "is the stable version, too"),
        ({"steps": (10, 10)}, "do not rise"),
        ({"steps": (0, 10)}, "begin with 0"),
        ({"manual_gates": (33,)}, "is no step"),
        ({"sticky": {"by": "phase of the moon"}}, "is no way to tell callers apart"),
        ({"override": {}}, "name who may"),
        ({"smoke": ({"method": "/p.S/*"},)}, "names no single method"),
        ({"smoke": ({"method": "/p.S/M", "message": "?"},)}, "is no base64"),
        ({"analysis": {"failure_codes": ("OK",)}}, "is no failure"),
        ({"on_start": ({"webhook": "ftp://h/"},)}, "on_start"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(more: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        config(**more)
    assert told in str(refused.value)


def test_a_version_is_somewhere_or_started_here() -> None:
    for wrong in ({}, {"endpoints": ("h:1",), "agent": {"command": ("x",)}}):
        with pytest.raises(ValidationError, match="one of them"):
            VersionConfig.model_validate(wrong, strict=False)
    assert VersionConfig.model_validate({"agent": {"command": ("x", "{port}")}}, strict=False).endpoints == ()
