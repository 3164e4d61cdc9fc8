"""The answers that are kept: by key, the one used longest ago goes first; and the flights that bring new ones. Pure, `now` comes in.

A flight is one RPC that fetches an answer for all who ask for the same meanwhile. What is forgotten while it is under way is forgotten
for it, too: it may have read what was there before.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clock import Turn
    from sidecar.http2.hpack import Field

_OVERHEAD = 512
"""Bytes that an entry takes beside its fields and messages."""


class Kept:
    """One answer, complete and OK."""

    __slots__ = ("expires", "headers", "made", "messages", "method", "size", "trailers")

    def __init__(
        self, method: str, headers: list[Field], messages: bytes, trailers: list[Field], *, made: float, expires: float
    ) -> None:
        """`made`, `expires`: monotonic seconds."""
        self.method = method
        self.headers = headers
        self.messages = messages
        self.trailers = trailers
        self.made = made
        self.expires = expires
        fields = sum(len(field[0]) + len(field[1]) for field in (*headers, *trailers))
        self.size = _OVERHEAD + len(messages) + 2 * fields


class Flight:
    """Who fetches an answer, and who waits for it. `kept`: what came; `is_lost`: nothing did, and somebody else may try."""

    __slots__ = ("has_landed", "is_current", "is_lost", "kept", "key", "method", "waiting")

    def __init__(self, key: bytes, method: str) -> None:
        self.key = key
        self.method = method
        self.waiting: list[Turn] = []
        self.kept: Kept | None = None
        self.is_lost = False
        self.has_landed = False
        # Nothing was forgotten since it began.
        self.is_current = True


class Answers:
    """Bounded by their number and by their bytes. `dropped` is told why entries went, and how many."""

    def __init__(self, max_entries: int, max_bytes: int, dropped: Callable[[str, int], None]) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._dropped = dropped
        # The one used longest ago stands first.
        self._entries: OrderedDict[bytes, Kept] = OrderedDict()
        self._flights: dict[bytes, Flight] = {}
        self._running: set[Flight] = set()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: bytes, now: float) -> Kept | None:
        """What is kept under `key` and still fresh."""
        found = self._entries.get(key)
        if found is None:
            return None
        if now >= found.expires:
            self._drop(key)
            self._dropped("expired", 1)
            return None
        self._entries.move_to_end(key)
        return found

    def flight(self, key: bytes) -> Flight | None:
        """The one that one may wait for."""
        return self._flights.get(key)

    def begin(self, key: bytes, method: str, *, alone: bool = False) -> Flight:
        """A flight that is to bring the answer; nobody joins one that is `alone`."""
        flight = Flight(key, method)
        if not alone:
            self._flights[key] = flight
        self._running.add(flight)
        return flight

    def land(self, flight: Flight, kept: Kept | None, *, is_lost: bool = False) -> bool:
        """It ends, once: whoever waits is woken; True = the answer is kept."""
        if flight not in self._running:
            return False
        self._running.discard(flight)
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
        flight.kept = kept
        flight.is_lost = is_lost
        flight.has_landed = True
        stays = kept is not None and flight.is_current and self._keep(flight.key, kept)
        waiting, flight.waiting = flight.waiting, []
        for turn in waiting:
            turn.give()
        return stays

    def forget(self, matches: Callable[[str], bool], why: str) -> int:
        """Drop the answers of these methods, whatever is under way included; how many were kept."""
        gone = [key for key, each in self._entries.items() if matches(each.method)]
        for key in gone:
            self._drop(key)
        for flight in self._running:
            if matches(flight.method):
                flight.is_current = False
                if self._flights.get(flight.key) is flight:
                    # Who asks from now on must not be given what may be from before.
                    del self._flights[flight.key]
        if gone:
            self._dropped(why, len(gone))
        return len(gone)

    def _keep(self, key: bytes, kept: Kept) -> bool:
        if kept.size > self._max_bytes:
            return False
        if key in self._entries:
            self._drop(key)
        self._entries[key] = kept
        self.bytes += kept.size
        pushed_out = 0
        while len(self._entries) > self._max_entries or self.bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))
            pushed_out += 1
        if pushed_out:
            self._dropped("full", pushed_out)
        return True

    def _drop(self, key: bytes) -> None:
        self.bytes -= self._entries.pop(key).size
