"""docs/configuration.md is what the models say now."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

from sidecar.config.schema import json_schema
from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "configuration.md"


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_current() -> None:
    assert PAGE.read_text() == generator().page(), "run `make docs`"


def test_it_tells_of_every_section_and_field() -> None:
    """Counted beside the generator: each object of the schema is a table, and each of its fields a row."""
    schema = json_schema()
    tables = [schema, *(each for each in schema["definitions"].values() if "properties" in each)]
    text = PAGE.read_text()
    assert text.count("| field | is | default | meaning |") == len(tables)
    rows = re.findall(r"^\| `(\w+)` \| ", text, re.MULTILINE)
    assert sorted(rows) == sorted(name for table in tables for name in table["properties"])


def test_its_links_lead_to_headings() -> None:
    text = PAGE.read_text()
    headings = {generator()._anchor(title) for title in re.findall(r"^## (.+)$", text, re.MULTILINE)}
    links = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert links
    assert links <= headings
