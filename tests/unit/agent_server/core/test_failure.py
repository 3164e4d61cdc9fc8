"""Failures and how wrong input is told."""

from __future__ import annotations

import pytest
from grpc import StatusCode
from pydantic import ValidationError

from agent_server.agents.data import QueryInput
from agent_server.core.failure import Failure, Violation, from_validation, invalid, invalid_fields


def of(parameters: dict[str, object]) -> Failure:
    with pytest.raises(ValidationError) as caught:
        QueryInput.model_validate(parameters)
    return from_validation(caught.value, "parameters")


def test_every_wrong_field_is_named_once() -> None:
    failure = of({"limit": 0, "extra": 1, "params": [{"int64": "x"}, [1]]})
    assert [each.field for each in failure.violations] == [
        "parameters.sql",
        "parameters.params.0.int64",
        "parameters.params.1",
        "parameters.limit",
        "parameters.extra",
    ]
    assert failure.code is StatusCode.INVALID_ARGUMENT


def test_values_are_not_repeated() -> None:
    failure = of({"sql": "SELECT 1", "params": [["secret-value"]]})
    assert "secret-value" not in failure.message + str(failure.violations)


def test_many_wrong_fields_are_counted() -> None:
    failure = invalid_fields(Violation(f"f{n}", "wrong") for n in range(60))
    assert failure.message.endswith("and 50 more")
    assert len(failure.violations) == 50


def test_one_wrong_field() -> None:
    failure = invalid("a.b", "is wrong", reason="WHY")
    assert (failure.reason, str(failure), failure.metadata) == ("WHY", "a.b: is wrong", {"fields": "a.b"})
