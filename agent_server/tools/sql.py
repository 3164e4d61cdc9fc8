"""SQL statements of callers: their parameters, what they may not do, their rows, and what SQLite says against them."""

from __future__ import annotations

import base64
import binascii
import re
import sqlite3
from typing import Annotated

from grpc import StatusCode
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from agent_server.core.failure import Failure, invalid
from agent_server.core.table import Cell, Column, Table, row_size

_INT64 = 2**63


class _Typed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _is_int64(text: str) -> str:
    if not re.fullmatch(r"-?\d{1,19}", text, re.ASCII) or not -_INT64 <= int(text) < _INT64:
        msg = "not a 64-bit integer in decimal digits"
        raise ValueError(msg)
    return text


def _is_base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error as error:
        msg = f"not base64: {error}"
        raise ValueError(msg) from None
    return text


class Int64(_Typed):
    """An integer beyond the 53 bits that a JSON number keeps exact: `{"int64": "9007199254740993"}`."""

    int64: Annotated[str, AfterValidator(_is_int64)]


class Blob(_Typed):
    """Bytes: `{"base64": "AAEC"}`."""

    base64: Annotated[str, AfterValidator(_is_base64)]


class Double(_Typed):
    """A floating-point number that must not become an integer when it is whole: `{"double": 5}`."""

    double: float


SqlInteger = Annotated[int, Field(ge=-_INT64, lt=_INT64)]


def _value_tag(value: object) -> str | None:
    if isinstance(value, dict):
        tag = f"<{next(iter(value))}>" if len(value) == 1 else ""
        return tag if tag in ("<int64>", "<base64>", "<double>") else None
    if isinstance(value, Int64 | Blob | Double):
        return {Int64: "<int64>", Blob: "<base64>", Double: "<double>"}[type(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return f"<{type(value).__name__}>"
    return None


def _parameters_tag(value: object) -> str | None:
    return "<list>" if isinstance(value, list) else "<dict>" if isinstance(value, dict) else None


# Tagged by the type of what is given, so that an error names one thing that is wrong instead of every type it could have been.
SqlValue = Annotated[
    Annotated[None, Tag("<NoneType>")]
    | Annotated[bool, Tag("<bool>")]
    | Annotated[SqlInteger, Tag("<int>")]
    | Annotated[float, Tag("<float>")]
    | Annotated[str, Tag("<str>")]
    | Annotated[Int64, Tag("<int64>")]
    | Annotated[Blob, Tag("<base64>")]
    | Annotated[Double, Tag("<double>")],
    Discriminator(
        _value_tag,
        custom_error_type="sql_value",
        custom_error_message='is neither null, boolean, number, text, {"int64": …}, {"base64": …} nor {"double": …}',
    ),
]
SqlParameters = Annotated[
    Annotated[list[SqlValue], Tag("<list>")] | Annotated[dict[str, SqlValue], Tag("<dict>")],
    Discriminator(
        _parameters_tag,
        custom_error_type="sql_parameters",
        custom_error_message="is neither a list (values by position) nor an object (values by name)",
    ),
]


def bound(value: SqlValue) -> Cell:
    """The value as SQLite is given it."""
    match value:
        case Int64():
            return int(value.int64)
        case Blob():
            return base64.b64decode(value.base64)
        case Double():
            return value.double
        case bool():
            return int(value)
        case _:
            return value


def bound_all(parameters: SqlParameters) -> list[Cell] | dict[str, Cell]:
    """All parameters of a statement, by position or by name."""
    if isinstance(parameters, dict):
        return {name: bound(value) for name, value in parameters.items()}
    return [bound(value) for value in parameters]


_READABLE_PRAGMAS = frozenset(
    {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"}
)
_NEVER = frozenset(
    {
        sqlite3.SQLITE_ATTACH,  # opens other files; VACUUM INTO is an ATTACH too
        sqlite3.SQLITE_DETACH,
        sqlite3.SQLITE_TRANSACTION,  # transactions are ours
        sqlite3.SQLITE_SAVEPOINT,
    }
)


def deny_outside(
    action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None
) -> int:
    """SQLite's authorizer for statements of callers: nothing beyond the tables of this database."""
    if action in _NEVER:
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_PRAGMA and first not in _READABLE_PRAGMAS:
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and second == "load_extension":
        return sqlite3.SQLITE_DENY
    if action in _NAMES_TABLE and (is_reserved(first or "") or is_reserved(second or "")):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


_NAMES_TABLE = frozenset(
    {
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_INSERT,
        sqlite3.SQLITE_UPDATE,
        sqlite3.SQLITE_DELETE,
        sqlite3.SQLITE_CREATE_TABLE,
        sqlite3.SQLITE_DROP_TABLE,
        sqlite3.SQLITE_ALTER_TABLE,
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_CREATE_TRIGGER,
    }
)


def is_reserved(table: str) -> bool:
    """Tables of our own, which callers neither read nor change."""
    return table.lower().startswith("agent_server_")


class Pages:
    """The rows of a cursor, page by page, within limits of rows and bytes."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor
        self._held: tuple[Cell, ...] | None = cursor.fetchone()
        self.columns = tuple(Column(each[0]) for each in cursor.description or ())

    @property
    def is_done(self) -> bool:
        """No row is left."""
        return self._held is None

    def take(self, max_rows: int, max_bytes: int) -> Table:
        """The next rows. Raises Failure RESOURCE_EXHAUSTED when the next row alone is larger than `max_bytes`."""
        rows: list[tuple[Cell, ...]] = []
        size = 0
        while self._held is not None and len(rows) < max_rows:
            size += row_size(self._held)
            if size > max_bytes:
                if not rows:
                    raise row_too_large(size, max_bytes)
                break
            rows.append(self._held)
            self._held = self._cursor.fetchone()
        return Table(self.columns, tuple(rows))

    def close(self) -> None:
        """End the statement, so that the connection holds no snapshot."""
        self._held = None
        self._cursor.close()

    def drain(self) -> None:
        """Step over what is left, so that a changing statement with RETURNING is run to its end."""
        while self._held is not None:
            self._held = self._cursor.fetchone()


def row_too_large(size: int, max_bytes: int) -> Failure:
    """One row does not fit into an answer."""
    return Failure(
        StatusCode.RESOURCE_EXHAUSTED,
        "ROW_TOO_LARGE",
        f"a row takes about {size} bytes, {max_bytes} are allowed; select fewer or shorter columns",
        metadata={"size": str(size), "limit": str(max_bytes)},
    )


def failure_of(error: sqlite3.Error | sqlite3.Warning, *, field: str = "parameters.sql") -> Failure:
    """What SQLite says, as a status a caller can act on. `field` is the input the statement came from."""
    message = str(error)
    name = getattr(error, "sqlite_errorname", "") or ""
    about = {"sqlite": name} if name else {}
    if match := re.search(r"no such table: (\S+)", message):
        table = match[1].removeprefix("main.")
        return Failure(StatusCode.NOT_FOUND, "TABLE_NOT_FOUND", message, metadata={"table": table, **about})
    if name.startswith("SQLITE_CONSTRAINT"):
        is_double = name in {"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_ROWID"}
        code = StatusCode.ALREADY_EXISTS if is_double else StatusCode.FAILED_PRECONDITION
        return Failure(code, "CONSTRAINT", message, metadata=about)
    if name.startswith("SQLITE_READONLY"):
        return invalid(
            field, "changes the database; a query only reads (use operation execute)", reason="WRITE_IN_QUERY"
        )
    if name.startswith("SQLITE_AUTH"):
        text = f"the statement does what callers may not: {message}"
        return Failure(StatusCode.PERMISSION_DENIED, "SQL_NOT_ALLOWED", text, metadata=about)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        text = "another process holds the database"
        return Failure(StatusCode.UNAVAILABLE, "DATABASE_BUSY", text, metadata=about, retry_after=0.1)
    if name in {"SQLITE_FULL", "SQLITE_TOOBIG", "SQLITE_NOMEM"}:
        return Failure(StatusCode.RESOURCE_EXHAUSTED, "DATABASE_LIMIT", message, metadata=about)
    if name.startswith(("SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CANTOPEN")):
        # The text may name files of this machine: it goes to the log, by way of the cause, and not to the caller.
        return Failure(StatusCode.INTERNAL, "DATABASE_BROKEN", "the database cannot be read or written", metadata=about)
    if isinstance(error, sqlite3.OperationalError | sqlite3.ProgrammingError | sqlite3.Warning | sqlite3.DataError):
        about_parameters = "binding" in message.lower()
        return invalid("parameters.params" if about_parameters else field, message, reason="BAD_SQL")
    return Failure(StatusCode.INTERNAL, "DATABASE_BROKEN", "the database cannot be read or written", metadata=about)


def quoted(identifier: str) -> str:
    """An identifier as SQL."""
    return '"' + identifier.replace('"', '""') + '"'
