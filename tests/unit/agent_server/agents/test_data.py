"""The data agent, operation by operation."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import pytest
from grpc import StatusCode

from agent_server.core.events import Log, Outcome, Partial, Progress, Started
from agent_server.core.executor import Order
from agent_server.core.failure import Failure

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT i FROM n"


def refused(desk: Any, operation: str, **parameters: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        desk.order(operation, **parameters)
    return caught.value


# --- query


@pytest.mark.parametrize(
    ("given", "stored", "kind"),
    [
        (None, None, "null"),
        (True, 1, "integer"),
        (7, 7, "integer"),
        (1.5, 1.5, "real"),
        ("ä'; DROP TABLE t; --", "ä'; DROP TABLE t; --", "text"),
        ({"int64": "9223372036854775807"}, 2**63 - 1, "integer"),
        ({"base64": "AP8="}, b"\x00\xff", "blob"),
        ({"double": 5}, 5.0, "real"),
    ],
)
def test_values_arrive_with_their_type(desk: Any, given: Any, stored: Any, kind: str) -> None:
    assert desk.rows("SELECT v, typeof(v) FROM (SELECT ? AS v)", given) == [(stored, kind)]


def test_values_by_name(desk: Any) -> None:
    outcome = desk.order("query", sql="SELECT :a + :b AS total", params={"a": 1, "b": 2})
    assert outcome.table.rows == ((3,),)
    assert outcome.output == {"columns": ["total"], "row_count": 1, "truncated": ""}


def test_rows_beyond_the_limit_are_cut_and_said_so(desk: Any) -> None:
    outcome = desk.order("query", sql=NUMBERS.format(10), limit=4)
    assert [row[0] for row in outcome.table.rows] == [1, 2, 3, 4]
    assert outcome.output["truncated"] == "rows"


def test_exactly_the_limit_is_not_truncated(desk: Any) -> None:
    assert desk.order("query", sql=NUMBERS.format(4), limit=4).output["truncated"] == ""


def test_bytes_beyond_the_limit_are_cut_and_said_so(desk: Any) -> None:
    outcome = desk.order("query", sql="SELECT hex(zeroblob(200)) FROM (" + NUMBERS.format(10) + ")", max_bytes=1024)
    assert outcome.output == {"columns": ["hex(zeroblob(200))"], "row_count": 2, "truncated": "bytes"}


def test_a_row_that_never_fits_is_an_error(desk: Any) -> None:
    failure = refused(desk, "query", sql="SELECT zeroblob(5000)", max_bytes=1024)
    assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "ROW_TOO_LARGE")
    assert failure.metadata["limit"] == "1024"


def test_an_empty_result_still_has_columns(desk: Any) -> None:
    outcome = desk.order("query", sql="SELECT 1 AS one WHERE 0")
    assert (outcome.output["columns"], outcome.table.rows) == (["one"], ())


@pytest.mark.parametrize(
    ("sql", "code", "reason"),
    [
        ("SELEC 1", StatusCode.INVALID_ARGUMENT, "BAD_SQL"),
        ("SELECT 1; SELECT 2", StatusCode.INVALID_ARGUMENT, "BAD_SQL"),
        ("SELECT nothing", StatusCode.INVALID_ARGUMENT, "BAD_SQL"),
        ("SELECT ?", StatusCode.INVALID_ARGUMENT, "BAD_SQL"),
        ("SELECT * FROM missing", StatusCode.NOT_FOUND, "TABLE_NOT_FOUND"),
        ("SELECT * FROM main.missing", StatusCode.NOT_FOUND, "TABLE_NOT_FOUND"),
        ("CREATE TABLE t (a)", StatusCode.INVALID_ARGUMENT, "WRITE_IN_QUERY"),
        ("ATTACH '/tmp/other.db' AS other", StatusCode.PERMISSION_DENIED, "SQL_NOT_ALLOWED"),
        ("VACUUM INTO '/tmp/other.db'", StatusCode.PERMISSION_DENIED, "SQL_NOT_ALLOWED"),
        ("PRAGMA database_list", StatusCode.PERMISSION_DENIED, "SQL_NOT_ALLOWED"),
        ("PRAGMA query_only = OFF", StatusCode.PERMISSION_DENIED, "SQL_NOT_ALLOWED"),
        ("BEGIN", StatusCode.PERMISSION_DENIED, "SQL_NOT_ALLOWED"),
        ("SELECT load_extension('x')", StatusCode.INVALID_ARGUMENT, "BAD_SQL"),
        ("SELECT zeroblob(100000000)", StatusCode.RESOURCE_EXHAUSTED, "DATABASE_LIMIT"),
    ],
)
def test_what_a_query_refuses(desk: Any, sql: str, code: StatusCode, reason: str) -> None:
    failure = refused(desk, "query", sql=sql)
    assert (failure.code, failure.reason) == (code, reason)


def test_the_table_that_is_missing_is_named_for_machines(desk: Any) -> None:
    assert refused(desk, "query", sql="SELECT * FROM missing").metadata["table"] == "missing"


def test_wrong_number_of_values_is_a_fault_of_params(desk: Any) -> None:
    failure = refused(desk, "query", sql="SELECT ?, ?", params=[1])
    assert [each.field for each in failure.violations] == ["parameters.params"]


def test_schema_can_be_read(desk: Any) -> None:
    desk.order("execute", sql="CREATE TABLE t (a INTEGER)")
    assert [row[1] for row in desk.rows("PRAGMA table_info(t)")] == ["a"]


def test_text_that_is_not_utf8_comes_as_bytes(desk: Any) -> None:
    assert desk.rows("SELECT CAST(x'ff41' AS TEXT)") == [(b"\xffA",)]


def test_streamed_rows_come_in_pages(desk: Any) -> None:
    events = desk.streamed("query", sql=NUMBERS.format(7), page_size=3)
    assert isinstance(events[0], Started)
    pages = [[row[0] for row in event.table.rows] for event in events if isinstance(event, Partial)]
    assert pages == [[1, 2, 3], [4, 5, 6], [7]]
    assert [event.completed for event in events if isinstance(event, Progress)] == [3, 6, 7]
    last = events[-1]
    assert isinstance(last, Outcome)
    assert (last.table, last.output["row_count"]) == (None, 7)


def test_streamed_rows_respect_the_limit(desk: Any) -> None:
    events = desk.streamed("query", sql=NUMBERS.format(100), page_size=3, limit=5)
    assert [len(event.table) for event in events if isinstance(event, Partial)] == [3, 2]
    assert events[-1].output["truncated"] == "rows"


def test_a_cancelled_query_frees_its_connection(desk: Any) -> None:
    async def scene() -> Any:
        loop = asyncio.get_running_loop()
        inside = [asyncio.Event(), asyncio.Event()]
        for reader, event in zip(desk.tools.database._readers, inside, strict=True):

            def began(event: asyncio.Event = event) -> None:
                loop.call_soon_threadsafe(event.set)

            await reader.run(lambda db, began=began: db.create_function("began", 0, began))
        sql = f"SELECT began(), ({ENDLESS})"
        running = [loop.create_task(desk._place(Order(operation="query", parameters={"sql": sql}))) for _ in inside]
        for event in inside:
            await event.wait()
        waiting = loop.create_task(desk._place(Order(operation="query", parameters={"sql": "SELECT 1"})))
        for task in running:
            task.cancel()
        outcomes = await asyncio.gather(*running, return_exceptions=True)
        return outcomes, await waiting

    outcomes, answer = desk.runner.run(scene())
    assert all(isinstance(each, asyncio.CancelledError) for each in outcomes)
    assert answer.table.rows == ((1,),)


# --- execute


def test_changes_are_committed_and_counted(desk: Any) -> None:
    desk.order("execute", sql="CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
    outcome = desk.order("execute", sql="INSERT INTO t (a) VALUES (?), (?)", params=["x", "y"])
    assert outcome.output == {"affected_rows": 2, "last_row_id": 2}
    assert desk.rows("SELECT a FROM t ORDER BY id") == [("x",), ("y",)]


def test_many_sets_of_values_are_one_transaction(desk: Any) -> None:
    desk.order("execute", sql="CREATE TABLE t (a INTEGER UNIQUE)")
    failure = refused(desk, "execute", sql="INSERT INTO t VALUES (?)", many=[[1], [2], [1]])
    assert (failure.code, failure.reason) == (StatusCode.ALREADY_EXISTS, "CONSTRAINT")
    assert desk.rows("SELECT count(*) FROM t") == [(0,)]
    assert desk.order("execute", sql="INSERT INTO t VALUES (?)", many=[[1], [2]]).output["affected_rows"] == 2


def test_returning_gives_rows_and_runs_to_its_end(desk: Any) -> None:
    desk.order("execute", sql="CREATE TABLE t (a INTEGER)")
    outcome = desk.order("execute", sql="INSERT INTO t VALUES (1), (2), (3) RETURNING a", limit=1)
    assert outcome.table.rows == ((1,),)
    assert desk.rows("SELECT count(*) FROM t") == [(3,)]


@pytest.mark.parametrize(
    ("sql", "code", "reason"),
    [
        ("INSERT INTO t VALUES (NULL)", StatusCode.FAILED_PRECONDITION, "CONSTRAINT"),
        ("INSERT INTO missing VALUES (1)", StatusCode.NOT_FOUND, "TABLE_NOT_FOUND"),
        ("COMMIT", StatusCode.PERMISSION_DENIED, "SQL_NOT_ALLOWED"),
        ("ROLLBACK", StatusCode.PERMISSION_DENIED, "SQL_NOT_ALLOWED"),
        ("SAVEPOINT s", StatusCode.PERMISSION_DENIED, "SQL_NOT_ALLOWED"),
        ("DETACH main", StatusCode.PERMISSION_DENIED, "SQL_NOT_ALLOWED"),
        ("PRAGMA journal_mode = DELETE", StatusCode.PERMISSION_DENIED, "SQL_NOT_ALLOWED"),
        ("CREATE TABLE agent_server_x (a)", StatusCode.PERMISSION_DENIED, "SQL_NOT_ALLOWED"),
        ("ALTER TABLE t RENAME TO agent_server_once", StatusCode.INVALID_ARGUMENT, "BAD_SQL"),
    ],
)
def test_what_execute_refuses(desk: Any, sql: str, code: StatusCode, reason: str) -> None:
    desk.order("execute", sql="CREATE TABLE t (a INTEGER NOT NULL)")
    failure = refused(desk, "execute", sql=sql)
    assert (failure.code, failure.reason) == (code, reason)
    # Whatever was refused, no transaction is left open.
    assert desk.order("execute", sql="INSERT INTO t VALUES (1)").output["affected_rows"] == 1


def test_params_and_many_exclude_each_other(desk: Any) -> None:
    failure = refused(desk, "execute", sql="SELECT 1", params=[1], many=[[1]])
    assert (failure.code, failure.message) == (
        StatusCode.INVALID_ARGUMENT,
        "parameters: give either params or many",
    )


def keyed(desk: Any, key: str, identity: str = "", **parameters: Any) -> Outcome:
    outcome: Outcome = desk.place(
        Order(operation="execute", parameters=parameters, idempotency_key=key, identity=identity)
    )
    return outcome


def test_a_key_makes_a_change_happen_once(desk: Any) -> None:
    desk.order("execute", sql="CREATE TABLE t (a BLOB)")
    insert = {"sql": "INSERT INTO t VALUES (?) RETURNING a", "params": [{"base64": "AP8="}]}
    first, second = keyed(desk, "k", **insert), keyed(desk, "k", **insert)
    assert (first.replayed, second.replayed) == (False, True)
    assert second.output == first.output
    assert second.table is not None
    assert second.table.rows == ((b"\x00\xff",),)
    assert desk.rows("SELECT count(*) FROM t") == [(1,)]


def test_a_key_belongs_to_its_caller(desk: Any) -> None:
    desk.order("execute", sql="CREATE TABLE t (a)")
    for identity in ("spiffe://d/a", "spiffe://d/b"):
        assert not keyed(desk, "k", identity, sql="INSERT INTO t VALUES (1)").replayed
    assert desk.rows("SELECT count(*) FROM t") == [(2,)]


def test_a_key_of_another_change_is_refused(desk: Any) -> None:
    desk.order("execute", sql="CREATE TABLE t (a)")
    keyed(desk, "k", sql="INSERT INTO t VALUES (1)")
    with pytest.raises(Failure) as caught:
        keyed(desk, "k", sql="INSERT INTO t VALUES (2)")
    assert (caught.value.code, caught.value.reason) == (StatusCode.INVALID_ARGUMENT, "KEY_REUSED")


def test_a_change_that_failed_leaves_no_record(desk: Any) -> None:
    with pytest.raises(Failure):
        keyed(desk, "k", sql="INSERT INTO t VALUES (1)")
    desk.order("execute", sql="CREATE TABLE t (a)")
    assert not keyed(desk, "k", sql="INSERT INTO t VALUES (1)").replayed


def test_keys_are_forgotten_after_a_day(desk: Any) -> None:
    desk.order("execute", sql="CREATE TABLE t (a)")
    keyed(desk, "k", sql="INSERT INTO t VALUES (1)")
    desk.seconds += 24 * 3600 + 1
    keyed(desk, "other", sql="INSERT INTO t VALUES (2)")
    assert not keyed(desk, "k", sql="INSERT INTO t VALUES (1)").replayed


def test_records_of_keys_are_not_for_callers(desk: Any) -> None:
    desk.order("execute", sql="CREATE TABLE t (a)")
    keyed(desk, "k", sql="INSERT INTO t VALUES (1)")
    for operation, sql in (("query", "SELECT * FROM agent_server_once"), ("execute", "DELETE FROM agent_server_once")):
        assert refused(desk, operation, sql=sql).code is StatusCode.PERMISSION_DENIED


# --- recall


def test_recall_gives_the_last_result_page_by_page(desk: Any) -> None:
    desk.place(Order(operation="query", parameters={"sql": NUMBERS.format(5)}, session_id="s"))
    for offset, expected in ((0, ((1,), (2,))), (2, ((3,), (4,))), (4, ((5,),)), (9, ())):
        order = Order(operation="recall", parameters={"offset": offset, "limit": 2}, session_id="s")
        outcome = desk.place(order)
        assert outcome.table.rows == expected
        assert (outcome.output["operation"], outcome.output["row_count"]) == ("query", 5)


@pytest.mark.parametrize("session_id", ["", "empty"])
def test_nothing_to_recall(desk: Any, session_id: str) -> None:
    with pytest.raises(Failure) as caught:
        desk.place(Order(operation="recall", session_id=session_id))
    assert (caught.value.code, caught.value.reason) == (StatusCode.FAILED_PRECONDITION, "NOTHING_TO_RECALL")


def test_a_session_belongs_to_its_caller(desk: Any) -> None:
    desk.place(Order(operation="query", parameters={"sql": "SELECT 1"}, session_id="s", identity="spiffe://d/a"))
    with pytest.raises(Failure):
        desk.place(Order(operation="recall", session_id="s", identity="spiffe://d/b"))


# --- ingest


def test_records_are_written(desk: Any) -> None:
    summary = desk.ingest(
        [{"id": 1, "name": "a"}, {"id": 2, "name": "b", "score": 1.5}],
        table="people",
        columns={"id": "INTEGER", "name": "TEXT", "score": "REAL"},
        key=["id"],
    )
    assert (summary.received, summary.written, summary.rejected, summary.batches) == (2, 2, 0, 1)
    assert desk.rows("SELECT id, name, score FROM people ORDER BY id") == [(1, "a", None), (2, "b", 1.5)]


@pytest.mark.parametrize(
    ("record", "reason", "field"),
    [
        ({}, "EMPTY_RECORD", ""),
        ({"id": 1, "nam": "x"}, "UNKNOWN_FIELD", "nam"),
        ({"name": "x"}, "MISSING_FIELD", "id"),
        ({"id": None}, "MISSING_FIELD", "id"),
        ({"id": "1"}, "TYPE_MISMATCH", "id"),
        ({"id": 1.5}, "TYPE_MISMATCH", "id"),
        ({"id": 1, "name": 2}, "TYPE_MISMATCH", "name"),
        ({"id": 1, "name": ["x"]}, "TYPE_MISMATCH", "name"),
        ({"id": 1, "score": "high"}, "TYPE_MISMATCH", "score"),
        ({"id": 1, "score": float("nan")}, "OUT_OF_RANGE", "score"),
        ({"id": 2**63}, "OUT_OF_RANGE", "id"),
        ({"id": 99}, "CONSTRAINT", ""),
        ({"id": 0}, "CONSTRAINT", ""),
    ],
)
def test_a_record_that_does_not_fit_is_set_aside(desk: Any, record: Any, reason: str, field: str) -> None:
    desk.order("execute", sql="CREATE TABLE t (id INTEGER NOT NULL CHECK (id > 0), name TEXT, score REAL, UNIQUE (id))")
    summary = desk.ingest([{"id": 99}, record, {"id": 100}], table="t")
    assert (summary.received, summary.written, summary.rejected) == (3, 2, 1)
    rejected = summary.rejected_records[0]
    assert (rejected.index, rejected.record_id, rejected.reason, rejected.field) == (1, "r1", reason, field)
    assert desk.rows("SELECT id FROM t ORDER BY id") == [(99,), (100,)]


def test_batches_are_committed_as_they_fill(desk: Any) -> None:
    records = [{"a": number} for number in range(25)]
    summary = desk.ingest(records, table="t", columns={"a": "INTEGER"}, batch_size=10)
    assert (summary.written, summary.batches) == (25, 3)


@pytest.mark.parametrize(
    ("on_conflict", "expected", "kept"),
    [("reject", (1, 0, 1), "old"), ("ignore", (1, 1, 0), "old"), ("update", (2, 0, 0), "new")],
)
def test_a_key_that_is_there_already(desk: Any, on_conflict: str, expected: Any, kept: str) -> None:
    summary = desk.ingest(
        [{"id": 1, "v": "old"}, {"id": 1, "v": "new"}],
        table="t",
        columns={"id": "INTEGER", "v": "TEXT"},
        key=["id"],
        on_conflict=on_conflict,
    )
    assert (summary.written, summary.ignored, summary.rejected) == expected
    assert desk.rows("SELECT v FROM t") == [(kept,)]


def test_the_list_of_rejected_records_is_bounded_and_their_number_is_not(desk: Any) -> None:
    summary = desk.ingest([{"b": 1}] * 20, table="t", columns={"a": "INTEGER"}, max_listed=3)
    assert (summary.rejected, [each.index for each in summary.rejected_records]) == (20, [0, 1, 2])


@pytest.mark.parametrize(
    ("parameters", "code", "text"),
    [
        ({"table": "missing"}, StatusCode.NOT_FOUND, "give columns to create it"),
        ({"table": "a b"}, StatusCode.INVALID_ARGUMENT, "parameters.table"),
        ({"table": "sqlite_x"}, StatusCode.INVALID_ARGUMENT, "reserved"),
        ({"table": "agent_server_x"}, StatusCode.INVALID_ARGUMENT, "reserved"),
        ({"table": "t", "columns": {"a": "JSON"}}, StatusCode.INVALID_ARGUMENT, "parameters.columns.a"),
        ({"table": "t", "columns": {"a": "TEXT"}, "key": ["b"]}, StatusCode.INVALID_ARGUMENT, "key names"),
        ({"table": "t", "batch_size": 0}, StatusCode.INVALID_ARGUMENT, "parameters.batch_size"),
        ({}, StatusCode.INVALID_ARGUMENT, "parameters.table"),
    ],
)
def test_a_target_that_does_not_fit(desk: Any, parameters: Any, code: StatusCode, text: str) -> None:
    with pytest.raises(Failure) as caught:
        desk.ingest([{"a": 1}], **parameters)
    assert caught.value.code is code
    assert text in caught.value.message


def test_a_table_that_exists_without_a_named_column(desk: Any) -> None:
    desk.order("execute", sql="CREATE TABLE t (a)")
    with pytest.raises(Failure) as caught:
        desk.ingest([{"a": 1}], table="t", columns={"a": "TEXT", "b": "TEXT"})
    assert [each.field for each in caught.value.violations] == ["parameters.columns.b"]


def test_generated_columns_are_not_filled(desk: Any) -> None:
    desk.order("execute", sql="CREATE TABLE t (a INTEGER, b INTEGER AS (a * 2))")
    summary = desk.ingest([{"a": 1}, {"a": 1, "b": 3}], table="t")
    assert (summary.written, summary.rejected_records[0].reason) == (1, "UNKNOWN_FIELD")


def test_a_lock_of_another_process_is_unavailable_and_worth_repeating(desk: Any, tmp_path: Any) -> None:
    desk.order("execute", sql="CREATE TABLE t (a)")

    async def impatient() -> None:
        await desk.tools.database._writer.run(lambda db: db.execute("PRAGMA busy_timeout=0").fetchall())

    desk.runner.run(impatient())
    other = sqlite3.connect(tmp_path / "data.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    failure = refused(desk, "execute", sql="INSERT INTO t VALUES (1)")
    other.close()
    assert (failure.code, failure.reason, failure.retry_after) == (StatusCode.UNAVAILABLE, "DATABASE_BUSY", 0.1)


# --- fetch: what needs no network


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"urls": []},
        {"urls": ["http://x"] * 1001},
        {"urls": [""]},
        {"urls": ["http://x"], "concurrency": 0},
        {"urls": ["http://x"], "concurrency": 101},
        {"urls": ["http://x"], "timeout": 0},
        {"urls": ["http://x"], "max_bytes": -1},
        {"urls": ["http://x"], "headers": {"Host": "y"}},
        {"urls": ["http://x"], "headers": {"a b": "y"}},
        {"urls": ["http://x"], "headers": {"a": "y\r\nb: c"}},
        {"urls": "http://x"},
    ],
)
def test_fetch_refuses_wrong_input(desk: Any, parameters: Any) -> None:
    assert refused(desk, "fetch", **parameters).code is StatusCode.INVALID_ARGUMENT


def test_each_url_has_its_own_outcome(desk: Any) -> None:
    urls = [
        "ftp://host/",
        "http://10.0.0.1/",
        "http://127.0.0.1:1/",
        "http://[::1]/",
        "http://169.254.169.254/",
        "nonsense",
    ]
    outcome = desk.order("fetch", urls=urls)
    assert [item["url"] for item in outcome.output["items"]] == urls
    reasons = [item["reason"] for item in outcome.output["items"]]
    assert reasons == ["BAD_URL", *["ADDRESS_REFUSED"] * 4, "BAD_URL"]
    assert (outcome.output["ok_count"], outcome.output["failed_count"]) == (0, 6)


def test_streamed_fetch_tells_of_each_url(desk: Any) -> None:
    events = desk.streamed("fetch", urls=["ftp://a/", "ftp://b/"])
    assert sorted(event.item for event in events if isinstance(event, Partial)) == ["ftp://a/", "ftp://b/"]
    assert [event.completed for event in events if isinstance(event, Progress)] == [1, 2]
    assert len([event for event in events if isinstance(event, Log)]) == 2


def test_a_configured_database_is_read_page_by_page(desk: Any) -> None:
    desk.order("execute", sql="CREATE TABLE n (i INTEGER)")
    desk.order("execute", sql="INSERT INTO n VALUES (?)", many=[[number] for number in range(25)])
    wanted: dict[str, Any] = {
        "database": "main",
        "sql": "SELECT i FROM n WHERE i >= :low ORDER BY i",
        "params": {"low": 5},
    }
    outcome = desk.order("query", **wanted, limit=8)
    assert (outcome.output["row_count"], outcome.output["truncated"]) == (8, "rows")
    assert outcome.table is not None
    assert outcome.table.rows == tuple((number,) for number in range(5, 13))
    assert desk.order("query", **wanted, max_bytes=1024).output["truncated"] == ""
    events = desk.streamed("query", **wanted, page_size=10)
    assert [len(each.table) for each in events if isinstance(each, Partial) and each.table] == [10, 10]
    with pytest.raises(Failure) as caught:
        desk.order("query", database="main", sql="SELECT ?", params=[1])
    assert caught.value.violations[0].field == "parameters.params"
    with pytest.raises(Failure) as caught:
        desk.order("query", database="books", sql="SELECT 1")
    assert caught.value.reason == "DATABASE_UNKNOWN"
