"""Huffman coding of header strings: the vectors of RFC 7541, and every way in which a string is not one."""

from __future__ import annotations

import pytest

from sidecar.http2 import huffman

# RFC 7541 Appendix C.4 and C.6.
VECTORS = [
    (b"www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
    (b"no-cache", "a8eb10649cbf"),
    (b"custom-key", "25a849e95ba97d7f"),
    (b"custom-value", "25a849e95bb8e8b4bf"),
    (b"302", "6402"),
    (b"307", "640eff"),
    (b"private", "aec3771a4b"),
    (b"gzip", "9bd9ab"),
    (b"Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
    (b"https://www.example.com", "9d29ad171863c78f0b97c8e9ae82ae43d3"),
    (
        b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
        "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
    ),
]


@pytest.mark.parametrize(("text", "coded"), VECTORS, ids=lambda each: each[:12])
def test_vectors_of_the_rfc_both_ways(text: bytes, coded: str) -> None:
    assert huffman.encode(text).hex() == coded
    assert huffman.decode(bytes.fromhex(coded)) == text


def test_nothing_is_nothing() -> None:
    assert huffman.encode(b"") == b""
    assert huffman.decode(b"") == b""


def test_every_byte_alone_comes_back() -> None:
    for byte in range(256):
        assert huffman.decode(huffman.encode(bytes((byte,)))) == bytes((byte,))


def test_every_pair_of_bytes_comes_back() -> None:
    """Each symbol begins at each bit of a byte, so that rows link rightly wherever a code was cut."""
    for first in range(256):
        text = b"".join(bytes((first, second)) for second in range(256))
        assert huffman.decode(huffman.encode(text)) == text


def test_a_string_may_end_with_up_to_seven_ones() -> None:
    # "0" is 00000, so n of them are followed by -5n mod 8 ones; with eight, by none.
    for count in range(1, 9):
        padding = -5 * count % 8
        coded = ((1 << padding) - 1).to_bytes((5 * count + padding) // 8, "big")
        assert huffman.encode(b"0" * count) == coded
        assert huffman.decode(coded) == b"0" * count


@pytest.mark.parametrize(
    "coded",
    [
        pytest.param(b"\xff", id="a byte of padding alone"),
        pytest.param(b"\xff\xff", id="two bytes of padding"),
        pytest.param(huffman.encode(b"0") + b"\xff", id="eleven ones behind a symbol"),
        pytest.param(huffman.encode(b"&") + b"\xff", id="eight ones behind a symbol that ends a byte"),
        pytest.param(huffman.encode(b"abc") + b"\xff\xff\xff", id="many ones behind a word"),
    ],
)
def test_longer_padding_is_refused(coded: bytes) -> None:
    with pytest.raises(huffman.HuffmanError, match="padding"):
        huffman.decode(coded)


@pytest.mark.parametrize("padding", range(7))
def test_padding_other_than_ones_is_refused(padding: int) -> None:
    # "0" is 00000; what follows is not the beginning of EOS, and completes no symbol.
    with pytest.raises(huffman.HuffmanError, match="padding"):
        huffman.decode(bytes((padding,)))


def test_a_code_that_is_cut_is_refused() -> None:
    for symbol in range(256):
        coded = huffman.encode(bytes((symbol,)))
        for end in range(1, len(coded)):
            with pytest.raises(huffman.HuffmanError, match="padding"):
                huffman.decode(coded[:end])


@pytest.mark.parametrize(
    "coded",
    [
        pytest.param(b"\xff\xff\xff\xff", id="EOS alone"),
        pytest.param(b"\xff\xff\xff\xfc", id="EOS padded with zeros"),
        pytest.param(b"\x07\xff\xff\xff\xff", id="EOS behind a symbol"),
        pytest.param(b"\xff" * 64, id="EOS, and more"),
    ],
)
def test_eos_within_a_string_is_refused(coded: bytes) -> None:
    with pytest.raises(huffman.HuffmanError):
        huffman.decode(coded)


def test_a_refused_string_leaves_the_tables_as_they_were() -> None:
    for _ in range(2):
        with pytest.raises(huffman.HuffmanError):
            huffman.decode(b"\xff\xff\xff\xff")
        assert huffman.decode(bytes.fromhex("f1e3c2e5f23a6ba0ab90f4ff")) == b"www.example.com"
