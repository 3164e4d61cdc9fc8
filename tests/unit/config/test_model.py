from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import Field, ValidationError

from sidecar.config.model import ContradictionsError, Model


class WindowConfig(Model):
    """A window."""

    low: int = 0
    high: int = Field(default=10, description="the end")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.low > self.high:
            yield "low", "is above high"
        if self.low == 13:
            yield "low", "is unlucky"


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError) as refused:
        WindowConfig.model_validate({"low": 1, "hihg": 2})
    assert refused.value.errors()[0]["type"] == "extra_forbidden"


@pytest.mark.parametrize("value", ["1", 1.5, True, None])
def test_a_whole_number_is_nothing_else(value: object) -> None:
    with pytest.raises(ValidationError):
        WindowConfig.model_validate({"low": value})


def test_a_section_does_not_change() -> None:
    with pytest.raises(ValidationError):
        WindowConfig().low = 3


def test_all_contradictions_are_told_together() -> None:
    with pytest.raises(ValidationError) as refused:
        WindowConfig(low=13, high=1)
    cause = refused.value.errors()[0]["ctx"]["error"]
    assert isinstance(cause, ContradictionsError)
    assert cause.found == (("low", "is above high"), ("low", "is unlucky"))
    assert str(cause) == "low is above high; low is unlucky"


def test_the_text_of_an_error_does_not_hold_the_value() -> None:
    with pytest.raises(ValidationError) as refused:
        WindowConfig.model_validate({"low": "hunter2"})
    assert "hunter2" not in str(refused.value)


def test_the_title_is_the_name_of_the_section() -> None:
    assert WindowConfig.model_json_schema()["title"] == "Window"
