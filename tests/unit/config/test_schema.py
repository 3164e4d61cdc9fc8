from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from sidecar.config.root import Root
from sidecar.config.schema import json_schema


@pytest.fixture
def schema(order: Any) -> dict[str, Any]:
    return json_schema(order)


def test_it_says_which_draft_it_is(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert schema["title"] == "sidecar configuration"
    assert list(schema["properties"]) == list(Root.model_fields)
    assert schema["required"] == ["listeners"]


def test_it_is_of_draft_7(schema: dict[str, Any]) -> None:
    text = json.dumps(schema)
    assert "$defs" not in text
    assert "prefixItems" not in text
    references = [each for each in _objects(schema) if "$ref" in each]
    assert references
    for each in references:
        assert list(each) == ["$ref"]
        assert each["$ref"].removeprefix("#/definitions/") in schema["definitions"]


def test_every_section_is_closed_and_described(schema: dict[str, Any]) -> None:
    for name, each in schema["definitions"].items():
        assert each["additionalProperties"] is False, name
        assert each["description"], name
        for field, about in each["properties"].items():
            # A lone reference takes the description of its section.
            assert about.get("description") or list(about) == ["$ref"], f"{name}.{field}"


def test_nothing_is_null(schema: dict[str, Any]) -> None:
    assert not [each for each in _objects(schema) if each.get("type") == "null" or each.get("default", 0) is None]


def test_defaults_are_in_the_words_of_the_file(schema: dict[str, Any]) -> None:
    limits = schema["definitions"]["LimitsConfig"]["properties"]
    assert limits["max_metadata"]["default"] == "16KiB"
    assert limits["idle_timeout"]["default"] == "1h"
    assert limits["max_connections"]["default"] == 10000
    assert schema["properties"]["drain_timeout"]["default"] == "30s"
    assert "default" not in schema["definitions"]["NodeConfig"]["properties"]["name"]


def test_where_a_value_is_narrow_the_environment_may_stand(schema: dict[str, Any]) -> None:
    number, environment = schema["definitions"]["LimitsConfig"]["properties"]["max_connections"]["anyOf"]
    assert number == {"maximum": 1_000_000, "minimum": 1, "type": "integer"}
    assert re.search(environment["pattern"], "${CONNECTIONS:-10}")
    assert not re.search(environment["pattern"], "many")


def test_patterns_are_read_by_editors(schema: dict[str, Any]) -> None:
    patterns = [each["pattern"] for each in _objects(schema) if isinstance(each.get("pattern"), str)]
    assert len(patterns) > 10
    for pattern in patterns:
        # ECMAScript knows neither of these.
        assert not re.search(r"\\[AZz]|\(\?P|\(\?i", pattern), pattern
        re.compile(pattern)


def test_names_of_clusters_are_checked(schema: dict[str, Any]) -> None:
    clusters = schema["properties"]["clusters"]
    assert list(clusters["patternProperties"]) == ["^[a-z0-9][a-z0-9_-]{0,62}$"]
    assert clusters["additionalProperties"] is False


def test_the_built_in_policies_are_in_it() -> None:
    assert {"deadline", "headers"} <= json_schema()["definitions"]["Policies"]["properties"].keys()


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _objects(each)
    elif isinstance(value, list):
        for each in value:
            yield from _objects(each)
