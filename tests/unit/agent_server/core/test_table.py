"""Tables: pages and sizes."""

from __future__ import annotations

import pytest

from agent_server.core.table import Cell, Column, Table, row_size
from agent_server.service.messages import to_table

TABLE = Table((Column("a", "INTEGER"),), ((1,), (2,), (3,)))


def test_pages() -> None:
    assert (TABLE.page(1, 1).rows, TABLE.page(2, 9).rows, TABLE.page(3, 1).rows) == (((2,),), ((3,),), ())


@pytest.mark.parametrize("cell", [None, 0, -(2**63), 1.5, "", "x" * 300, "ä€😀" * 50, b"\0" * 1000])
def test_the_size_is_never_below_that_of_the_message(cell: Cell) -> None:
    table = Table((), ((cell,),))
    assert row_size(table.rows[0]) >= to_table(table).ByteSize()
