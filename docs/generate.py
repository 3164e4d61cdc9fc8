"""Writes docs/configuration.md from the models of the configuration: `make docs`."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

from sidecar.config.schema import json_schema

PAGE = Path(__file__).with_name("configuration.md")
HEAD = """# Configuration

Generated from the models that parse the file (`make docs`); `sidecar schema` prints the same for editors.

One YAML file drives a sidecar. An unknown field, a duplicate key, a wrong type, an unknown cluster or a route that can never match is an
error, all of them are told at once with file, line and column, and none of them replaces a configuration that runs. `sidecar validate`
says so beforehand. Only `true` and `false` are booleans. `${NAME}` and `${NAME:-default}` take environment variables. Relative paths
begin at the file. Certificates, keys and descriptors are watched and read again.

| form | examples |
|---|---|
| duration | `250ms`, `5s`, `30m`, `24h` |
| size | `64KiB`, `4MiB` |
| rate | `100/1m` |
| percentage | 0–100 |

What each policy is for, with an example: [policies.md](policies.md).
"""
PARTS = ("anyOf", "allOf", "oneOf")
REFERENCE = "#/definitions/"
FORMS = {"/[0-9]{1,12}(\\.[0-9]{1,3})?(ms|s|m|h)$": "rate", "(ms|s|m|h)$": "duration", "(B|KiB|MiB|GiB)$": "size"}


def page() -> str:
    """The text of the page."""
    schema = json_schema()
    definitions: dict[str, dict[str, Any]] = schema["definitions"]
    parts = [HEAD]
    seen: dict[str, str] = {}
    waiting: deque[tuple[str, dict[str, Any]]] = deque([("", schema)])
    while waiting:
        path, section = waiting.popleft()
        below: list[tuple[str, str]] = []
        rows = []
        for name, field in section.get("properties", {}).items():
            where = f"{path}.{name}" if path else name
            for reference, end in _references(field, ""):
                if reference not in seen:
                    seen[reference] = where + end
                    below.append((where + end, reference))
            required = "required" if name in section.get("required", ()) else _default(field)
            about = _about(field, seen)
            rows.append(f"| `{name}` | {_kind(field, definitions)} | {required} | {about} |")
        # Below a section, and before the next one of the same level.
        waiting.extendleft(reversed([(where, definitions[reference]) for where, reference in below]))
        title = path or "The file"
        what = section.get("description", "") if path else "Required: `listeners`."
        if not rows:
            # A list or a mapping: its elements are told of.
            for reference, end in reversed(_references(section, "")):
                if reference not in seen:
                    seen[reference] = path + end
                    waiting.appendleft((path + end, definitions[reference]))
        else:
            table = ["| field | is | default | meaning |", "|---|---|---|---|", *rows]
            parts += [f"## {title}", _prose(what), "\n".join(table)]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _references(field: dict[str, Any], end: str) -> list[tuple[str, str]]:
    """(definition, what comes after the field's name on the way to it)."""
    found = []
    if "$ref" in field:
        found.append((field["$ref"].removeprefix(REFERENCE), end))
    for key in PARTS:
        for each in field.get(key, ()):
            found += _references(each, end)
    if isinstance(field.get("items"), dict):
        found += _references(field["items"], f"{end}[]")
    named = [field.get("additionalProperties"), *field.get("patternProperties", {}).values()]
    for each in named:
        if isinstance(each, dict):
            found += _references(each, f"{end}.NAME")
    return found


def _kind(field: dict[str, Any], definitions: dict[str, dict[str, Any]]) -> str:
    """In few words, what the value is."""
    for key in PARTS:
        if key in field:
            # That `${NAME}` may stand there is said once, for all.
            kinds = [
                _kind(each, definitions) for each in field[key] if not str(each.get("pattern", "")).startswith(r"\$\{")
            ]
            return " or ".join(dict.fromkeys(kinds))
    if "$ref" in field:
        target = definitions[field["$ref"].removeprefix(REFERENCE)]
        return "section" if "properties" in target else _kind(target, definitions)
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return "status code" if "DATA_LOSS" in field["enum"] else " · ".join(f"`{each}`" for each in field["enum"])
    kind = field.get("type", "value")
    if kind == "array":
        return f"list of {_kind(field['items'], definitions)}" if isinstance(field.get("items"), dict) else "list"
    if kind == "object":
        return "mapping"
    if kind == "string":
        pattern = field.get("pattern", "")
        return next((form for end, form in FORMS.items() if pattern.endswith(end)), "text")
    return kind + _bounds(field)


def _bounds(field: dict[str, Any]) -> str:
    low = field.get("minimum", field.get("exclusiveMinimum"))
    high = field.get("maximum", field.get("exclusiveMaximum"))
    if low is not None and high is not None:
        return f" {low:,}–{high:,}"
    if low is not None:
        return f" {'≥' if 'minimum' in field else '>'} {low:,}"
    return "" if high is None else f" ≤ {high:,}"


def _default(field: dict[str, Any]) -> str:
    if "default" not in field or field["default"] in ({}, []):
        return "–"
    value = field["default"]
    if isinstance(value, dict) and len(said := [each for each in value.values() if each is not None]) == 1:
        # A section that may be said in one word.
        value = said[0]
    return f"`{value if isinstance(value, str) else json.dumps(value)}`" if value != "" else "–"


def _about(field: dict[str, Any], seen: dict[str, str]) -> str:
    about = _prose(field.get("description", ""))
    links = [f"[{seen[name]}](#{_anchor(seen[name])})" for name, _ in _references(field, "")]
    return " → ".join(part for part in (about, ", ".join(dict.fromkeys(links))) if part)


def _anchor(title: str) -> str:
    """As forges make them from headings."""
    return "".join(each for each in title.lower().replace(" ", "-") if each.isalnum() or each in "-_")


def _prose(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE.name} is written")
