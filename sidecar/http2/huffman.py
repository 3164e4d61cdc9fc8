"""Huffman coding of header strings (RFC 7541 §5.2, Appendix B).

The code is canonical: the lengths of the codes, in order of their symbols, determine all of them. Decoding goes byte by byte
through rows that link to rows (`for byte in data: row, out = row[byte]`); an entry is computed when it is first met, so
importing costs nothing and a peer that never uses Huffman costs no memory.
"""

from __future__ import annotations

_LENGTHS = tuple(
    map(
        int,
        """
    13 23 28 28 28 28 28 28 28 24 30 28 28 30 28 28 28 28 28 28 28 28 30 28 28 28 28 28 28 28 28 28 6 10 10 12 13
    6 8 11 10 10 8 11 8 6 6 6 5 5 5 6 6 6 6 6 6 6 7 8 15 6 12 10 13 6 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7
    8 7 8 13 19 13 14 6 15 5 6 5 6 5 6 6 6 5 7 7 6 6 6 5 6 7 6 5 5 6 7 7 7 7 7 15 11 14 13 28 20 22 20 20 22 22 22
    23 22 23 23 23 23 23 24 23 24 24 22 23 24 23 23 23 23 21 22 23 22 23 23 24 22 21 20 22 22 23 23 21 23 22 22 24
    21 22 23 23 21 21 22 21 23 22 23 23 20 22 22 22 23 22 22 23 26 26 20 19 22 23 22 25 26 26 26 27 27 26 24 25 19
    21 26 27 27 26 27 24 21 21 26 26 28 27 27 27 20 24 20 21 22 21 21 23 22 22 25 25 24 24 26 23 26 27 26 26 27 27
    27 27 27 28 27 27 27 27 27 26 30
    """.split(),
    )
)
_EOS = 256


class HuffmanError(ValueError):
    """The string is not a Huffman-coded one (RFC 7541 §5.2: wrong padding, or EOS inside)."""


def _canonical() -> list[tuple[int, int]]:
    """(code, length in bits) of each symbol."""
    codes = [(0, 0)] * 257
    code = 0
    previous = 0
    for symbol in sorted(range(257), key=lambda each: (_LENGTHS[each], each)):
        length = _LENGTHS[symbol]
        code <<= length - previous
        previous = length
        codes[symbol] = (code, length)
        code += 1
    return codes


_Row = list["tuple[_Row, bytes]"]
"""What each byte does in one state: (the row of the next state, the symbols it completed)."""

# Entries lead here until they are known, and from here nowhere else: a string that ends here is to be read slowly.
_UNKNOWN: _Row = []
_UNKNOWN.extend([(_UNKNOWN, b"")] * 256)


class _Tree:
    """The code as a binary tree: `branches[node][bit]` is a node, or -1 - symbol."""

    def __init__(self) -> None:
        self.branches: list[list[int]] = [[0, 0]]
        # RFC 7541 §5.2: a string may end behind a symbol, or up to seven ones further.
        self.ends = {0}
        for symbol, (code, length) in enumerate(_canonical()):
            self._insert(symbol, code, length)
        node = 0
        for _ in range(7):
            node = self.branches[node][1]
            self.ends.add(node)

    def _insert(self, symbol: int, code: int, length: int) -> None:
        node = 0
        for position in range(length - 1, 0, -1):
            bit = code >> position & 1
            following = self.branches[node][bit]
            if following == 0:
                following = len(self.branches)
                self.branches.append([0, 0])
                self.branches[node][bit] = following
            node = following
        self.branches[node][code & 1] = -1 - symbol

    def walk(self, node: int, byte: int) -> tuple[int, bytes]:
        """(next node, symbols completed) of eight bits. Raises HuffmanError at EOS."""
        out = bytearray()
        for position in range(7, -1, -1):
            node = self.branches[node][byte >> position & 1]
            if node < 0:
                symbol = -1 - node
                if symbol == _EOS:
                    raise HuffmanError("EOS inside a Huffman-coded string")
                out.append(symbol)
                node = 0
        return node, bytes(out)


class _Codec:
    """The tables, made as far as they are needed."""

    def __init__(self) -> None:
        self._tree: _Tree | None = None
        self._root = _UNKNOWN
        self._rows: dict[int, _Row] = {}
        # Identities of the rows in whose state a string may end; rows live as long as this.
        self._ends: set[int] = set()
        self._outs: dict[bytes, bytes] = {}
        self._codes: list[tuple[int, int]] | None = None

    def decode(self, data: bytes) -> bytes:
        # The deliberate fast path: nothing is tested for each byte. Plain lists, as a dict with __missing__ costs 1.6 times as much.
        row = self._root
        parts = []
        for byte in data:
            row, out = row[byte]
            parts.append(out)
        if id(row) not in self._ends:
            return self._decode_slowly(data)
        return b"".join(parts)

    def _decode_slowly(self, data: bytes) -> bytes:
        """Fill in the entries that were not known, or say what is wrong with the string."""
        tree = self._tree
        if tree is None:
            tree = self._tree = _Tree()
            self._root = self._row(tree, 0)
        parts = []
        node = 0
        for byte in data:
            row = self._row(tree, node)
            node, out = tree.walk(node, byte)
            parts.append(out)
            row[byte] = (self._row(tree, node), self._outs.setdefault(out, out))
        if node not in tree.ends:
            raise HuffmanError("padding of a Huffman-coded string is too long, or not all ones")
        return b"".join(parts)

    def _row(self, tree: _Tree, node: int) -> _Row:
        row = self._rows.get(node)
        if row is None:
            row = self._rows[node] = _UNKNOWN.copy()
            if node in tree.ends:
                self._ends.add(id(row))
        return row

    def encode(self, text: bytes) -> bytes:
        codes = self._codes
        if codes is None:
            codes = self._codes = _canonical()
        value, bits = 0, 0
        for byte in text:
            code, length = codes[byte]
            value = value << length | code
            bits += length
        padding = -bits % 8
        return (value << padding | (1 << padding) - 1).to_bytes((bits + padding) // 8, "big")


_CODEC = _Codec()
decode = _CODEC.decode
"""Decode a Huffman-coded string. Raises HuffmanError."""
encode = _CODEC.encode
"""Encode a string, padded with ones."""
