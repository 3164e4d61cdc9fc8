"""Header blocks: the vectors of RFC 7541, forwarding without re-encoding, and every way in which a block is not one."""

from __future__ import annotations

import tracemalloc

import pytest

from sidecar.http2 import huffman
from sidecar.http2.hpack import Decoder, Field, HeaderListTooLarge, HpackError, encode_field

Pairs = list[tuple[bytes, bytes]]


def pairs(fields: tuple[Field, ...]) -> Pairs:
    return [field[:2] for field in fields]


def integer(value: int, prefix: int, first: int = 0) -> bytes:
    """RFC 7541 §5.1, written for the tests."""
    mask = (1 << prefix) - 1
    if value < mask:
        return bytes((first | value,))
    out = [first | mask]
    value -= mask
    while value > 127:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def string(text: bytes, *, coded: bool = False) -> bytes:
    if coded:
        text = huffman.encode(text)
    return integer(len(text), 7, 0x80 if coded else 0) + text


INDEXING, PLAIN, NEVER = 0x40, 0x00, 0x10


def literal(kind: int, name: bytes | int, value: bytes, *, coded: bool = False) -> bytes:
    """A literal of `kind` whose name is given, or is that of an index."""
    if isinstance(name, int):
        return integer(name, 6 if kind == INDEXING else 4, kind) + string(value, coded=coded)
    return bytes((kind,)) + string(name, coded=coded) + string(value, coded=coded)


def stateless() -> Decoder:
    """As it is once the peer has acknowledged that it shall have no dynamic table, and has said that it has none."""
    decoder = Decoder()
    decoder.set_max_table_size(0)
    decoder.decode(b"\x20")
    return decoder


# ── RFC 7541 Appendix C ──

DATE = b"Mon, 21 Oct 2013 20:13:21 GMT"
LATER = b"Mon, 21 Oct 2013 20:13:22 GMT"
COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
URL = b"https://www.example.com"
GET: Pairs = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
REQUESTS: list[Pairs] = [
    GET,
    [*GET, (b"cache-control", b"no-cache")],
    [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ],
]
REQUEST_TABLES: list[Pairs] = [
    [(b":authority", b"www.example.com")],
    [(b"cache-control", b"no-cache"), (b":authority", b"www.example.com")],
    [(b"custom-key", b"custom-value"), (b"cache-control", b"no-cache"), (b":authority", b"www.example.com")],
]
RESPONSES: list[Pairs] = [
    [(b":status", b"302"), (b"cache-control", b"private"), (b"date", DATE), (b"location", URL)],
    [(b":status", b"307"), (b"cache-control", b"private"), (b"date", DATE), (b"location", URL)],
    [
        (b":status", b"200"),
        (b"cache-control", b"private"),
        (b"date", LATER),
        (b"location", URL),
        (b"content-encoding", b"gzip"),
        (b"set-cookie", COOKIE),
    ],
]
RESPONSE_TABLES: list[Pairs] = [
    [(b"location", URL), (b"date", DATE), (b"cache-control", b"private"), (b":status", b"302")],
    [(b":status", b"307"), (b"location", URL), (b"date", DATE), (b"cache-control", b"private")],
    [(b"set-cookie", COOKIE), (b"content-encoding", b"gzip"), (b"date", LATER)],
]
PLAIN_REQUESTS = [
    "828684410f7777772e6578616d706c652e636f6d",
    "828684be58086e6f2d6361636865",
    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
]
CODED_REQUESTS = [
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
]
PLAIN_RESPONSES = [
    "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
    "6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
    "4803333037c1c0bf",
    "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a697077"
    "38666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
]
CODED_RESPONSES = [
    "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    "4883640effc1c0bf",
    "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad"
    "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
]


@pytest.mark.parametrize(
    ("block", "field", "is_kept"),
    [
        pytest.param(
            "400a637573746f6d2d6b65790d637573746f6d2d686561646572",
            (b"custom-key", b"custom-header"),
            True,
            id="C.2.1",
        ),
        pytest.param("040c2f73616d706c652f70617468", (b":path", b"/sample/path"), False, id="C.2.2"),
        pytest.param("100870617373776f726406736563726574", (b"password", b"secret"), False, id="C.2.3"),
        pytest.param("82", (b":method", b"GET"), False, id="C.2.4"),
    ],
)
def test_representations(block: str, field: tuple[bytes, bytes], is_kept: bool) -> None:
    decoder = Decoder()
    assert pairs(decoder.decode(bytes.fromhex(block))) == [field]
    assert table(decoder) == ([field] if is_kept else [])


@pytest.mark.parametrize(
    ("blocks", "lists", "tables", "size"),
    [
        pytest.param(PLAIN_REQUESTS, REQUESTS, REQUEST_TABLES, 4096, id="C.3"),
        pytest.param(CODED_REQUESTS, REQUESTS, REQUEST_TABLES, 4096, id="C.4"),
        pytest.param(PLAIN_RESPONSES, RESPONSES, RESPONSE_TABLES, 256, id="C.5"),
        pytest.param(CODED_RESPONSES, RESPONSES, RESPONSE_TABLES, 256, id="C.6"),
    ],
)
def test_conversations(blocks: list[str], lists: list[Pairs], tables: list[Pairs], size: int) -> None:
    decoder = Decoder(max_table_size=size)
    for block, expected, entries in zip(blocks, lists, tables, strict=True):
        fields = decoder.decode(bytes.fromhex(block))
        assert pairs(fields) == expected
        assert decoder.malformed is None
        assert table(decoder) == entries
        # What is passed on means the same to somebody who has no table.
        assert pairs(stateless().decode(b"".join([field[2] for field in fields]))) == expected


def table(decoder: Decoder) -> Pairs:
    """The dynamic table, newest first, read as a peer would: by its indexes."""
    entries: Pairs = []
    while True:
        try:
            entries += pairs(decoder.decode(integer(62 + len(entries), 7, 0x80)))
        except HpackError:
            return entries


# ── encoding ──


@pytest.mark.parametrize(
    ("name", "value", "encoded"),
    [
        pytest.param(b":method", b"POST", b"\x83", id="all of it in the static table"),
        pytest.param(b":status", b"200", b"\x88", id="another"),
        pytest.param(b":path", b"/p.S/M", b"\x04\x06/p.S/M", id="name in the static table"),
        pytest.param(b"content-type", b"application/grpc", b"\x0f\x10\x10application/grpc", id="name far in the table"),
        pytest.param(b"grpc-status", b"0", b"\x00\x0bgrpc-status\x010", id="unknown name"),
        pytest.param(b"x", b"", b"\x00\x01x\x00", id="empty value"),
        pytest.param(b"x", b"v" * 127, b"\x00\x01x\x7f\x00" + b"v" * 127, id="length in two bytes"),
        pytest.param(b"x", b"v" * 1000, b"\x00\x01x\x7f\xe9\x06" + b"v" * 1000, id="length in three bytes"),
        pytest.param(b"n" * 300, b"v", b"\x00\x7f\xad\x01" + b"n" * 300 + b"\x01v", id="long name"),
    ],
)
def test_a_field_is_encoded_without_state(name: bytes, value: bytes, encoded: bytes) -> None:
    assert encode_field(name, value) == (name, value, encoded)
    decoder = Decoder()
    assert decoder.decode(encoded) == ((name, value, encoded),)
    assert table(decoder) == []


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        pytest.param(b":method", b"\x12\x04POST", id="not even as a static index"),
        pytest.param(b"authorization", b"\x1f\x08\x04POST", id="name in the static table"),
        pytest.param(b"x-api-key", b"\x10\x09x-api-key\x04POST", id="unknown name"),
    ],
)
def test_a_secret_is_marked_never_indexed(name: bytes, encoded: bytes) -> None:
    assert encode_field(name, b"POST", never_indexed=True) == (name, b"POST", encoded)
    assert Decoder().decode(encoded) == ((name, b"POST", encoded),)


# ── what is passed on ──


@pytest.mark.parametrize("coded", [False, True], ids=["plain", "Huffman"])
@pytest.mark.parametrize("value", [b"v", b"", b"v" * 200, b"application/grpc"], ids=["v", "empty", "long", "usual"])
@pytest.mark.parametrize("name", [b"x-thing", b"x-request-id", b"n" * 200, 4, 14, 15, 31, 61])
@pytest.mark.parametrize("kind", [PLAIN, NEVER])
def test_a_literal_that_asks_for_no_entry_is_passed_on_as_it_came(
    kind: int, name: bytes | int, value: bytes, coded: bool
) -> None:
    block = literal(kind, name, value, coded=coded)
    decoder = Decoder()
    for _ in range(3):
        assert [field[2] for field in decoder.decode(block)] == [block]


@pytest.mark.parametrize("coded", [False, True], ids=["plain", "Huffman"])
@pytest.mark.parametrize("name", [b"x-thing", b"x-request-id", b"n" * 200, 4, 14, 15, 16, 31, 61])
@pytest.mark.parametrize("value", [b"v", b"", b"v" * 200], ids=["v", "empty", "long"])
def test_a_literal_that_asks_for_an_entry_is_passed_on_without_asking(
    name: bytes | int, value: bytes, coded: bool
) -> None:
    decoder = Decoder()
    for _ in range(3):
        (field,) = decoder.decode(literal(INDEXING, name, value, coded=coded))
        reader = Decoder()
        assert pairs(reader.decode(field[2])) == [field[:2]]
        assert table(reader) == []


def test_an_entry_of_the_table_is_passed_on_as_itself() -> None:
    decoder = Decoder()
    decoder.decode(literal(INDEXING, b"x-thing", b"one"))
    whole, other, never = decoder.decode(b"\xbe" + literal(PLAIN, 62, b"two") + literal(NEVER, 62, b"three"))
    assert whole == encode_field(b"x-thing", b"one")
    assert other == encode_field(b"x-thing", b"two")
    assert never == encode_field(b"x-thing", b"three", never_indexed=True)


# ── the dynamic table ──


def test_an_entry_counts_its_bytes_and_32() -> None:
    decoder = Decoder(max_table_size=2 * (32 + 2))
    decoder.decode(literal(INDEXING, b"a", b"1") + literal(INDEXING, b"b", b"2"))
    assert table(decoder) == [(b"b", b"2"), (b"a", b"1")]
    decoder.decode(literal(INDEXING, b"c", b"33"))
    assert table(decoder) == [(b"c", b"33")]


def test_an_entry_larger_than_the_table_empties_it() -> None:
    decoder = Decoder(max_table_size=100)
    decoder.decode(literal(INDEXING, b"a", b"1"))
    assert pairs(decoder.decode(literal(INDEXING, b"b", b"2" * 100))) == [(b"b", b"2" * 100)]
    assert table(decoder) == []


def test_a_name_may_be_that_of_an_entry_which_gives_way() -> None:
    """RFC 7541 §4.4: the name is taken before the entry is removed."""
    decoder = Decoder(max_table_size=40)
    decoder.decode(literal(INDEXING, b"abcd", b"1234"))
    assert pairs(decoder.decode(literal(INDEXING, 62, b"5678"))) == [(b"abcd", b"5678")]
    assert table(decoder) == [(b"abcd", b"5678")]


def test_a_known_literal_enters_the_table_each_time() -> None:
    """What is remembered of a literal saves its parsing, not its effect."""
    decoder = Decoder()
    for count in range(1, 5):
        decoder.decode(literal(INDEXING, b"x-thing", b"v"))
        assert table(decoder) == [(b"x-thing", b"v")] * count


def test_size_updates_at_the_beginning_of_a_block() -> None:
    decoder = Decoder()
    decoder.decode(literal(INDEXING, b"a", b"1") + literal(INDEXING, b"b", b"2"))
    assert pairs(decoder.decode(integer(34, 5, 0x20) + b"\xbe")) == [(b"b", b"2")]
    assert table(decoder) == [(b"b", b"2")]
    # RFC 7541 §4.2: down and up again within one block tells that the table was emptied.
    assert decoder.decode(integer(0, 5, 0x20) + integer(4096, 5, 0x20)) == ()
    assert table(decoder) == []
    decoder.decode(literal(INDEXING, b"c", b"3"))
    assert table(decoder) == [(b"c", b"3")]


def test_a_size_update_behind_a_field_is_refused() -> None:
    for block in (b"\x82\x20", literal(PLAIN, b"a", b"1") + b"\x20", b"\x20\x82\x3f\x01"):
        with pytest.raises(HpackError, match="size update after a field"):
            Decoder().decode(block)


def test_a_size_update_beyond_the_limit_is_refused() -> None:
    with pytest.raises(HpackError, match="4097"):
        Decoder().decode(integer(4097, 5, 0x20))
    assert Decoder().decode(integer(4096, 5, 0x20)) == ()


def test_the_limit_we_announced_binds_once_the_peer_follows_it() -> None:
    decoder = Decoder()
    decoder.decode(literal(INDEXING, b"a", b"1"))
    decoder.set_max_table_size(0)
    assert decoder.decode(b"\x20\x83") == (encode_field(b":method", b"POST"),)
    with pytest.raises(HpackError):
        decoder.decode(b"\x21")


def test_without_a_table_a_literal_may_still_ask_for_an_entry() -> None:
    """RFC 7541 §4.4: it is larger than the table, and no error."""
    decoder = stateless()
    for _ in range(2):
        assert pairs(decoder.decode(literal(INDEXING, b"x-thing", b"v"))) == [(b"x-thing", b"v")]
    with pytest.raises(HpackError, match="62"):
        decoder.decode(b"\xbe")


def test_a_peer_that_is_allowed_more_uses_it_when_it_says_so() -> None:
    decoder = Decoder(max_table_size=0)
    decoder.set_max_table_size(8192)
    decoder.decode(integer(8192, 5, 0x20) + literal(INDEXING, b"a", b"1"))
    assert table(decoder) == [(b"a", b"1")]


def test_a_name_of_the_table_is_looked_up_each_time() -> None:
    """The same bytes mean another field once the table has moved on, so they are not remembered."""
    decoder = Decoder()
    decoder.decode(literal(INDEXING, b"a", b"1"))
    for reference in (literal(PLAIN, 62, b"v"), literal(NEVER, 62, b"v"), literal(INDEXING, 62, b"v")):
        assert pairs(decoder.decode(reference)) == [(b"a", b"v")]
    decoder.decode(literal(INDEXING, b"b", b"1"))
    for reference in (literal(PLAIN, 62, b"v"), literal(NEVER, 62, b"v"), literal(INDEXING, 62, b"v")):
        assert pairs(decoder.decode(reference)) == [(b"b", b"v")]


@pytest.mark.parametrize("zeros", range(5))
def test_an_integer_may_take_more_bytes_than_it_needs(zeros: int) -> None:
    """RFC 7541 §5.1 sets no limit; ours is five bytes behind the first."""
    name = b"\x0f\x90" + b"\x80" * (zeros - 1) + b"\x00" if zeros else b"\x0f\x10"
    assert pairs(Decoder().decode(name + b"\x01v")) == [(b"content-type", b"v")]
    length = b"\x7f" + b"\x80" * zeros + b"\x00"
    assert pairs(Decoder().decode(b"\x00\x01a" + length + b"v" * 127)) == [(b"a", b"v" * 127)]
    with pytest.raises(HpackError, match="integer"):
        Decoder().decode(b"\x00\x01a\x7f" + b"\x80" * 5 + b"\x00" + b"v" * 127)


# ── blocks that are none ──


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x80", id="index 0"),
        pytest.param(b"\xbe", id="an index behind the static table"),
        pytest.param(b"\xff\x00", id="index 127"),
        pytest.param(b"\x7e\x01v", id="a name behind the static table, to be indexed"),
        pytest.param(b"\x0f\x2f\x01v", id="a name behind the static table"),
        pytest.param(b"\x1f\x2f\x01v", id="a name behind the static table, never indexed"),
        pytest.param(b"\xff", id="an index cut off"),
        pytest.param(b"\x00", id="a literal cut off before its name"),
        pytest.param(b"\x00\x03ab", id="a name cut off"),
        pytest.param(b"\x00\x01a", id="a literal cut off before its value"),
        pytest.param(b"\x00\x01a\x03vv", id="a value cut off"),
        pytest.param(b"\x00\x7f", id="the length of a name cut off"),
        pytest.param(b"\x00\x7f\x00ab", id="a long name cut off"),
        pytest.param(b"\x00\x01a\x7f", id="the length of a value cut off"),
        pytest.param(b"\x00\x01a\x7f\x00v", id="a long value cut off"),
        pytest.param(b"\x04", id="an indexed name alone"),
        pytest.param(b"\x0f", id="the index of a name cut off"),
        pytest.param(b"\x04\x81", id="a Huffman value cut off"),
        pytest.param(b"\x04\x81\xff", id="a value that is padding alone"),
        pytest.param(b"\x00\x81\xff\x01v", id="a name that is padding alone"),
        pytest.param(b"\x04\x84\xff\xff\xff\xff", id="EOS in a value"),
        pytest.param(b"\x3f", id="a size update cut off"),
        pytest.param(b"\xff\x80\x80\x80\x80\x80\x00", id="an integer of too many bytes"),
        pytest.param(b"\xff\xff\xff\xff\xff\x0f", id="an integer beyond 2^31"),
        pytest.param(b"\x00\x7f\xff\xff\xff\xff\x0f", id="a length beyond 2^31"),
        pytest.param(b"\x00\x01a\x7f" + b"\x80" * 1000, id="a length that never ends"),
    ],
)
def test_garbage_is_refused(block: bytes) -> None:
    for start in (b"", b"\x82", literal(PLAIN, b"x-thing", b"v")):
        with pytest.raises(HpackError):
            Decoder().decode(start + block)
        with pytest.raises(HpackError):
            stateless().decode(start + block)


def test_every_cut_of_a_block_is_refused_or_ends_between_fields() -> None:
    parts = [
        literal(PLAIN, b"x-thing", b"value"),
        literal(INDEXING, 31, b"application/grpc"),
        literal(NEVER, b"x-api-key", b"k" * 130, coded=True),
        b"\x83",
        literal(PLAIN, b"x-request-id", b"r" * 126),
        literal(PLAIN, b"x-other", b"r" * 127),
    ]
    block = b"".join(parts)
    ends = [sum(map(len, parts[:count])) for count in range(len(parts) + 1)]
    for warm in (False, True):
        for end in range(len(block) + 1):
            decoder = Decoder()
            if warm:
                decoder.decode(block)
            if end in ends:
                assert len(decoder.decode(block[:end])) == ends.index(end)
            else:
                with pytest.raises(HpackError):
                    decoder.decode(block[:end])


def test_an_empty_block_has_no_fields() -> None:
    assert Decoder().decode(b"") == ()
    assert stateless().decode(b"") == ()


# ── limits ──


@pytest.mark.parametrize("kind", [PLAIN, INDEXING, NEVER])
@pytest.mark.parametrize("name", [b"abcd", 15])
def test_the_decoded_size_is_that_of_rfc_9113(kind: int, name: bytes | int) -> None:
    """§6.5.2: name, value and 32 for each field."""
    length = len(name) if isinstance(name, bytes) else len(b"accept-charset")
    block = literal(kind, name, b"v" * (300 - 32 - length)) * 3
    decoder = Decoder(max_list_size=900)
    assert len(decoder.decode(block)) == 3
    with pytest.raises(HeaderListTooLarge) as caught:
        Decoder(max_list_size=899).decode(block)
    assert caught.value.size == 900


def test_static_fields_count_too() -> None:
    # :method POST is 43.
    assert len(Decoder(max_list_size=430).decode(b"\x83" * 10)) == 10
    with pytest.raises(HeaderListTooLarge) as caught:
        Decoder(max_list_size=429).decode(b"\x83" * 10)
    assert caught.value.size == 430


@pytest.mark.parametrize("count", [5, 200], ids=["few large fields", "many fields"])
def test_a_list_that_is_too_large_leaves_the_table_in_step(count: int) -> None:
    """Only its stream is refused: the fields behind the limit enter the table, and later blocks may use them."""
    decoder = Decoder(max_list_size=1000)
    block = literal(PLAIN, b"x-filler", b"v" * (400 if count == 5 else 1)) * count + literal(
        INDEXING, b"x-last", b"kept"
    )
    with pytest.raises(HeaderListTooLarge):
        decoder.decode(block)
    assert pairs(decoder.decode(b"\xbe")) == [(b"x-last", b"kept")]


def test_garbage_behind_the_limit_is_still_garbage() -> None:
    filler = literal(PLAIN, b"x-filler", b"v") * 200
    for garbage in (b"\x80", b"\x20", b"\x00\x05ab", b"\xbe", b"\x04\x84\xff\xff\xff\xff"):
        with pytest.raises(HpackError):
            Decoder(max_list_size=1000).decode(filler + garbage)


@pytest.mark.parametrize("count", [5, 100, 511, 60_000])
def test_a_bomb_of_references_is_refused(count: int) -> None:
    """A byte for each copy of a 4,000-byte entry."""
    decoder = Decoder()
    decoder.decode(literal(INDEXING, b"a", b"v" * 4000))
    with pytest.raises((HeaderListTooLarge, HpackError)) as caught:
        decoder.decode(b"\xbe" * count)
    if count == 5:
        assert isinstance(caught.value, HeaderListTooLarge)
        assert caught.value.size == 5 * 4033
    if count == 60_000:
        assert isinstance(caught.value, HpackError)


@pytest.mark.parametrize("reference", [b"\x0f\x2f\x00", b"\x1f\x2f\x00", b"\x7e\x00", b"\x0f\xaf\x00\x00"])
def test_a_bomb_of_large_names_is_not_unpacked(reference: bytes) -> None:
    """Each of the fields has a name of 4,000 bytes, and an encoding with a copy of it: 27,000 of them are 108 MB."""
    decoder = Decoder()
    decoder.decode(literal(INDEXING, b"n" * 4000, b""))
    tracemalloc.start()
    try:
        with pytest.raises(HpackError):
            decoder.decode(reference * 27_000)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


def test_a_bomb_that_throws_its_entry_away_is_refused_too() -> None:
    """The references count, although nothing is left in the table when the block ends."""
    decoder = Decoder()
    decoder.decode(literal(INDEXING, b"a", b"v" * 4000))
    with pytest.raises(HeaderListTooLarge):
        decoder.decode(b"\xbe" * 60 + literal(INDEXING, b"b", b"w" * 4100))
    assert table(decoder) == []


# ── malformed fields ──


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b":",
        b"Foo",
        b"x-Foo",
        b"x foo",
        b"x\x00",
        b"x\x7f",
        b"x\xe9",
        b"x:y",
        b"::x",
        b"x\n",
        b'x"',
        b"x/y",
        b"x(",
        b"x,",
    ],
)
@pytest.mark.parametrize("coded", [False, True], ids=["plain", "Huffman"])
@pytest.mark.parametrize("kind", [PLAIN, INDEXING, NEVER])
def test_an_odd_name_makes_the_message_malformed(kind: int, name: bytes, coded: bool) -> None:
    """RFC 9113 §8.2.1; a stream error, so the block is decoded all the same."""
    decoder = Decoder()
    for _ in range(2):
        fields = decoder.decode(b"\x83" + literal(kind, name, b"v", coded=coded) + literal(PLAIN, b"x-thing", b"v"))
        assert [field[0] for field in fields] == [b":method", name, b"x-thing"]
        assert decoder.malformed is not None
    decoder.decode(b"\x83")
    assert decoder.malformed is None


@pytest.mark.parametrize("value", [b"\0", b"a\0", b"a\nb", b"a\r", b"\r\n"])
@pytest.mark.parametrize("name", [b"x-thing", b"x-request-id", 4, 31])
@pytest.mark.parametrize("coded", [False, True], ids=["plain", "Huffman"])
@pytest.mark.parametrize("kind", [PLAIN, INDEXING, NEVER])
def test_a_line_break_or_nul_in_a_value_makes_the_message_malformed(
    kind: int, name: bytes | int, value: bytes, coded: bool
) -> None:
    decoder = Decoder()
    for _ in range(2):
        fields = decoder.decode(b"\x83" + literal(kind, name, value, coded=coded))
        assert fields[1][1] == value
        assert decoder.malformed is not None
        assert fields[1][0] in decoder.malformed
    decoder.decode(b"\x83")
    assert decoder.malformed is None


def test_long_odd_fields_are_noticed_too() -> None:
    for block in (literal(PLAIN, b"N" * 200, b"v"), literal(PLAIN, b"n", b"v" * 200 + b"\n")):
        decoder = Decoder()
        decoder.decode(block)
        assert decoder.malformed is not None


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(b"\xbe", id="all of it"),
        pytest.param(literal(INDEXING, 62, b"w"), id="its name, to be indexed"),
        pytest.param(literal(PLAIN, 62, b"w"), id="its name"),
        pytest.param(literal(NEVER, 62, b"w" * 200), id="its name, with a long value"),
    ],
)
def test_an_odd_name_stays_odd_in_the_table(again: bytes) -> None:
    decoder = Decoder()
    decoder.decode(literal(INDEXING, b"Foo", b"v"))
    decoder.decode(again)
    assert decoder.malformed is not None


def test_an_odd_value_stays_odd_in_the_table() -> None:
    decoder = Decoder()
    decoder.decode(literal(INDEXING, b"x-thing", b"a\nb"))
    decoder.decode(b"\xbe")
    assert decoder.malformed == b"a control character in the value of x-thing"


@pytest.mark.parametrize("name", [b"te", b"x-a_b.c~d!", b":path", b"0", b"grpc-status-details-bin"])
@pytest.mark.parametrize("value", [b"", b" ", b"a b", b"a\tb", b" padded ", b"\xff\xfe", b"\xe2\x82\xac"])
def test_what_peers_do_send_is_well_formed(name: bytes, value: bytes) -> None:
    """gRPC's own stacks send a grpc-message with the spaces its author put around it; a proxy must not refuse that."""
    decoder = Decoder()
    assert pairs(decoder.decode(literal(PLAIN, name, value))) == [(name, value)]
    assert decoder.malformed is None


@pytest.mark.parametrize(
    ("value", "strict"), [(b"plain ~", True), (b"a\tb", False), (b"\xff", False), (b"\x7f", False)]
)
@pytest.mark.parametrize("name", [b"x-thing", b"x-request-id"])
def test_values_beyond_printable_ascii_are_told(name: bytes, value: bytes, strict: bool) -> None:
    decoder = Decoder()
    for _ in range(2):
        decoder.decode(literal(PLAIN, name, value))
        assert decoder.strict is strict
    decoder.decode(b"\x83")
    assert decoder.strict


# ── what is remembered ──


def is_remembered(decoder: Decoder, block: bytes) -> bool:
    return decoder.decode(block)[0] is decoder.decode(block)[0]


@pytest.mark.parametrize("kind", [PLAIN, INDEXING])
@pytest.mark.parametrize("name", [b"x-tenant", 4, 14, 15, 16, 31, 58])
@pytest.mark.parametrize("coded", [False, True], ids=["plain", "Huffman"])
def test_a_field_that_repeats_is_decoded_once(kind: int, name: bytes | int, coded: bool) -> None:
    assert is_remembered(stateless(), literal(kind, name, b"application/grpc", coded=coded))


@pytest.mark.parametrize("kind", [PLAIN, INDEXING, NEVER])
@pytest.mark.parametrize("coded", [False, True], ids=["plain", "Huffman"])
@pytest.mark.parametrize(
    "name",
    [
        b"authorization",
        b"cookie",
        b"set-cookie",
        b"proxy-authorization",
        b"x-api-key",
        b"x-request-id",
        b"traceparent",
        b"tracestate",
        b"grpc-timeout",
        b"idempotency-key",
        23,
        32,
        49,
        55,
    ],
)
def test_secrets_and_what_is_unique_are_not_remembered(kind: int, name: bytes | int, coded: bool) -> None:
    decoder = stateless()
    block = literal(kind, name, b"Bearer 123", coded=coded)
    assert not is_remembered(decoder, block)
    assert not holds(decoder, b"Bearer 123", huffman.encode(b"Bearer 123"))


@pytest.mark.parametrize("name", [b"x-tenant", 4, 31])
def test_what_must_never_be_indexed_is_not_remembered(name: bytes | int) -> None:
    decoder = stateless()
    assert not is_remembered(decoder, literal(NEVER, name, b"hush"))
    assert not holds(decoder, b"hush")


def holds(decoder: Decoder, *texts: bytes) -> bool:
    """Is any of `texts` in what the decoder keeps?"""
    kept = b"".join(
        repr(getattr(decoder, slot)).encode() for slot in Decoder.__slots__ if slot not in {"malformed", "strict"}
    )
    return any(repr(text)[2:-1].encode() in kept for text in texts)


def test_the_test_finds_what_is_kept() -> None:
    decoder = stateless()
    decoder.decode(literal(PLAIN, b"x-tenant", b"found"))
    assert holds(decoder, b"found")


def test_what_never_repeats_does_not_pile_up() -> None:
    decoder = stateless()
    for number in range(5000):
        decoder.decode(literal(PLAIN, b"n%d" % number, b"%d" % number + b"v" * 100))
    kept = sum(
        sum(len(key) for key in value)
        for value in (getattr(decoder, slot) for slot in Decoder.__slots__)
        if isinstance(value, dict)
    )
    assert 0 < kept <= 256 * 1024
    assert is_remembered(decoder, literal(PLAIN, b"x-tenant", b"blue"))


def test_a_known_beginning_of_a_literal_is_not_taken_for_the_literal() -> None:
    """Blocks that nearly repeat: the same bytes up to a length, a name, or the last byte."""
    decoder = stateless()
    decoder.decode(literal(PLAIN, b"x-tenant", b"blue"))
    assert pairs(decoder.decode(literal(PLAIN, b"x-tenant", b"blues"))) == [(b"x-tenant", b"blues")]
    assert pairs(decoder.decode(literal(PLAIN, b"x-tenant", b"blu"))) == [(b"x-tenant", b"blu")]
    assert pairs(decoder.decode(literal(PLAIN, b"x-tenan", b"tblue"))) == [(b"x-tenan", b"tblue")]
    assert pairs(decoder.decode(literal(NEVER, b"x-tenant", b"blue"))) == [(b"x-tenant", b"blue")]
    with pytest.raises(HpackError):
        decoder.decode(literal(PLAIN, b"x-tenant", b"blue")[:-1])
