"""Header blocks as one peer sends them, and what it repeats.

Why not just decode? A peer's requests differ in a few fields (ids, traces, timeouts) and repeat the rest byte for byte, first.
Stateless HPACK (no dynamic table) makes parsing a pure function of the bytes, so the repeated beginning is decoded once
and recognised by one comparison; its findings (`Beginning.note`) are kept with it. Responses repeat whole blocks.
Fields that are secrets end a beginning, so no secret is kept.
"""

from __future__ import annotations

from sidecar.http2.hpack import Decoder, Field

_SECRET = frozenset({b"authorization", b"cookie", b"proxy-authorization", b"set-cookie", b"x-api-key"})
_SHORTEST_BEGINNING = 4
"""Fields; below that the comparison saves nothing."""
_BEGINNINGS_KEPT = 16
_WHOLE_KEPT = 128
_LONGEST_WHOLE = 512


class Beginning:
    """The fields with which several blocks of a peer begin. `note` is a place for the receiver's findings about them."""

    __slots__ = ("encoded", "fields", "index", "is_request", "note")

    def __init__(self, encoded: bytes, fields: tuple[Field, ...]) -> None:
        self.encoded = encoded
        self.fields = fields
        self.index = {field[0]: field[1] for field in fields}
        self.note: object | None = None
        self.is_request: bool | None = None
        """Is it a well-formed request by itself? None = nobody has looked."""


class HeaderBlock:
    """A decoded header list: a known beginning, if any, and the rest. `note` is a place for findings about all of it."""

    __slots__ = ("_fields", "_index", "beginning", "note", "rest")

    def __init__(self, beginning: Beginning | None, rest: tuple[Field, ...]) -> None:
        self.beginning = beginning
        self.rest = rest
        self.note: object | None = None
        self._fields: tuple[Field, ...] | None = None
        self._index: dict[bytes, bytes] | None = None

    @property
    def fields(self) -> tuple[Field, ...]:
        """All fields in their order."""
        fields = self._fields
        if fields is None:
            fields = self._fields = self.rest if self.beginning is None else self.beginning.fields + self.rest
        return fields

    @property
    def index(self) -> dict[bytes, bytes]:
        """Each name with its last value."""
        index = self._index
        if index is None:
            index = self._index = {} if self.beginning is None else dict(self.beginning.index)
            for field in self.rest:
                index[field[0]] = field[1]
        return index

    def get(self, name: bytes) -> bytes | None:
        """The last value of `name`, without building an index."""
        for field in reversed(self.rest):
            if field[0] == name:
                return field[1]
        return None if self.beginning is None else self.beginning.index.get(name)


class BlockReader:
    """Decodes the blocks of one peer. Exceptions are the decoder's: HpackError, HeaderListTooLarge."""

    __slots__ = ("_beginnings", "_decoder", "_max_list", "_seen", "_whole", "malformed", "stateless")

    def __init__(self, decoder: Decoder, *, max_list: int, whole: dict[bytes, HeaderBlock] | None) -> None:
        """`whole`: where to keep whole blocks of a peer that answers requests, as those are the same from end to end."""
        self._decoder = decoder
        self._max_list = max_list
        self._beginnings: list[Beginning] = []
        self._whole = whole
        self._seen: set[int] = set()
        self.malformed: bytes | None = None
        """Why the block that was just read is malformed (RFC 9113 §8.2.1), or None."""
        self.stateless = False
        """True once the peer has given up its dynamic table."""

    def read(self, block: bytes) -> HeaderBlock:
        if not self.stateless:
            return self._decode(block)
        if self._whole is not None:
            headers = self._whole.get(block)
            if headers is not None:
                self.malformed = None
                return headers
            headers = self._decode(block)
            self._keep_whole(block, headers, self._whole)
            return headers
        beginnings = self._beginnings
        for position, beginning in enumerate(beginnings):
            if block.startswith(beginning.encoded):
                if position:
                    # The one in use is found first.
                    beginnings[position], beginnings[position - 1] = beginnings[position - 1], beginning
                tail = block[len(beginning.encoded) :]
                if tail and tail[0] & 0xE0 == 0x20:
                    # A table size update in the middle of a block: the decoder shall say what is wrong with that.
                    break
                rest = self._decoder.decode(tail)
                # The decoded size is at most this (hpack.py, `decode`); beyond, the decoder shall count all of it.
                if len(block) * 2 + (len(beginning.fields) + len(rest)) * 96 > self._max_list:
                    break
                self._judge()
                return HeaderBlock(beginning, rest)
        headers = self._decode(block)
        if self.malformed is None:
            self._learn(block, headers.rest)
        return headers

    def _decode(self, block: bytes) -> HeaderBlock:
        rest = self._decoder.decode(block)
        self._judge()
        self.stateless = self._decoder.is_stateless
        return HeaderBlock(None, rest)

    def _judge(self) -> None:
        decoder = self._decoder
        self.malformed = decoder.malformed
        if self.malformed is None and not decoder.strict and self._whole is None:
            # PROTOCOL-HTTP2: a caller's values are printable ASCII. Those of an agent go on as they are.
            self.malformed = b"a value that is not printable ASCII"

    def _keep_whole(self, block: bytes, headers: HeaderBlock, whole: dict[bytes, HeaderBlock]) -> None:
        """Admit a block at its second sighting: blocks that never repeat must not push out those that do."""
        if len(block) > _LONGEST_WHOLE or self.malformed is not None or b"content-length" in headers.index:
            return
        digest = hash(block)
        if digest not in self._seen:
            if len(self._seen) >= 4 * _WHOLE_KEPT:
                self._seen.clear()
            self._seen.add(digest)
        elif not any(field[0] in _SECRET for field in headers.rest):
            if len(whole) >= _WHOLE_KEPT:
                whole.clear()
            whole[block] = headers

    def _learn(self, block: bytes, fields: tuple[Field, ...]) -> None:
        """Keep the beginning of `block`: what it shares with one that is known, else as much of it as is no secret."""
        if block and block[0] & 0xE0 == 0x20:
            return
        for position, known in enumerate(self._beginnings):
            shared = 0
            for ours, theirs in zip(fields, known.fields, strict=False):
                if ours[:2] != theirs[:2]:
                    break
                shared += 1
            if shared >= _SHORTEST_BEGINNING:
                self._beginnings[position] = Beginning(block[: _end_of(block, shared)], fields[:shared])
                return
        count = next((i for i, field in enumerate(fields) if field[0] in _SECRET), len(fields))
        if count >= _SHORTEST_BEGINNING:
            if len(self._beginnings) >= _BEGINNINGS_KEPT:
                self._beginnings.pop()
            self._beginnings.insert(0, Beginning(block[: _end_of(block, count)], fields[:count]))


def _end_of(block: bytes, count: int) -> int:
    """Where the first `count` fields of a well-formed block without size updates end (RFC 7541 §6)."""
    position = 0
    for _ in range(count):
        first = block[position]
        if first & 0x80:
            _, position = _integer(block, position, 7)
            continue
        name, position = _integer(block, position, 6 if first & 0x40 else 4)
        for _ in range(1 if name else 2):
            length, position = _integer(block, position, 7)
            position += length
    return position


def _integer(block: bytes, position: int, prefix: int) -> tuple[int, int]:
    """(value, position after it), RFC 7541 §5.1."""
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
        if not byte & 0x80:
            return value, position
