from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.config.policies import policies_model
from sidecar.policies import ORDER


def test_there_is_a_field_for_each_policy_but_those_that_are_always_on(order: Any) -> None:
    model = policies_model(order)
    assert list(model.model_fields) == ["deadline", "headers"]
    assert model.model_fields["deadline"].description == "How long an RPC may take."


def test_a_policy_that_is_not_named_is_not_there(order: Any) -> None:
    section = policies_model(order).model_validate({"headers": {}})
    assert list(section.named()) == ["headers"]


def test_a_policy_that_does_not_exist_is_refused(order: Any) -> None:
    with pytest.raises(ValidationError, match="authz"):
        policies_model(order).model_validate({"authz": {}})


def test_the_built_in_policies_have_models() -> None:
    assert {"deadline", "headers"} <= policies_model(ORDER).model_fields.keys()
    assert "metrics" not in policies_model(ORDER).model_fields
