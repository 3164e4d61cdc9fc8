"""Records of keyed RPCs and what seals them: what was altered is unreadable, or says what it said."""

from __future__ import annotations

import os

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.policies.idempotency.record import Execution, State, dump, load
from sidecar.store.sealing import Sealing, Unreadable

many = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "200")))
RECORD = dump(
    Execution(
        State.DONE,
        3,
        "o",
        "ab" * 32,
        "/a.B/C",
        "spiffe://m/a",
        1.5,
        60.0,
        2.5,
        0,
        ((b"a", b"b"),),
        ((b"c", b""),),
        b"\0\0\0\0\1x",
    )
)
KEY = Fernet.generate_key().decode()
SEALED = Sealing([KEY]).seal(RECORD)


def altered(draw: st.DrawFn, content: bytes) -> bytes:
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        content = content[:at] + draw(st.binary(max_size=4)) + content[at + draw(st.integers(0, 6)) :]
    return content


@many
@given(st.composite(altered)(RECORD) | st.binary(max_size=80))
def test_a_record_is_read_or_refused(content: bytes) -> None:
    try:
        execution = load(content)
    except ValueError:
        return
    assert isinstance(execution.state, State)
    assert load(dump(execution)) == execution


@many
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
        max_leaves=8,
    )
)
def test_json_of_any_shape(value: object) -> None:
    import json

    with pytest.raises(ValueError, match="."):
        load(json.dumps(value).encode() + b"\n")


@many
@given(st.composite(altered)(SEALED) | st.binary(max_size=80))
def test_what_is_sealed_is_opened_or_unreadable(sealed: bytes) -> None:
    try:
        content = Sealing([KEY]).open(sealed)
    except Unreadable:
        return
    assert content == RECORD or sealed[:1] == b"c"
