"""The JSON Schema of the file, for editors.

The YAML language server reads draft 7 and below, so `definitions` stands for `$defs`, and a `$ref` stands alone. Where
the file may say `${NAME}`, the schema allows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import SchemaSerializer, core_schema

from sidecar.config.policies import Configured
from sidecar.config.root import build_root, default_root

_ENVIRONMENT = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"}


def json_schema(order: Iterable[type[Configured]] | None = None) -> dict[str, Any]:
    """The schema of a file with these policies, else the built-in ones."""
    model = default_root() if order is None else build_root(order)
    made = model.model_json_schema(schema_generator=_Generator)
    definitions = made.pop("$defs", {})
    schema: dict[str, Any] = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "sidecar configuration"}
    schema |= _section(made) | {"title": "sidecar configuration"}
    schema["definitions"] = {name: _section(each) for name, each in sorted(definitions.items())}
    return schema


class _Generator(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        """Editors show the field's name; a second one in capitals says nothing."""
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> dict[str, Any]:
        """A field may be left out, never be null."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        """Defaults in the words of the file: 30s, not 30.0."""
        made = super().default_schema(schema)
        default = made.get("default")
        if isinstance(default, int | float) and not isinstance(default, bool):
            made["default"] = SchemaSerializer(schema["schema"]).to_python(default, mode="json")
        return made


def _section(schema: dict[str, Any]) -> dict[str, Any]:
    """One schema of draft 2020-12, rewritten to draft 7."""
    made = {key: _keyword(key, value) for key, value in schema.items() if not (key == "default" and value is None)}
    if "patternProperties" in made:
        made["additionalProperties"] = False
    if "$ref" in made and len(made) > 1:
        # Draft 7 ignores what stands beside a $ref.
        made["allOf"] = [{"$ref": made.pop("$ref")}]
    return _or_environment(made)


def _keyword(key: str, value: Any) -> Any:
    if key == "$ref":
        return value.replace("#/$defs/", "#/definitions/")
    if key in {"properties", "patternProperties"}:
        return {name: _section(each) for name, each in value.items()}
    if key in {"items", "additionalProperties"} and isinstance(value, dict):
        return _section(value)
    if key in {"anyOf", "allOf", "oneOf"}:
        return [_section(each) for each in value]
    # propertyNames stays as it is: there is no environment in names.
    return value


_ABOUT = ("title", "description", "default", "examples")


def _or_environment(schema: dict[str, Any]) -> dict[str, Any]:
    is_narrow = schema.get("type") in {"integer", "number", "boolean"} or "enum" in schema or "const" in schema
    if not (is_narrow or "pattern" in schema):
        return schema
    about = {key: value for key, value in schema.items() if key in _ABOUT}
    rest = {key: value for key, value in schema.items() if key not in _ABOUT}
    return about | {"anyOf": [rest, dict(_ENVIRONMENT)]}
