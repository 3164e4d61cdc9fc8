"""The SQLite store in bad weather: locked, corrupt, read-only, full; and between processes, and over time."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
import stat
from pathlib import Path

import pytest

from sidecar.store.gcra import NANOSECONDS, Pace
from sidecar.store.interface import StoreUnavailable
from sidecar.store.ledger import Allowance
from sidecar.store.records import Record
from sidecar.store.sqlite import SQLiteStore
from tests.support.clock import FakeClock

PACE = Pace.of(1, 1000.0, burst=10)
HOUR = Allowance(1000, 3600 * NANOSECONDS)


def store(path: Path, clock: FakeClock | None = None, busy_timeout: float = 0.05) -> SQLiteStore:
    return SQLiteStore(path, clock or FakeClock(), busy_timeout=busy_timeout)


async def kind_of_failure(subject: SQLiteStore) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        await subject.take("k", PACE)
    return caught.value.kind


async def test_what_was_taken_outlives_the_process(tmp_path: Path) -> None:
    clock = FakeClock()
    first = store(tmp_path / "s.db", clock)
    for _ in range(10):
        assert await first.take("k", PACE) == 0.0
    assert await first.reserve("b", HOUR, "r", 600, lease=60) is None
    await first.settle("b", HOUR, "r", 500)
    await first.close()
    second = store(tmp_path / "s.db", clock)
    assert await second.take("k", PACE) > 0
    shortage = await second.reserve("b", HOUR, "r2", 501, lease=60)
    assert shortage is not None
    assert shortage.used == 500
    await second.close()


async def test_the_file_is_nobody_elses_business(tmp_path: Path) -> None:
    subject = store(tmp_path / "deep" / "er" / "s.db")
    await subject.ping()
    for each in (tmp_path / "deep" / "er").iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
    await subject.close()


async def test_many_changes_share_one_transaction(tmp_path: Path) -> None:
    subject = store(tmp_path / "s.db")
    await subject.ping()
    commits = 0
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def block(connection: sqlite3.Connection, now: int) -> None:
        """Holds the writer until all others are in the queue, and counts the transactions from then on."""

        def count(statement: str) -> None:
            nonlocal commits
            commits += statement == "COMMIT"

        connection.set_trace_callback(count)
        loop.call_soon_threadsafe(begun.set)
        done.result(10)

    import concurrent.futures

    done: concurrent.futures.Future[None] = concurrent.futures.Future()
    first = asyncio.ensure_future(subject.run(block))
    await begun.wait()
    others = [asyncio.ensure_future(subject.take(f"k{i}", PACE)) for i in range(200)]
    await asyncio.sleep(0)
    done.set_result(None)
    await asyncio.gather(first, *others)
    assert commits == 2
    await subject.close()


async def test_a_file_that_another_locks_is_an_error_in_bounded_time_and_heals(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    subject = store(path)
    await subject.ping()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert await kind_of_failure(subject) == "locked"
    other.execute("COMMIT")
    other.close()
    assert await subject.take("k", PACE) == 0.0
    await subject.close()


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"this is not a database at all" * 100)
    subject = store(path)
    assert await kind_of_failure(subject) == "corrupt"
    path.unlink()
    assert await subject.take("k", PACE) == 0.0
    await subject.close()


async def test_a_database_that_rots(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    first = store(path)
    for i in range(300):
        await first.take(f"key-{i:04}" * 20, PACE)
    await first.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    subject = store(path)
    assert await kind_of_failure(subject) == "corrupt"
    await subject.close()


async def test_a_file_that_may_only_be_read(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    first = store(path)
    await first.ping()
    subject = store(path)
    # Whoever runs as root may write anything; so SQLite is told to refuse, as it does on a file system that does.
    await subject.run(lambda connection, _: None)
    subject._connection.execute("PRAGMA query_only = ON")  # type: ignore[union-attr]  # noqa: SLF001
    assert await kind_of_failure(subject) == "read_only"
    # It was opened anew.
    assert await subject.take("k", PACE) == 0.0
    await first.close()
    await subject.close()


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    subject = store(tmp_path / "file" / "s.db")
    assert await kind_of_failure(subject) == "unreachable"
    await subject.close()


async def test_a_full_disk(tmp_path: Path) -> None:
    subject = store(tmp_path / "s.db")
    pages = await subject.run(lambda connection, _: connection.execute("PRAGMA page_count").fetchone()[0])
    await subject.run(lambda connection, _: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    with pytest.raises(StoreUnavailable) as caught:
        for i in range(1000):
            await subject.take(f"{i}" * 100, PACE)
    assert caught.value.kind == "full"
    assert await subject.take("k", PACE) == 0.0
    await subject.close()


async def test_a_file_of_a_newer_sidecar_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    subject = store(path)
    with pytest.raises(StoreUnavailable, match="schema 99 is of a newer sidecar"):
        await subject.ping()
    await subject.close()


async def test_one_operation_that_fails_harms_no_other(tmp_path: Path) -> None:
    subject = store(tmp_path / "s.db")
    await subject.ping()

    def wrong(connection: sqlite3.Connection, now: int) -> None:
        connection.execute("INSERT INTO limits VALUES ('half', 1)")
        raise LookupError("a defect")

    answers = await asyncio.gather(
        *(subject.take(f"k{i}", PACE) for i in range(5)),
        subject.run(wrong),
        subject.take("z", PACE),
        return_exceptions=True,
    )
    assert [answers[i] for i in (0, 1, 2, 3, 4, 6)] == [0.0] * 6
    assert isinstance(answers[5], LookupError)
    half = await subject.run(
        lambda connection, _: connection.execute("SELECT * FROM limits WHERE key = 'half'").fetchall()
    )
    assert half == []
    await subject.close()


async def test_durable_work_is_synced_and_other_work_is_not(tmp_path: Path) -> None:
    subject = store(tmp_path / "s.db")

    def mode(connection: sqlite3.Connection, now: int) -> int:
        value: int = connection.execute("PRAGMA synchronous").fetchone()[0]
        return value

    assert [await subject.run(mode, durable=durable) for durable in (False, True, False)] == [1, 2, 1]
    await subject.close()


async def test_what_is_over_is_forgotten_and_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    clock = FakeClock()
    subject = store(tmp_path / "s.db", clock)
    short = Allowance(10, NANOSECONDS)
    await asyncio.gather(*(subject.take(f"k{i}", PACE) for i in range(2000)))
    await asyncio.gather(*(subject.reserve(f"b{i}", short, f"r{i}", 1, lease=5) for i in range(600)))
    await asyncio.gather(*(subject.settle(f"b{i}", short, f"r{i}", 1) for i in range(300)))
    clock.advance(20_000)
    for _ in range(30):
        clock.advance(1.1)
        await subject.ping()
    counts = await subject.run(
        lambda connection, _: [
            connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608
            for table in ("limits", "budgets", "reservations", "settled")
        ]
    )
    assert counts == [0, 0, 0, 0]
    await subject.close()


async def test_a_wall_clock_that_is_set_back_locks_nobody_out(tmp_path: Path) -> None:
    clock = FakeClock()
    subject = store(tmp_path / "s.db", clock)
    pace = Pace.of(1, 1.0, burst=5)
    for _ in range(5):
        assert await subject.take("k", pace) == 0.0
    assert await subject.reserve("b", HOUR, "r", 1000, lease=60) is None
    await subject.settle("b", HOUR, "r", 1000)
    clock.jump(-86_400)
    assert await subject.take("k", pace) <= 1.0
    shortage = await subject.reserve("b", HOUR, "r2", 1000, lease=60)
    assert shortage is None or shortage.resets_in <= 3600
    await subject.close()


def _take_in_another_process(path: str, number: int, results: multiprocessing.Queue[int]) -> None:
    async def take_all() -> int:
        subject = SQLiteStore(Path(path), FakeClock(), busy_timeout=5.0, timeout=20.0)
        waits = [await subject.take("k", Pace.of(1, 1000.0, burst=50)) for _ in range(40)]
        await subject.close()
        return waits.count(0.0)

    results.put(asyncio.run(take_all()))


def test_processes_of_one_host_share_one_limit(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[int] = context.Queue()
    processes = [
        context.Process(target=_take_in_another_process, args=(str(tmp_path / "s.db"), i, results)) for i in range(3)
    ]
    for each in processes:
        each.start()
    passed = [results.get(timeout=60) for _ in processes]
    for each in processes:
        each.join(30)
    assert sum(passed) == 50


async def test_a_closed_store_holds_no_file(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    subject = store(path)
    await subject.take("k", PACE)
    await subject.close()
    # The last one to close checkpoints: nothing but the database is left.
    assert [each.name for each in tmp_path.iterdir()] == ["s.db"]


async def test_puts_of_one_turn_share_a_transaction_and_each_has_its_answer(tmp_path: Path) -> None:
    subject = store(tmp_path / "s.db")
    first = await asyncio.gather(*(subject.put(f"k{i}", None, b"1", keep=60) for i in range(20)))
    # The same key twice: the second sees what the first has done.
    again = await asyncio.gather(
        subject.put("k0", b"1", b"2", keep=60),
        subject.put("k0", b"2", b"3", keep=60),
        subject.put("k1", b"0", b"2", keep=60),
        subject.put("k20", b"0", b"2", keep=60),
        subject.put("k21", None, b"2", keep=60),
    )
    assert first == [True] * 20
    assert list(again) == [True, True, Record(b"1", 0.0), False, True]
    found = await subject.find("k0")
    assert found is not None and found.value == b"3"
    await subject.close()


async def test_answers_on_their_way_arrive_before_it_is_closed(tmp_path: Path) -> None:
    subject = store(tmp_path / "s.db")
    put = subject.put("k", None, b"1", keep=60)
    await subject.close()
    assert put.done() and put.result() is True
    with pytest.raises(StoreUnavailable, match="closed"):
        await subject.put("k", b"1", b"2", keep=60)
