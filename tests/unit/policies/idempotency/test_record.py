"""Records go through bytes unchanged, and what is none is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.policies.idempotency.record import Execution, State, dump, load

PAIRS = st.lists(
    st.tuples(st.binary(min_size=1, max_size=20).map(lambda b: b.hex().encode()), st.binary(max_size=50)), max_size=4
)
TIMES = st.floats(0, 4e9)
EXECUTIONS = st.builds(
    Execution,
    state=st.sampled_from(State),
    token=st.integers(1, 2**31),
    owner=st.text(max_size=16),
    fingerprint=st.text("0123456789abcdef", max_size=64),
    method=st.text(max_size=40),
    identity=st.text(max_size=40),
    began=TIMES,
    lease=st.floats(1, 3600),
    ended=st.none() | TIMES,
    code=st.integers(0, 16),
    headers=PAIRS.map(tuple),
    trailers=PAIRS.map(tuple),
    messages=st.none() | st.binary(max_size=300),
    settled_by=st.text(max_size=20),
)


@given(EXECUTIONS)
def test_there_and_back(execution: Execution) -> None:
    assert load(dump(execution)) == execution


@given(EXECUTIONS)
def test_what_is_written_about_it_is_json(execution: Execution) -> None:
    line, _, messages = dump(execution).partition(b"\n")
    facts = json.loads(line)
    assert facts["method"] == execution.method and facts["state"] == execution.state.value
    assert messages == (execution.messages or b"")


@given(st.binary(max_size=100))
def test_what_is_no_record_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="."):
        load(content)


def test_a_record_of_a_newer_sidecar_is_refused() -> None:
    with pytest.raises(ValueError, match="version 2 is not known here"):
        load(b'{"v":2}\n')


@pytest.mark.parametrize(
    ("state", "messages", "is_replayable"),
    [(State.DONE, b"", True), (State.DONE, None, False), (State.RUNNING, b"", False), (State.UNKNOWN, b"", False)],
)
def test_what_can_be_given_again(state: State, messages: bytes | None, is_replayable: bool) -> None:
    execution = Execution(state, 1, "o", "f", "/a/b", "", 0.0, 60.0, messages=messages)
    assert execution.is_replayable is is_replayable
