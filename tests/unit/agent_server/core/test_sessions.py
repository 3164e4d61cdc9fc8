"""What is remembered between calls, and what is forgotten."""

from __future__ import annotations

from agent_server.core.events import Outcome
from agent_server.core.sessions import Sessions, outcome_size
from agent_server.core.table import Column, Table


def outcome(size: int = 0) -> Outcome:
    table = Table((Column("a"),), (("x" * size,),)) if size else None
    return Outcome("id", "data", "query", {}, table, 0.0)


def test_a_session_is_found_again() -> None:
    sessions = Sessions()
    session = sessions.open("me", "s")
    sessions.keep("me", session, outcome())
    assert sessions.open("me", "s").last == outcome()


def test_the_same_id_of_another_caller_is_another_session() -> None:
    sessions = Sessions()
    assert sessions.open("me", "s") is not sessions.open("you", "s")


def test_the_one_used_longest_ago_is_forgotten() -> None:
    sessions = Sessions(max_sessions=2)
    first, second = sessions.open("", "1"), sessions.open("", "2")
    sessions.open("", "1")
    sessions.open("", "3")
    assert sessions.open("", "1") is first
    assert sessions.open("", "2") is not second


def test_bytes_are_bounded() -> None:
    sessions = Sessions(max_bytes=3000)
    for number in range(5):
        sessions.keep("", sessions.open("", str(number)), outcome(1000))
    assert len(sessions) == 2


def test_a_result_larger_than_everything_is_not_kept() -> None:
    sessions = Sessions(max_bytes=100)
    sessions.keep("", sessions.open("", "s"), outcome(1000))
    assert len(sessions) == 0
    assert sessions.open("", "s").last is None


def test_keeping_for_a_session_that_was_forgotten_changes_nothing() -> None:
    sessions = Sessions(max_sessions=1)
    old = sessions.open("", "old")
    sessions.open("", "new")
    sessions.keep("", old, outcome(10))
    assert (len(sessions), old.last) == (1, None)


def test_size_counts_output_and_table() -> None:
    assert outcome_size(outcome(500)) > 500
