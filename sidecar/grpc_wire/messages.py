"""The five-byte prefix of a gRPC message: split and join; the compressed flag is kept, nothing is decompressed."""

from __future__ import annotations

from struct import Struct

_PREFIX = Struct(">BI")


class MalformedMessage(ValueError):
    """A prefix whose flag byte is neither 0 nor 1."""


class MessageTooLarge(ValueError):
    """The prefix announces more than is allowed; none of it is kept."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a message of {size} bytes, {limit} are allowed")
        self.size = size
        self.limit = limit


def frame(payload: bytes, *, compressed: bool = False) -> bytes:
    """A message with its prefix."""
    return _PREFIX.pack(compressed, len(payload)) + payload


class MessageReader:
    """Finds messages in a stream of bytes, however it is cut. Holds at most one message of `limit` bytes."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The messages that `data` completes, as (flag, payload). Raises MessageTooLarge, MalformedMessage."""
        buffer = self._buffer
        buffer += data
        messages = []
        position = 0
        available = len(buffer)
        while available - position >= 5:
            flag, size = _PREFIX.unpack_from(buffer, position)
            if flag > 1:
                raise MalformedMessage(f"a message with flag {flag}; 0 and 1 are defined")
            if size > self._limit:
                raise MessageTooLarge(size, self._limit)
            stop = position + 5 + size
            if stop > available:
                break
            messages.append((flag, bytes(buffer[position + 5 : stop])))
            position = stop
        if position:
            del buffer[:position]
        return messages

    @property
    def is_between_messages(self) -> bool:
        """Would an end here cut no message?"""
        return not self._buffer
