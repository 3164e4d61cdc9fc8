"""The `store:` section."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sidecar.config.load import parse
from sidecar.config.problems import ConfigError
from sidecar.store.config import StoreConfig


def test_a_url_that_holds() -> None:
    assert StoreConfig.model_validate({"url": "redis://u:p@host/0"}).url == "redis://u:p@host/0"


def test_a_url_that_does_not_is_not_repeated() -> None:
    with pytest.raises(ValidationError, match="names no file") as caught:
        StoreConfig.model_validate({"url": "sqlite://hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://:hunter2@/0?password=hunter2", "mysql://u:hunter2@host", "redis://h?password=hunter2"]
)
def test_a_password_stands_in_no_problem(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f'store: {{url: "{url}"}}')
    assert "store.url" in str(caught.value)
    assert "hunter2" not in str(caught.value)
