from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.http2.blocks import BlockReader, HeaderBlock
from sidecar.http2.hpack import Decoder, HeaderListTooLarge, HpackError, encode_field
from tests.support.wire import block

COMMON = ((":method", "POST"), (":scheme", "http"), (":path", "/a.B/C"), ("te", "trailers"), ("content-type", "application/grpc"))


def reader(whole: dict[bytes, HeaderBlock] | None = None, max_list: int = 16_384) -> BlockReader:
    decoder = Decoder(max_list_size=max_list)
    decoder.set_max_table_size(0)
    made = BlockReader(decoder, max_list=max_list, whole=whole)
    made.read(b"\x20" + block(("first", "block")))
    assert made.stateless
    return made


NAME = st.sampled_from([b"x-a", b"x-b", b"x-request-id", b"authorization", b"te"])
VALUE = st.binary(max_size=200).map(lambda raw: bytes(0x20 + byte % 0x5F for byte in raw))


@given(st.lists(st.lists(st.tuples(NAME, VALUE), max_size=4), min_size=1, max_size=12))
def test_what_is_remembered_never_changes_what_is_read(rests: list[list[tuple[bytes, bytes]]]) -> None:
    remembers = reader()
    for rest in rests:
        data = block(*COMMON, *rest)
        expected = Decoder().decode(data)
        headers = remembers.read(data)
        assert headers.fields == expected
        assert headers.index == {name: value for name, value, _ in expected}
        assert all(headers.get(name) == value for name, value in headers.index.items())


def test_a_repeated_beginning_is_one_object() -> None:
    remembers = reader()
    for number in range(4):
        headers = remembers.read(block(*COMMON, ("x-n", str(number))))
    assert headers.beginning is not None
    assert [name for name, _, _ in headers.rest] == [b"x-n"]
    assert remembers.read(block(*COMMON, ("x-n", "9"))).beginning is headers.beginning


def test_secrets_end_a_beginning() -> None:
    remembers = reader()
    for _ in range(3):
        headers = remembers.read(block(*COMMON, ("authorization", "Bearer s3cret"), ("x-a", "1")))
    assert headers.beginning is not None
    assert b"s3cret" not in headers.beginning.encoded
    assert headers.get(b"authorization") == b"Bearer s3cret"


def test_whole_answers_are_kept_at_their_second_sighting() -> None:
    whole: dict[bytes, HeaderBlock] = {}
    answers = reader(whole)
    data = block((":status", "200"), ("content-type", "application/grpc"))
    answers.read(data)
    assert data not in whole
    answers.read(data)
    assert answers.read(data) is whole[data]


def test_the_limit_counts_beginning_and_rest() -> None:
    remembers = reader(max_list=2048)
    for number in range(3):
        remembers.read(block(*COMMON, ("x-n", str(number))))
    with pytest.raises(HeaderListTooLarge):
        remembers.read(block(*COMMON, *(("x-n", "v" * 100),) * 20))


def test_a_size_update_behind_a_beginning_is_an_error() -> None:
    remembers = reader()
    for number in range(3):
        remembers.read(block(*COMMON, ("x-n", str(number))))
    with pytest.raises(HpackError):
        remembers.read(block(*COMMON) + b"\x20" + block(("x-n", "1")))


def test_values_of_callers_are_printable_and_those_of_agents_are_their_own() -> None:
    odd = encode_field(b"x-odd", b"\xe2\x82\xac")[2]
    callers, agents = reader(), reader({})
    callers.read(block(*COMMON) + odd)
    assert callers.malformed is not None
    agents.read(block((":status", "200")) + odd)
    assert agents.malformed is None
