"""Rich error details: google.rpc.Status and its companions, written and read without protobuf, which the data path lacks.

Sources: googleapis `google/rpc/status.proto`, `error_details.proto`; AIP-193 (ErrorInfo on every error, each type at most once).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

_TYPE = "type.googleapis.com/google.rpc."


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """Why, in words for machines: `reason` in upper snake case, `domain` of whoever says it, the variable parts."""

    reason: str
    domain: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RetryInfo:
    """Repeat after `seconds`, not before."""

    seconds: float


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    subject: str
    description: str


@dataclass(frozen=True, slots=True)
class QuotaFailure:
    """Whose quota ran out, and which."""

    violations: tuple[QuotaViolation, ...]


@dataclass(frozen=True, slots=True)
class FieldViolation:
    field: str
    description: str


@dataclass(frozen=True, slots=True)
class BadRequest:
    """Which fields of the request are wrong."""

    violations: tuple[FieldViolation, ...]


@dataclass(frozen=True, slots=True)
class PreconditionViolation:
    type: str
    subject: str
    description: str


@dataclass(frozen=True, slots=True)
class PreconditionFailure:
    """What must change before repeating helps."""

    violations: tuple[PreconditionViolation, ...]


Detail: TypeAlias = ErrorInfo | RetryInfo | QuotaFailure | BadRequest | PreconditionFailure


@dataclass(frozen=True, slots=True)
class Status:
    """A google.rpc.Status: details of types that are not known here stay as (type URL, bytes)."""

    code: int
    message: str
    details: tuple[Detail | tuple[str, bytes], ...] = ()


# ── writing ──


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# Field numbers here are below 16 and most lengths below 128: one byte each.
_ONE_BYTE = [bytes([each]) for each in range(0x80)]


def _bytes(number: int, data: bytes) -> bytes:
    size = len(data)
    return _ONE_BYTE[number << 3 | 2] + (_ONE_BYTE[size] if size < 0x80 else _varint(size)) + data


def _text(number: int, text: str) -> bytes:
    return _bytes(number, text.encode("utf-8", "replace")) if text else b""


def _number(number: int, value: int) -> bytes:
    # Negative numbers are ten bytes of two's complement (protobuf encoding, "Signed Integers").
    return _varint(number << 3) + _varint(value & 0xFFFFFFFFFFFFFFFF) if value else b""


_URLS = {
    kind: _text(1, _TYPE + kind)
    for kind in ("ErrorInfo", "RetryInfo", "QuotaFailure", "BadRequest", "PreconditionFailure")
}


def _encode(detail: Detail) -> tuple[bytes, bytes]:
    """(the encoded type URL, message) of one detail."""
    if isinstance(detail, ErrorInfo):
        entries = b"".join(_bytes(3, _text(1, key) + _text(2, value)) for key, value in detail.metadata.items())
        return _URLS["ErrorInfo"], _text(1, detail.reason) + _text(2, detail.domain) + entries
    if isinstance(detail, RetryInfo):
        nanoseconds = round(detail.seconds * 1e9)
        seconds, nanos = divmod(nanoseconds, 1_000_000_000)
        return _URLS["RetryInfo"], _bytes(1, _number(1, seconds) + _number(2, nanos))
    if isinstance(detail, QuotaFailure):
        return _URLS["QuotaFailure"], b"".join(
            _bytes(1, _text(1, each.subject) + _text(2, each.description)) for each in detail.violations
        )
    if isinstance(detail, BadRequest):
        return _URLS["BadRequest"], b"".join(
            _bytes(1, _text(1, each.field) + _text(2, each.description)) for each in detail.violations
        )
    return _URLS["PreconditionFailure"], b"".join(
        _bytes(1, _text(1, each.type) + _text(2, each.subject) + _text(3, each.description))
        for each in detail.violations
    )


def encode_status(code: int, message: str, details: Iterable[Detail]) -> bytes:
    """A serialized google.rpc.Status, as it goes (base64) into `grpc-status-details-bin`."""
    parts = [_number(1, code), _text(2, message)]
    for detail in details:
        url, body = _encode(detail)
        parts.append(_bytes(3, url + _bytes(2, body)))
    return b"".join(parts)


# ── reading ──


def decode_status(data: bytes) -> Status:
    """Read what anybody may have written. Raises ValueError on anything that is no google.rpc.Status."""
    code, message = 0, ""
    details: list[Detail | tuple[str, bytes]] = []
    for number, value in _fields(data):
        if number == 1 and isinstance(value, int):
            code = _signed(value, 32)
        elif number == 2 and isinstance(value, bytes):
            message = value.decode("utf-8", "replace")
        elif number == 3 and isinstance(value, bytes):
            url, body = _two_texts(value)
            details.append(_decode(url, body))
    return Status(code, message, tuple(details))


def _decode(url: str, body: bytes) -> Detail | tuple[str, bytes]:
    name = url.removeprefix(_TYPE)
    if name == "ErrorInfo":
        texts: dict[int, str] = {}
        metadata: dict[str, str] = {}
        for number, value in _fields(body):
            if isinstance(value, bytes):
                if number == 3:
                    key, text = _two_texts(value)
                    metadata[key] = text.decode("utf-8", "replace")
                else:
                    texts[number] = value.decode("utf-8", "replace")
        return ErrorInfo(texts.get(1, ""), texts.get(2, ""), metadata)
    if name == "RetryInfo":
        delay = next((value for number, value in _fields(body) if number == 1 and isinstance(value, bytes)), b"")
        numbers = {number: value for number, value in _fields(delay) if isinstance(value, int)}
        return RetryInfo((_signed(numbers.get(1, 0), 64) * 1_000_000_000 + _signed(numbers.get(2, 0), 32)) / 1e9)
    if name == "QuotaFailure":
        return QuotaFailure(tuple(QuotaViolation(texts[1], texts[2]) for texts in _violations(body)))
    if name == "BadRequest":
        return BadRequest(tuple(FieldViolation(texts[1], texts[2]) for texts in _violations(body)))
    if name == "PreconditionFailure":
        return PreconditionFailure(
            tuple(PreconditionViolation(texts[1], texts[2], texts[3]) for texts in _violations(body))
        )
    return url, body


def _violations(body: bytes) -> Iterator[dict[int, str]]:
    for number, value in _fields(body):
        if number == 1 and isinstance(value, bytes):
            texts = {1: "", 2: "", 3: ""}
            for inner, text in _fields(value):
                if isinstance(text, bytes):
                    texts[inner] = text.decode("utf-8", "replace")
            yield texts


def _two_texts(data: bytes) -> tuple[str, bytes]:
    first, second = b"", b""
    for number, value in _fields(data):
        if isinstance(value, bytes):
            if number == 1:
                first = value
            elif number == 2:
                second = value
    return first.decode("utf-8", "replace"), second


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message. Raises ValueError when it is none."""
    position, end = 0, len(data)
    while position < end:
        key, position = _read_varint(data, position)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("field number 0")
        if kind == 0:
            value, position = _read_varint(data, position)
            yield number, value
            continue
        if kind == 2:
            size, position = _read_varint(data, position)
        elif kind in {1, 5}:
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if position + size > end:
            raise ValueError("a field longer than its message")
        if kind == 2:
            yield number, data[position : position + size]
        position += size


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise ValueError("a number without end")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
