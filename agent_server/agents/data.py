"""The data agent: SQL on a SQLite database, records by the stream, and many URLs at a time."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

from grpc import StatusCode
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from agent_server.agents.declare import Agent, IngestOutput, Input, Output, RejectedRecord, agent, ingestion, operation
from agent_server.core.events import Level
from agent_server.core.failure import Failure, Violation, invalid_fields
from agent_server.core.table import Cell, Column, Table, row_size
from agent_server.tools import once, records, sql
from agent_server.tools.headers import Headers
from agent_server.tools.sql import SqlParameters

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from agent_server.core.context import Context
    from agent_server.core.events import Records
    from agent_server.tools.http import Fetched
    from agent_server.tools.sqlite_thread import SqliteThread

T = TypeVar("T")

Sql = Annotated[str, StringConstraints(min_length=1, max_length=200_000)]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
Url = Annotated[str, StringConstraints(min_length=1, max_length=8192)]
ColumnType = Literal["INTEGER", "REAL", "TEXT", "BLOB", "NUMERIC"]

ANSWER_BYTES = 3 << 20
"""What one answer may hold by default: below the 4 MiB that gRPC clients take unless told otherwise."""
_BATCH_BYTES = 1 << 20


class QueryInput(Input):
    """A statement that only reads."""

    database: str = Field(
        default="", description="A configured database instead of the embedded one; its values go by name alone."
    )
    sql: Sql = Field(description="One statement, with `?` or `:name` where values go.")
    params: SqlParameters = Field(default_factory=list, description="The values, by position or by name.")
    limit: int = Field(default=1000, ge=1, le=100_000, description="Rows to give at most.")
    page_size: int = Field(default=500, ge=1, le=10_000, description="Rows per part when the answer is streamed.")
    max_bytes: int = Field(
        default=ANSWER_BYTES, ge=1024, le=64 << 20, description="Size of an answer, or of a part of a streamed one."
    )


class QueryOutput(Output):
    """What was read; the rows are in the table of the result, or in those of its parts."""

    columns: list[str]
    row_count: int = Field(description="Rows that were given.")
    truncated: Literal["", "rows", "bytes"] = Field(description="Which limit cut the rows off, if one did.")


class ExecuteInput(Input):
    """A statement that changes something, run once or for each set of values, in one transaction."""

    sql: Sql = Field(description="One statement, with `?` or `:name` where values go.")
    params: SqlParameters = Field(default_factory=list, description="The values, by position or by name.")
    many: list[SqlParameters] = Field(
        default_factory=list, max_length=10_000, description="Sets of values; the statement is run for each."
    )
    limit: int = Field(default=1000, ge=0, le=100_000, description="Rows to give at most, for RETURNING.")

    @model_validator(mode="after")
    def _one_of(self) -> ExecuteInput:
        if self.params and self.many:
            msg = "give either params or many"
            raise ValueError(msg)
        return self


class ExecuteOutput(Output):
    """What was changed; rows of RETURNING are in the table of the result."""

    affected_rows: int = Field(
        description="Rows inserted, changed or deleted; -1 for statements that have no such number."
    )
    last_row_id: int | None = Field(description="Row id of the last inserted row, if the statement inserts.")


class RecallInput(Input):
    """Which rows of the session's last result to give again."""

    offset: int = Field(default=0, ge=0)
    limit: int = Field(default=1000, ge=0, le=100_000)


class RecallOutput(Output):
    """The session's last result."""

    operation: str
    output: dict[str, Any]
    row_count: int = Field(description="Rows the result has in all.")


class FetchInput(Input):
    """URLs to get."""

    urls: list[Url] = Field(min_length=1, max_length=1000)
    headers: Headers = Field(default_factory=dict, description="Sent with each; not to other hosts on redirects.")
    concurrency: int = Field(default=20, ge=1, le=100, description="How many at a time.")
    timeout: float = Field(default=10.0, gt=0, le=300, description="Seconds for each URL, redirects included.")
    max_bytes: int = Field(default=1 << 20, ge=0, le=16 << 20, description="Bytes of each body; the rest is cut off.")
    include_body: bool = Field(default=True, description="Whether bodies are wanted at all.")


class FetchItem(BaseModel):
    """What came of one URL."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    ok: bool = Field(description="There was an answer, and its status is below 400.")
    status: int | None = Field(default=None, description="HTTP status, if there was an answer.")
    final_url: str = Field(default="", description="After redirects.")
    content_type: str = ""
    size: int = Field(default=0, description="Bytes of the body that were read.")
    truncated: bool = Field(default=False, description="The body was cut off.")
    text: str | None = Field(default=None, description="The body, if it is text.")
    base64: str | None = Field(default=None, description="The body, if it is not text.")
    elapsed_ms: float = 0.0
    reason: str = Field(
        default="",
        description="Why it is not ok: HTTP_STATUS, TIMEOUT, ADDRESS_REFUSED, NAME_NOT_FOUND, CONNECT_FAILED, TLS_FAILED, …",
    )
    message: str = ""


class FetchOutput(Output):
    """What came of all URLs, in the order they were asked. Bodies that went out as parts are not repeated."""

    items: list[FetchItem]
    ok_count: int
    failed_count: int


class IngestInput(Input):
    """Where records go."""

    table: Identifier = Field(description="The table.")
    columns: dict[Identifier, ColumnType] = Field(
        default_factory=dict, description="Columns to create the table with, if there is none."
    )
    key: list[Identifier] = Field(default_factory=list, description="Primary key to create the table with.")
    on_conflict: records.OnConflict = Field(
        default="reject", description="What to do with a record whose key is there."
    )
    batch_size: int = Field(default=500, ge=1, le=10_000, description="Records per transaction.")
    max_listed: int = Field(default=100, ge=0, le=1000, description="Rejected records to list in the summary.")

    @model_validator(mode="after")
    def _table_and_key(self) -> IngestInput:
        if sql.is_reserved(self.table) or self.table.lower().startswith("sqlite_"):
            msg = "this table name is reserved"
            raise ValueError(msg)
        if unknown := [name for name in self.key if name not in self.columns]:
            msg = f"key names what is not in columns: {', '.join(unknown)}"
            raise ValueError(msg)
        return self


@agent("data", summary="Runs SQL on a SQLite database, takes records into it, and fetches URLs concurrently.")
class DataAgent(Agent):
    """The agent."""

    @operation("query", read_only=True, text="sql")
    async def query(self, request: QueryInput, context: Context) -> QueryOutput:
        """Runs one reading statement and gives its rows with their types."""
        if request.database:
            return await self._query_far(request, context)
        async with self.tools.database.reading() as reader:
            pages = await _run(reader, lambda db: sql.Pages(db.execute(request.sql, sql.bound_all(request.params))))
            try:
                return await self._read(reader, pages, request, context)
            finally:
                await reader.run(lambda _: pages.close())

    async def _query_far(self, request: QueryInput, context: Context) -> QueryOutput:
        bound = sql.bound_all(request.params)
        if not isinstance(bound, dict):
            if bound:
                raise invalid_fields([Violation("parameters.params", "must be an object: values by name, as :name")])
            bound = {}
        count = number = size = 0
        kept: list[tuple[Cell, ...]] = []
        columns: tuple[Column, ...] = ()
        cut: Any = ""
        stream = self.tools.warehouse.stream(request.database, request.sql, bound, page=request.page_size)
        async with aclosing(cast("AsyncGenerator[Table]", stream)) as pages:
            async for page in pages:
                columns = page.columns
                wanted = page.page(0, request.limit - count)
                cut = "rows" if len(wanted) < len(page) else cut
                if context.is_streaming:
                    number += 1
                    await context.partial(f"page {number}", table=wanted)
                    await context.progress(count + len(wanted), 0, "rows")
                else:
                    for row in wanted.rows:
                        size += row_size(row)
                        if size > request.max_bytes:
                            cut = "bytes"
                            break
                        kept.append(row)
                count += len(wanted)
                if cut:
                    break
        given = None if context.is_streaming else Table(columns, tuple(kept))
        return QueryOutput(
            columns=[each.name for each in columns],
            row_count=count if given is None else len(given),
            truncated=cut,
            table=given,
        )

    async def _read(self, reader: SqliteThread, pages: sql.Pages, request: QueryInput, context: Context) -> QueryOutput:
        columns = [each.name for each in pages.columns]
        if not context.is_streaming:
            table = await _run(reader, lambda _: pages.take(request.limit, request.max_bytes))
            cut: Any = "" if pages.is_done else "rows" if len(table) == request.limit else "bytes"
            return QueryOutput(columns=columns, row_count=len(table), truncated=cut, table=table)
        count = number = 0
        while not pages.is_done and count < request.limit:
            size = min(request.page_size, request.limit - count)
            table = await _run(reader, partial(_take, pages, size, request.max_bytes))
            number += 1
            count += len(table)
            await context.partial(f"page {number}", table=table)
            await context.progress(count, 0, "rows")
        return QueryOutput(columns=columns, row_count=count, truncated="" if pages.is_done else "rows")

    @operation("execute", repeatable=True)
    async def execute(self, request: ExecuteInput, context: Context) -> ExecuteOutput:
        """Runs one changing statement in a transaction; under an idempotency key, once."""
        key = None
        if context.idempotency_key:
            what = once.fingerprint("data", "execute", request.model_dump_json())
            key = once.Key(context.identity, context.idempotency_key, what)

        def work(db: sqlite3.Connection) -> ExecuteOutput:
            db.execute("BEGIN IMMEDIATE")
            try:
                if key is not None and (earlier := once.recorded(db, key)):
                    output = ExecuteOutput(**earlier[0], table=earlier[1], replayed=True)
                else:
                    output = _change(db, request)
                    if key is not None:
                        once.record(db, key, output.model_dump(mode="json"), output.table, self.tools.wall())
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
            return output

        async with self.tools.database.writing() as writer:
            return await _run(writer, work)

    @operation("recall", read_only=True)
    async def recall(self, request: RecallInput, context: Context) -> RecallOutput:
        """Gives the last result of the session again, page by page."""
        last = context.session.last if context.session is not None else None
        if last is None:
            text = "the session has no result yet" if context.session is not None else "there is no session"
            raise Failure(StatusCode.FAILED_PRECONDITION, "NOTHING_TO_RECALL", text)
        table = last.table.page(request.offset, request.limit) if last.table is not None else None
        rows = len(last.table) if last.table is not None else 0
        context.session = None  # what was recalled stays the last result
        return RecallOutput(operation=last.operation, output=dict(last.output), row_count=rows, table=table)

    @operation("fetch", read_only=True)
    async def fetch(self, request: FetchInput, context: Context) -> FetchOutput:
        """Gets URLs concurrently; each has its own outcome, failures among them."""
        fetcher = self.tools.fetcher
        places = asyncio.Semaphore(request.concurrency)
        found: list[FetchItem | None] = [None] * len(request.urls)
        telling = asyncio.Lock()
        done = 0
        room = ANSWER_BYTES

        async def one(index: int, url: str) -> None:
            nonlocal done, room
            async with places:
                wanted = request.max_bytes if request.include_body else 0
                answer = await fetcher.fetch(url, headers=request.headers, timeout=request.timeout, max_bytes=wanted)
                # A part must fit into a message; so must all bodies together when they go out as one.
                item = _item(answer, ANSWER_BYTES if context.is_streaming else room, with_body=request.include_body)
                if not context.is_streaming:
                    room -= len((item.text or "").encode()) + len(item.base64 or "")
                    found[index] = item
                    return
                async with telling:  # what belongs to one URL stays together, and the count only rises
                    await context.partial(url, item.model_dump(mode="json", exclude_none=True))
                    found[index] = item.model_copy(update={"text": None, "base64": None})
                    done += 1
                    if not item.ok:
                        await context.log(Level.WARNING, f"{url}: {item.reason} {item.message}".rstrip())
                    await context.progress(done, len(found), "urls", url)

        async with asyncio.TaskGroup() as tasks:
            for index, url in enumerate(request.urls):
                tasks.create_task(one(index, url))
        items = [item for item in found if item is not None]
        good = sum(item.ok for item in items)
        return FetchOutput(items=items, ok_count=good, failed_count=len(items) - good)

    @ingestion("ingest")
    async def ingest(self, request: IngestInput, stream: Records, context: Context) -> IngestOutput:
        """Writes records into a table in batches; those that do not fit are set aside with a reason."""
        writer = await self._record_writer(request)
        tally = _Tally(request.max_listed)
        batch: list[records.Accepted] = []
        size = 0
        async for record in stream:
            tally.received += 1
            checked = writer.check(record)
            if isinstance(checked, records.Rejection):
                tally.reject(checked)
                continue
            batch.append(checked)
            size += record.size
            if len(batch) >= request.batch_size or size >= _BATCH_BYTES:
                await self._write(writer, batch, tally)
                batch, size = [], 0
        if batch:
            await self._write(writer, batch, tally)
        return tally.summary()

    async def _record_writer(self, request: IngestInput) -> records.RecordWriter:
        def prepare(db: sqlite3.Connection) -> tuple[records.TableColumn, ...]:
            if request.columns:
                records.create_table(db, request.table, request.columns, request.key)
            return records.table_columns(db, request.table)

        async with self.tools.database.writing() as connection:
            columns = await _run(connection, prepare, field="parameters.table")
        if not columns:
            text = f"no such table: {request.table}; give columns to create it"
            raise Failure(StatusCode.NOT_FOUND, "TABLE_NOT_FOUND", text, metadata={"table": request.table})
        if missing := sorted(set(request.columns) - {each.name for each in columns}):
            raise invalid_fields(
                Violation(f"parameters.columns.{name}", f"table {request.table} exists without it") for name in missing
            )
        return records.RecordWriter(request.table, columns, request.on_conflict)

    async def _write(self, writer: records.RecordWriter, batch: list[records.Accepted], tally: _Tally) -> None:
        try:
            # Locked per batch, so that other writers get their turn during a long stream.
            async with self.tools.database.writing() as connection:
                result = await _run(connection, lambda db: writer.write(db, batch), field="parameters.table")
        except Failure as failure:
            failure.metadata["written"] = str(tally.written)
            raise
        tally.add(result)


def _take(pages: sql.Pages, rows: int, max_bytes: int, _: sqlite3.Connection) -> Table:
    return pages.take(rows, max_bytes)


class _Tally:
    """What became of the records so far."""

    def __init__(self, max_listed: int) -> None:
        self.received = self.written = self.ignored = self.rejected = self.batches = 0
        self._max_listed = max_listed
        self._listed: list[records.Rejection] = []

    def reject(self, rejection: records.Rejection) -> None:
        self.rejected += 1
        if len(self._listed) < self._max_listed:
            self._listed.append(rejection)

    def add(self, result: records.BatchResult) -> None:
        self.batches += 1
        self.written += result.written
        self.ignored += result.ignored
        for rejection in result.rejected:
            self.reject(rejection)

    def summary(self) -> IngestOutput:
        listed = [
            RejectedRecord(
                index=each.index, record_id=each.record_id, reason=each.reason, message=each.message, field=each.field
            )
            for each in sorted(self._listed, key=lambda each: each.index)
        ]
        return IngestOutput(
            received=self.received,
            written=self.written,
            ignored=self.ignored,
            rejected=self.rejected,
            batches=self.batches,
            rejected_records=listed,
        )


async def _run(
    connection: SqliteThread, work: Callable[[sqlite3.Connection], T], *, field: str = "parameters.sql"
) -> T:
    try:
        return await connection.run(work)
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise sql.failure_of(error, field=field) from error


def _change(db: sqlite3.Connection, request: ExecuteInput) -> ExecuteOutput:
    db.set_authorizer(sql.deny_outside)
    try:
        if request.many:
            cursor = db.executemany(request.sql, [sql.bound_all(each) for each in request.many])
        else:
            cursor = db.execute(request.sql, sql.bound_all(request.params))
        table: Table | None = None
        if cursor.description:
            pages = sql.Pages(cursor)
            table = pages.take(request.limit, ANSWER_BYTES)
            pages.drain()
    finally:
        db.set_authorizer(None)
    return ExecuteOutput(affected_rows=cursor.rowcount, last_row_id=cursor.lastrowid or None, table=table)


def _item(answer: Fetched, room: int, *, with_body: bool) -> FetchItem:
    ok = answer.status is not None and answer.status < 400
    common: dict[str, Any] = {
        "url": answer.url,
        "final_url": answer.final_url if answer.final_url != answer.url else "",
        "elapsed_ms": round(answer.elapsed * 1000, 3),
    }
    if answer.status is None:
        return FetchItem(ok=False, reason=answer.reason, message=answer.message, **common)
    text = encoded = None
    is_truncated = answer.is_truncated
    if with_body:
        text, encoded, was_cut = _as_text(answer, room)
        is_truncated = is_truncated or was_cut
    return FetchItem(
        ok=ok,
        status=answer.status,
        content_type=answer.headers.get("content-type", ""),
        size=len(answer.body),
        truncated=is_truncated and with_body,
        text=text,
        base64=encoded,
        reason="" if ok else "HTTP_STATUS",
        message="" if ok else f"answered with status {answer.status}",
        **common,
    )


def _as_text(answer: Fetched, room: int) -> tuple[str | None, str | None, bool]:
    """The body as text, or else in base64, and whether it had to be cut to fit into `room` bytes."""
    body = answer.body
    try:
        # A limit may have cut the last character in two.
        text = body.decode(answer.charset, "ignore" if answer.is_truncated else "strict")
    except (UnicodeDecodeError, LookupError):
        fitting = room // 4 * 3
        return None, base64.b64encode(body[:fitting]).decode(), len(body) > fitting
    raw = text.encode()
    if len(raw) <= room:
        return text, None, False
    return raw[:room].decode("utf-8", "ignore"), None, True
