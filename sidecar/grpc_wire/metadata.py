"""Metadata: which names go where, which bytes are allowed, and the two encodings (grpc/grpc `doc/PROTOCOL-HTTP2.md`)."""

from __future__ import annotations

import base64
import binascii
import re

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"host",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Names that belong to one hop; `te` is one as well, but gRPC needs `te: trailers` on each."""
OWN_PREFIX = b"x-sidecar-"

is_valid_path = re.compile(rb"/[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*/[A-Za-z_][A-Za-z0-9_]*").fullmatch
"""`/package.Service/Method` of the characters that proto names have; a match object or None."""

_PRINTABLE = bytes(range(0x20, 0x7F))
# PROTOCOL-HTTP2: printable ASCII except the percent sign goes as it is.
_PLAIN = frozenset(range(0x20, 0x7F)) - {0x25}
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")


def is_hop_by_hop(name: bytes) -> bool:
    return name in HOP_BY_HOP


def is_own(name: bytes) -> bool:
    """Is this a name that only a sidecar may set?"""
    return name.startswith(OWN_PREFIX)


def is_valid_value(value: bytes) -> bool:
    """Printable ASCII, as gRPC asks of values that are not binary."""
    return not value.translate(None, _PRINTABLE)


def is_grpc_content_type(value: bytes) -> bool:
    """`application/grpc`, with a suffix `+proto` or parameters; not grpc-web, which is another protocol."""
    value = value.lower()
    return value == b"application/grpc" or value.startswith((b"application/grpc+", b"application/grpc;"))


def percent_encode(text: str) -> bytes:
    """A status message as it goes into `grpc-message`."""
    data = text.encode("utf-8", "replace")
    if data.isascii() and b"%" not in data and not data.translate(None, _PRINTABLE):
        return data
    return b"".join([bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in data])


def percent_decode(value: bytes) -> str:
    """The message of a `grpc-message`; what is no valid sequence stays as it is, bad UTF-8 is replaced."""
    if b"%" in value:
        value = _PERCENT.sub(lambda match: bytes((int(match[1], 16),)), value)
    return value.decode("utf-8", "replace")


def encode_binary(data: bytes) -> bytes:
    """The value of a `-bin` field: base64 without padding."""
    return base64.b64encode(data).rstrip(b"=")


def decode_binary(value: bytes) -> list[bytes]:
    """The values of a `-bin` field, which may be joined by commas, padded or not. Raises ValueError."""
    try:
        return [base64.b64decode(part + b"=" * (-len(part) % 4), validate=True) for part in value.split(b",")]
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None


def truncate_message(text: str, limit: int = 1024) -> str:
    """At most `limit` bytes of UTF-8: callers in Java refuse header lists above 8 KiB, whatever is in them."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return text
    return data[: limit - 3].decode("utf-8", "ignore") + "…"
