"""CSV, and what the database tools are given."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from pydantic import ValidationError

from agent_server.core.failure import Failure
from agent_server.tools.declare import Use
from agent_server.tools.kit.tables import CreateInput, CsvInput, QueryInput, read_csv

USE = Use(cast("Any", None))


def rows(text: str, delimiter: str = ",") -> list[dict[str, str]]:
    return asyncio.run(read_csv(CsvInput(text=text, delimiter=delimiter), USE)).rows


def test_rows_of_a_text() -> None:
    assert rows('a,b\n1,"x, ""y""\nz"\n2,\n') == [{"a": "1", "b": 'x, "y"\nz'}, {"a": "2", "b": ""}]
    assert rows("a;b\r\n1;2\r\n", ";") == [{"a": "1", "b": "2"}]
    assert rows("a,b\n") == []


@pytest.mark.parametrize(
    ("text", "line"), [("a,b\n1,2\n1\n", "3"), ("a,b\n1,2,3\n", "2"), ('a,b\n1,"x\n', "2"), ('a,b\n1,"x"y\n', "2")]
)
def test_what_is_no_csv_is_named_by_its_line(text: str, line: str) -> None:
    with pytest.raises(Failure) as caught:
        rows(text)
    assert (caught.value.reason, caught.value.metadata["line"]) == ("BAD_CSV", line)


def test_names_of_tables_and_columns_are_names() -> None:
    assert CreateInput(table="t", columns=["a"]).columns == ["a"]
    for wrong in ({"table": "t; DROP"}, {"columns": ["a b"]}, {"columns": {"a": "VARCHAR"}}, {"columns": []}):
        with pytest.raises(ValidationError):
            CreateInput(**{"table": "t", "columns": ["a"], **wrong})
    with pytest.raises(ValidationError):
        QueryInput(sql="")
