"""What a compressed message holds: gzip and deflate, never more of it than is allowed (gRPC compression.md).

Only policies that read messages ask; what merely passes stays as it came.
"""

from __future__ import annotations

import zlib

from sidecar.grpc_wire.messages import MessageTooLarge

_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}
"""RFC 1952 with its header, RFC 1950 with its own: gRPC's deflate is zlib's format."""


class UnknownEncoding(ValueError):
    """A message says that it is compressed, and nobody knows how."""


class CorruptMessage(ValueError):
    """A message that is not what its encoding says."""


def encoding_of(fields: list[tuple[bytes, bytes, bytes]]) -> bytes:
    """The `grpc-encoding` of a header block; `identity` when there is none."""
    for field in fields:
        if field[0] == b"grpc-encoding":
            return field[1]
    return b"identity"


def unpack(message: bytes, encoding: bytes | None, limit: int) -> bytes:
    """The payload of `message`, which has its five-byte prefix, decompressed if its flag says so.

    Raises UnknownEncoding, CorruptMessage, and MessageTooLarge when it holds more than `limit` bytes.
    """
    if not message[0]:
        return message[5:]
    bits = _WINDOW_BITS.get(encoding or b"")
    if bits is None:
        # Neither is a compressed message without an encoding legal, nor can another one be read.
        shown = (encoding or b"none").decode("latin-1")[:32]
        raise UnknownEncoding(f"a compressed message with grpc-encoding {shown!r}; gzip and deflate can be read")
    return _inflate(message[5:], bits, limit)


def _inflate(data: bytes, bits: int, limit: int) -> bytes:
    out = b""
    # A gzip file may have several members (RFC 1952 §2.2). Whoever reads the first alone misses what others would read.
    while True:
        inflater = zlib.decompressobj(bits)
        try:
            out += inflater.decompress(data, limit + 1 - len(out))
        except zlib.error as error:
            raise CorruptMessage("the message does not decompress") from error
        if len(out) > limit:
            raise MessageTooLarge(len(out), limit)
        if not inflater.eof:
            raise CorruptMessage("the compressed message is cut off")
        data = inflater.unused_data
        if not data:
            return out
        if bits != _WINDOW_BITS[b"gzip"]:
            raise CorruptMessage("something follows the compressed message")
