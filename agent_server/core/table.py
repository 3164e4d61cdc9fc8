"""Rows with typed cells, as tools give them and the service sends them."""

from __future__ import annotations

from dataclasses import dataclass

Cell = None | int | float | str | bytes


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name and the type its source declares (empty for an expression)."""

    name: str
    declared_type: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of equal length under named columns."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def page(self, offset: int, limit: int) -> Table:
        """At most `limit` rows from `offset`."""
        return Table(self.columns, self.rows[offset : offset + limit])

    @property
    def size(self) -> int:
        """About the bytes it takes as a message."""
        return sum(map(row_size, self.rows)) + sum(
            len(each.name) + len(each.declared_type) + 6 for each in self.columns
        )


def row_size(row: tuple[Cell, ...]) -> int:
    """Upper bound of the bytes a row takes as a message."""
    size = 6
    for cell in row:
        if isinstance(cell, str):
            size += (len(cell) if cell.isascii() else 4 * len(cell)) + 10
        elif isinstance(cell, bytes):
            size += len(cell) + 10
        else:
            size += 14
    return size
