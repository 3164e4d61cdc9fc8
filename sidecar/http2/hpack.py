"""Header blocks (RFC 7541): a full decoder, a stateless encoder, and fields that carry their own encoding.

Why does a field carry its encoding? A proxy passes on what it received. Without a dynamic table the encoding of a field depends on
nothing else, so a header list is forwarded by joining the bytes its fields came in.
"""

from __future__ import annotations

from collections import deque
from typing import NoReturn

from sidecar.http2 import huffman

Field = tuple[bytes, bytes, bytes]
"""(name, value, encoded): `encoded` is the field's own stateless representation, never one that touches a dynamic table."""

_STATIC: tuple[tuple[bytes, bytes], ...] = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
)
_STATIC_LENGTH = len(_STATIC)
_OVERHEAD = 32
"""RFC 7541 §4.1: what an entry counts beyond its bytes."""
_MEMO_ENTRIES = 512
_LONGEST_MEMO = 256
_NAMES_KEPT = 512
_CEILING = 16
"""A block whose decoded size exceeds the limit this many times is an attack on the decoder itself."""

# Never kept beyond their call: secrets, and what differs in each call anyway.
_UNKEPT = frozenset(
    {
        b"authorization",
        b"cookie",
        b"grpc-timeout",
        b"idempotency-key",
        b"proxy-authorization",
        b"set-cookie",
        b"traceparent",
        b"tracestate",
        b"x-api-key",
        b"x-request-id",
    }
)
_NAME_BYTES = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_PRINTABLE = bytes(range(0x20, 0x7F))
_FORBIDDEN = frozenset({0x00, 0x0A, 0x0D})


class HpackError(Exception):
    """The block cannot be decoded; the connection cannot go on (COMPRESSION_ERROR)."""


class HeaderListTooLarge(Exception):
    """The decoded list exceeds the limit. The block was processed to its end, so the connection can go on."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes")
        self.size = size


# ── encoding ──


def _encode_integer(value: int, prefix: int, first: int) -> bytes:
    """RFC 7541 §5.1; `first` holds the bits before the prefix."""
    mask = (1 << prefix) - 1
    if value < mask:
        return bytes((first | value,))
    out = [first | mask]
    value -= mask
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_FULL_INDEX: dict[tuple[bytes, bytes], int] = {}
_NAME_INDEX: dict[bytes, int] = {}
for _position, _entry in enumerate(_STATIC, 1):
    _FULL_INDEX.setdefault(_entry, _position)
    _NAME_INDEX.setdefault(_entry[0], _position)


def encode_field(name: bytes, value: bytes, *, never_indexed: bool = False) -> Field:
    """A field with its stateless encoding; no Huffman, which costs more CPU than it saves bytes on a local link."""
    if not never_indexed:
        index = _FULL_INDEX.get((name, value))
        if index is not None:
            return (name, value, bytes((0x80 | index,)))
    first = 0x10 if never_indexed else 0x00
    index = _NAME_INDEX.get(name)
    if index is not None:
        head = _encode_integer(index, 4, first)
    else:
        head = bytes((first,)) + _encode_integer(len(name), 7, 0) + name
    length = len(value)
    return (name, value, head + (bytes((length,)) if length < 0x7F else _encode_integer(length, 7, 0)) + value)


_STATIC_FIELDS: tuple[Field, ...] = tuple(
    (name, value, bytes((0x80 | index,))) for index, (name, value) in enumerate(_STATIC, 1)
)


# ── decoding ──


class Decoder:
    """One peer's header blocks. After `decode`, `malformed` says why the message is malformed (RFC 9113 §8.2.1), or None."""

    __slots__ = (
        "_announced",
        "_entries",
        "_limit",
        "_max_list",
        "_memo",
        "_most",
        "_names",
        "_size",
        "_table_size",
        "malformed",
        "strict",
    )

    def __init__(self, *, max_table_size: int = 4096, max_list_size: int = 16 * 1024) -> None:
        """Sizes in bytes. `max_table_size`: what the peer may use until it has acknowledged another limit."""
        self._max_list = max_list_size
        # No list within the limit has more fields.
        self._most = max_list_size // _OVERHEAD
        # Newest first, as their indexes count.
        self._entries: deque[Field] = deque()
        self._size = 0
        self._limit = self._announced = max_table_size
        self._table_size = max_table_size
        self._memo: dict[bytes, Field] = {}
        self._names: dict[bytes, bytes] = {}
        self.malformed: bytes | None = None
        self.strict = True
        """Are all values of the last block printable ASCII, as gRPC asks of metadata?"""

    @property
    def is_stateless(self) -> bool:
        """Has the peer given up its dynamic table, so that each block can be read without those before it?"""
        return not self._table_size and not self._limit

    def set_max_table_size(self, size: int) -> None:
        """The peer has acknowledged our limit `size`, which binds it from its next size update within `size` on.

        RFC 9113 §4.3.1 wants an error when its next block says nothing of a smaller table. Peers exist that never do (those
        that use no table, h2spec, which ignores the limit), and what they mean is clear: the former limit goes on.
        """
        self._announced = size
        if self._table_size <= size:
            self._limit = size

    def decode(self, block: bytes) -> tuple[Field, ...]:
        """The fields of a complete block. Raises HpackError, HeaderListTooLarge."""
        self.malformed = None
        self.strict = True
        fields: list[Field] = []
        memo = self._memo
        names = self._names
        most = self._most
        position, end = 0, len(block)
        try:
            if end and block[0] & 0xE0 == 0x20:
                position = self._read_size_updates(block)
            # The deliberate fast path: static indexes, and literals of ordinary length that were seen before.
            while position < end:
                first = block[position]
                if first >= 0x80:
                    if 0x80 < first <= 0x80 + _STATIC_LENGTH:
                        fields.append(_STATIC_FIELDS[first - 0x81])
                        position += 1
                    else:
                        position = self._read_indexed(block, position, fields)
                    continue
                if first & 0xE0 == 0x20:
                    raise HpackError("a table size update after a field")
                start = position
                if first == 0x40 or first == 0x00 or first == 0x10:  # noqa: PLR1714 - comparisons beat a set here
                    length = block[position + 1]
                    middle = position + 2 + (length & 0x7F)
                    if length & 0x7F == 0x7F:
                        position = self._read_long(block, start, fields)
                        continue
                elif first == 0x0F or first == 0x1F:  # noqa: PLR1714 - as above
                    # The names in the further part of the static table: content-type, user-agent.
                    middle = position + 2
                    if block[position + 1] >= 0x80:
                        position = self._read_long(block, start, fields)
                        continue
                elif first == 0x7F:
                    position = self._read_long(block, start, fields)
                    continue
                else:
                    middle = position + 1
                length = block[middle]
                if length & 0x7F == 0x7F:
                    position = self._read_long(block, start, fields)
                    continue
                position = middle + 1 + (length & 0x7F)
                raw = block[start:position]
                field = memo.get(raw)
                if field is None:
                    if position > end:
                        raise HpackError("a string longer than its block")
                    name = names.get(raw[1 : middle - start])
                    value = block[middle + 1 : position]
                    if name in _UNKEPT and length < 0x80 and not value.translate(None, _PRINTABLE):
                        # What differs in each call: a plain value under a name that is known.
                        field = (name, value, raw if first != 0x40 else b"\0" + raw[1:])
                    else:
                        field = self._literal(raw, first, middle - start)
                if first >= 0x40 and self._table_size:
                    self._insert(field)
                fields.append(field)
                if len(fields) > most:
                    self._count_rest(block, position, fields)
        except IndexError:
            raise HpackError("a block that ends within a field") from None
        except huffman.HuffmanError as error:
            raise HpackError(str(error)) from None
        # Without a dynamic table, the decoded size is at most 8/5 of the encoded one and 96 for each static index.
        # That the table is empty now says nothing: what a block refers to may have been evicted before its end.
        if self._table_size or end * 2 + len(fields) * 96 > self._max_list:
            size = sum([len(field[0]) + len(field[1]) + _OVERHEAD for field in fields])
            if size > self._max_list:
                self._refuse(size)
        return tuple(fields)

    # ── fields ──

    def _literal(self, raw: bytes, first: int, middle: int) -> Field:
        """A literal whose index and lengths are short: `raw` is all of it, its value string begins at `middle`."""
        index = first & 0x3F if first & 0x40 else first & 0x0F
        if index == 0x0F and first < 0x40:
            index += raw[1]
        name = self._name_at(index) if index else self._name(raw[1:middle])
        length = raw[middle]
        value = raw[middle + 1 :]
        if length & 0x80:
            value = huffman.decode(value)
        if index > _STATIC_LENGTH:
            encoded = encode_field(name, value, never_indexed=first & 0xF0 == 0x10)[2]
        elif first < 0x40:
            encoded = raw
        elif index < 0x0F:
            # Passed on, it must not ask for an entry in somebody's table.
            encoded = bytes((index,)) + raw[1:]
        else:
            encoded = bytes((0x0F, index - 0x0F)) + raw[1:]
        field = (name, value, encoded)
        if value.translate(None, _PRINTABLE):
            self._note_odd(name, value)
        elif first & 0xF0 != 0x10 and name not in _UNKEPT and self.malformed is None and index <= _STATIC_LENGTH:
            self._keep(raw, field)
        return field

    def _keep(self, raw: bytes, field: Field) -> None:
        if len(raw) > _LONGEST_MEMO:
            return
        if len(self._memo) >= _MEMO_ENTRIES:
            self._memo.clear()
        self._memo[raw] = field

    def _name(self, coded: bytes) -> bytes:
        """A literal name with its length byte; the same object each time, so that its hash is known."""
        name = self._names.get(coded)
        if name is None:
            name = coded[1:]
            if coded[0] & 0x80:
                name = huffman.decode(name)
            if self._is_odd_name(name):
                return name
            if len(self._names) >= _NAMES_KEPT:
                self._names.clear()
            self._names[coded] = name
        return name

    def _is_odd_name(self, name: bytes) -> bool:
        bare = name[1:] if name[:1] == b":" else name
        if bare and not bare.translate(None, _NAME_BYTES):
            return False
        self.malformed = b"a field name with characters that no name has"
        return True

    def _note_odd(self, name: bytes, value: bytes) -> None:
        self.strict = False
        if not _FORBIDDEN.isdisjoint(value):
            self.malformed = b"a control character in the value of " + name

    def _name_at(self, index: int) -> bytes:
        if index <= _STATIC_LENGTH:
            return _STATIC[index - 1][0]
        name = self._entry(index)[0]
        self._is_odd_name(name)
        return name

    def _entry(self, index: int) -> Field:
        try:
            return self._entries[index - _STATIC_LENGTH - 1]
        except IndexError:
            raise HpackError(f"index {index} is in no table") from None

    def _read_indexed(self, block: bytes, position: int, fields: list[Field]) -> int:
        index, position = _read_integer(block, position, 7)
        if index == 0:
            raise HpackError("index 0")
        field = _STATIC_FIELDS[index - 1] if index <= _STATIC_LENGTH else self._entry(index)
        if field[1].translate(None, _PRINTABLE):
            self._note_odd(field[0], field[1])
        self._is_odd_name(field[0])
        fields.append(field)
        if len(fields) > self._most:
            self._count_rest(block, position, fields)
        return position

    def _read_long(self, block: bytes, start: int, fields: list[Field]) -> int:
        """A literal with long strings or a large index; counted, as its name may be a large one of the table."""
        position = self._read_literal(block, start, fields)
        if len(fields) > self._most:
            self._count_rest(block, position, fields)
        return position

    def _read_literal(self, block: bytes, start: int, fields: list[Field]) -> int:
        first = block[start]
        index, position = _read_integer(block, start, 6 if first & 0x40 else 4)
        if index:
            name = self._name_at(index)
        else:
            name, position = _read_string(block, position)
            self._is_odd_name(name)
        value, position = _read_string(block, position)
        if value.translate(None, _PRINTABLE):
            self._note_odd(name, value)
        if first & 0x40 or index > _STATIC_LENGTH:
            field = encode_field(name, value, never_indexed=first & 0xF0 == 0x10)
        else:
            field = (name, value, block[start:position])
        if first & 0x40 and self._table_size:
            self._insert(field)
        fields.append(field)
        return position

    def _count_rest(self, block: bytes, position: int, fields: list[Field]) -> NoReturn:
        """More fields than the limit can hold: keep the table in step, keep no field, and say how much it would have been."""
        size = sum(len(field[0]) + len(field[1]) + _OVERHEAD for field in fields)
        end = len(block)
        while position < end:
            kept: list[Field] = []
            first = block[position]
            if first >= 0x80:
                index, position = _read_integer(block, position, 7)
                if index == 0:
                    raise HpackError("index 0")
                kept.append(_STATIC_FIELDS[index - 1] if index <= _STATIC_LENGTH else self._entry(index))
            elif first & 0xE0 == 0x20:
                raise HpackError("a table size update after a field")
            else:
                position = self._read_literal(block, position, kept)
            size += len(kept[0][0]) + len(kept[0][1]) + _OVERHEAD
            if size > self._max_list * _CEILING:
                break
        self._refuse(size)

    def _refuse(self, size: int) -> NoReturn:
        if size > self._max_list * _CEILING:
            raise HpackError("a header list far beyond every limit")
        raise HeaderListTooLarge(size)

    # ── the dynamic table ──

    def _read_size_updates(self, block: bytes) -> int:
        """RFC 7541 §4.2, §6.3: at the start of a block only, and at most the limit."""
        position = 0
        while position < len(block) and block[position] & 0xE0 == 0x20:
            size, position = _read_integer(block, position, 5)
            if size > self._announced:
                raise HpackError(f"a table of {size} bytes, {self._announced} are allowed")
            self._table_size = size
            self._evict()
        if self._table_size <= self._announced:
            self._limit = self._announced
        return position

    def _insert(self, field: Field) -> None:
        size = len(field[0]) + len(field[1]) + _OVERHEAD
        if size > self._table_size:
            # RFC 7541 §4.4: an entry larger than the table empties it.
            self._entries.clear()
            self._size = 0
            return
        self._entries.appendleft(field)
        self._size += size
        self._evict()

    def _evict(self) -> None:
        while self._size > self._table_size:
            name, value, _ = self._entries.pop()
            self._size -= len(name) + len(value) + _OVERHEAD


def _read_integer(block: bytes, position: int, prefix: int) -> tuple[int, int]:
    """(value, position after it), RFC 7541 §5.1. Raises HpackError beyond 2^31, IndexError at the end of the block."""
    mask = (1 << prefix) - 1
    value = block[position] & mask
    position += 1
    if value < mask:
        return value, position
    shift = 0
    while True:
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if value > 0x7FFFFFFF or shift > 35:
            raise HpackError("an integer beyond every length")
        if not byte & 0x80:
            return value, position


def _read_string(block: bytes, position: int) -> tuple[bytes, int]:
    """(string, position after it), RFC 7541 §5.2."""
    is_coded = block[position] & 0x80
    length, position = _read_integer(block, position, 7)
    stop = position + length
    if stop > len(block):
        raise HpackError("a string longer than its block")
    text = block[position:stop]
    return (huffman.decode(text) if is_coded else text), stop
