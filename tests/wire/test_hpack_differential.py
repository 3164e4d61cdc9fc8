"""Our header blocks against those of the `hpack` package: what one writes the other reads, and what one refuses the other refuses."""

from __future__ import annotations

import hpack
import pytest
from hpack.hpack import encode_integer
from hpack.huffman_table import decode_huffman
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sidecar.http2 import huffman
from sidecar.http2.blocks import BlockReader
from sidecar.http2.hpack import Decoder, Field, HpackError, encode_field

THOROUGH = settings(max_examples=500, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
UNBOUNDED = 1 << 30
CODER = hpack.huffman.HuffmanEncoder(
    hpack.huffman_constants.REQUEST_CODES, hpack.huffman_constants.REQUEST_CODES_LENGTH
)

Pairs = list[tuple[bytes, bytes]]

USUAL_NAMES = [
    b":path",
    b":authority",
    b":method",
    b":status",
    b"content-type",
    b"user-agent",
    b"te",
    b"grpc-timeout",
    b"x-request-id",
    b"traceparent",
    b"authorization",
    b"grpc-status",
    b"www-authenticate",
]
USUAL_VALUES = [
    b"",
    b"POST",
    b"200",
    b"application/grpc",
    b"trailers",
    b"0",
    b"a" * 126,
    b"a" * 127,
    b"a" * 128,
    b"a" * 400,
]
names = st.sampled_from(USUAL_NAMES) | st.binary(max_size=20) | st.integers(120, 300).map(lambda count: b"n" * count)
values = st.sampled_from(USUAL_VALUES) | st.binary(max_size=40)
lists = st.lists(st.tuples(names, values), max_size=12)
kinds = st.sampled_from([0x40, 0x00, 0x10])


def ours(*, max_table_size: int = 4096) -> Decoder:
    return Decoder(max_table_size=max_table_size, max_list_size=UNBOUNDED)


def theirs() -> hpack.Decoder:
    return hpack.Decoder(max_header_list_size=UNBOUNDED)


def pairs(fields: tuple[Field, ...]) -> Pairs:
    return [field[:2] for field in fields]


def read_by_hpack(decoder: hpack.Decoder, block: bytes) -> Pairs:
    return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]


def verdict(decoder: Decoder, block: bytes) -> Pairs | None:
    """The list, or None for a block that is none."""
    try:
        fields = decoder.decode(block)
    except HpackError:
        return None
    # Whatever came in, what is passed on means the same without any table, to anybody.
    passed_on = b"".join([field[2] for field in fields])
    reader = hpack.Decoder(max_header_list_size=UNBOUNDED)
    assert read_by_hpack(reader, passed_on) == pairs(fields)
    assert len(reader.header_table.dynamic_entries) == 0
    return pairs(fields)


def verdict_of_hpack(decoder: hpack.Decoder, block: bytes) -> Pairs | None:
    try:
        return read_by_hpack(decoder, block)
    except hpack.HPACKError:
        return None


def compare(conversation: list[bytes]) -> None:
    """Both read the same blocks, one after the other, until one is refused; then the tables must be the same, too."""
    us, them = ours(), theirs()
    for block in conversation:
        expected = verdict_of_hpack(them, block)
        assert verdict(us, block) == expected
        if expected is None:
            return
    count = len(them.header_table.dynamic_entries)
    references = b"".join([number(62 + position, 7, 0x80) for position in range(count)])
    assert pairs(us.decode(references)) == [
        (bytes(name), bytes(value)) for name, value in them.header_table.dynamic_entries
    ]
    with pytest.raises(HpackError):
        us.decode(number(62 + count, 7, 0x80))


def number(value: int, prefix: int, first: int) -> bytes:
    encoded = encode_integer(value, prefix)
    encoded[0] |= first
    return bytes(encoded)


def string(text: bytes, coded: bool) -> bytes:
    if coded:
        text = CODER.encode(text)
    return number(len(text), 7, 0x80 if coded else 0) + text


# ── Huffman ──


@THOROUGH
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_huffman_of_any_text(text: bytes) -> None:
    coded = CODER.encode(text)
    assert huffman.encode(text) == coded
    assert huffman.decode(coded) == text


@settings(THOROUGH, max_examples=2000)
@given(st.binary(max_size=30) | st.lists(st.sampled_from([0xFF, 0xFE, 0x7F, 0x00, 0x1F, 0xF8]), max_size=8).map(bytes))
@example(b"\xff\xff\xff\xff")
@example(b"\xff\xff\xff\xfa\xff")
@example(b"\xff")
def test_huffman_of_any_bytes(coded: bytes) -> None:
    try:
        expected = bytes(decode_huffman(coded))
    except hpack.HPACKDecodingError:
        with pytest.raises(huffman.HuffmanError):
            huffman.decode(coded)
    else:
        assert huffman.decode(coded) == expected


# ── lists, both ways ──


@THOROUGH
@given(
    st.lists(st.tuples(lists, st.booleans(), st.none() | st.integers(0, 4096)), max_size=6), st.sets(names, max_size=3)
)
def test_we_read_what_hpack_writes(conversation: list[tuple[Pairs, bool, int | None]], secrets: set[bytes]) -> None:
    encoder = hpack.Encoder()
    decoder = ours()
    for fields, coded, table_size in conversation:
        if table_size is not None:
            encoder.header_table_size = table_size
        headers = [
            hpack.NeverIndexedHeaderTuple(name, value) if name in secrets else hpack.HeaderTuple(name, value)
            for name, value in fields
        ]
        assert verdict(decoder, encoder.encode(headers, huffman=coded)) == fields


@THOROUGH
@given(lists, st.booleans())
def test_hpack_reads_what_we_write(fields: Pairs, is_secret: bool) -> None:
    block = b"".join([encode_field(name, value, never_indexed=is_secret)[2] for name, value in fields])
    reader = theirs()
    headers = reader.decode(block, raw=True)
    assert [(bytes(name), bytes(value)) for name, value in headers] == fields
    assert len(reader.header_table.dynamic_entries) == 0
    if is_secret:
        assert all(isinstance(header, hpack.NeverIndexedHeaderTuple) for header in headers)
    assert verdict(ours(), block) == fields


# ── representations ──

# Few names, values and indexes, so that what is remembered, referred to and evicted meets itself again.
indexed = st.one_of(st.integers(1, 70), st.integers(0, 300)).map(lambda index: number(index, 7, 0x80))
literals = st.builds(
    lambda kind, name, value, codings: bytes((kind,)) + string(name, codings & 1 > 0) + string(value, codings & 2 > 0),
    kinds,
    names,
    values,
    st.integers(0, 3),
)
named_by_index = st.builds(
    lambda kind, index, value, coded: number(index, 6 if kind == 0x40 else 4, kind) + string(value, coded),
    kinds,
    st.one_of(st.integers(1, 70), st.integers(1, 300)),
    values,
    st.booleans(),
)
representations = st.one_of(indexed, literals, named_by_index)
updates = st.lists(st.sampled_from([0, 33, 64, 200, 1000, 4095, 4096]), max_size=2).map(
    lambda sizes: b"".join([number(size, 5, 0x20) for size in sizes])
)
blocks = st.builds(lambda update, parts: update + b"".join(parts), updates, st.lists(representations, max_size=8))


@settings(THOROUGH, max_examples=1000)
@given(st.lists(blocks, max_size=5))
def test_any_representations(conversation: list[bytes]) -> None:
    # Twice: the second time, what can be remembered is.
    compare(conversation + conversation)


@settings(THOROUGH, max_examples=1000)
@given(st.lists(blocks, min_size=1, max_size=3), st.data())
def test_blocks_that_are_nearly_right(conversation: list[bytes], data: st.DataObject) -> None:
    """One byte of the last block changed, left out, put in, or everything behind it cut off."""
    block = conversation[-1]
    position = data.draw(st.integers(0, len(block)))
    change = data.draw(st.sampled_from(["replace", "leave out", "put in", "cut"]))
    byte = bytes((data.draw(st.integers(0, 255)),))
    if change == "replace":
        block = block[:position] + byte + block[position + 1 :]
    elif change == "leave out":
        block = block[:position] + block[position + 1 :]
    elif change == "put in":
        block = block[:position] + byte + block[position:]
    else:
        block = block[:position]
    compare([*conversation, block])


@settings(THOROUGH, max_examples=2000)
@given(st.lists(st.binary(max_size=40), max_size=3))
def test_any_bytes(conversation: list[bytes]) -> None:
    compare(conversation)


@THOROUGH
@given(st.integers(0, 300) | st.integers(0, 0xFFFFFFFF), st.integers(0, 6))
@example(0x7FFFFFFF - 127, 0)
@example(0x80000000 - 127, 0)
def test_integers_of_any_size_and_padding(beyond: int, zeros: int) -> None:
    """RFC 7541 §5.1 allows more bytes than an integer needs; both stop at five."""
    rest = number(beyond + 127, 7, 0x80)[1:]
    if zeros:
        rest = rest[:-1] + bytes((rest[-1] | 0x80,)) + b"\x80" * (zeros - 1) + b"\x00"
    text = b"v" * 300
    for block in (
        b"\xff" + rest,
        b"\x00\x01a\x7f" + rest + text,
        b"\x00\x7f" + rest + text,
        b"\x3f" + rest,
        b"\x0f" + rest + b"\x01v",
    ):
        compare([block])
        compare([block, block + b"\x82"])


# ── what is remembered of blocks ──

lines = st.sampled_from(
    [
        (b":path", b"/p.S/M"),
        (b":path", b"/p.S/N"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"x-tenant", b"blue"),
        (b"x-tenant", b"blues"),
        (b"x-request-id", b"1"),
        (b"x-request-id", b"22"),
        (b"authorization", b"Bearer 1"),
        (b"grpc-timeout", b"1S"),
        (b"Odd", b"1"),
        (b"x-odd", b"a\nb"),
    ]
)
plain_lines = lines.map(lambda line: encode_field(*line)[2])
beginnings = st.lists(plain_lines, min_size=3, max_size=6).map(b"".join)


@settings(THOROUGH, max_examples=1000)
@given(
    st.lists(beginnings, min_size=1, max_size=3),
    st.lists(
        st.tuples(st.integers(0, 2), st.lists(plain_lines, max_size=4).map(b"".join), st.integers(0, 12)), max_size=12
    ),
    st.booleans(),
)
def test_a_repeated_beginning_changes_nothing(
    starts: list[bytes], rests: list[tuple[int, bytes, int]], are_responses: bool
) -> None:
    """Requests that share beginnings, responses that repeat, and those of either that are cut within what was known."""

    def stateless() -> Decoder:
        decoder = Decoder()
        decoder.set_max_table_size(0)
        decoder.decode(b"\x20")
        return decoder

    reader = BlockReader(stateless(), max_list=16_384, whole={} if are_responses else None)
    reader.stateless = True
    for choice, rest, cut in rests:
        whole = starts[choice % len(starts)] + rest
        block = whole[: len(whole) - cut]
        afresh = stateless()
        try:
            expected = afresh.decode(block)
        except HpackError:
            with pytest.raises(HpackError):
                reader.read(block)
            # The connection ends with it; what the reader remembered before must not have suffered.
            continue
        headers = reader.read(block)
        assert headers.fields == expected
        assert reader.malformed == afresh.malformed
        assert headers.index == {name: value for name, value, _ in expected}
