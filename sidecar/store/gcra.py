"""The generic cell rate algorithm: one number per key says when the next one would be on time (ITU-T I.371).

Why whole nanoseconds? A burst is passed one by one within the same instant; with floats the rounding of a hundred
additions decides whether the last one passes. Integers count exactly, and an interval rounded up lets no more through.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

NANOSECONDS = 1_000_000_000
_KEY_TEXT = 256
"""Characters of a key that are kept as they are; longer ones are kept as a digest, as callers choose them."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a key may go: one each `interval` nanoseconds, and up to `burst` of them at once."""

    interval: int
    burst: int

    @classmethod
    def of(cls, count: int, per_seconds: float, burst: int) -> Pace:
        """`count` in `per_seconds`; the interval is rounded up, so that the rate is never exceeded."""
        return cls(max(1, -(-round(per_seconds * NANOSECONDS) // count)), burst)

    @property
    def slack(self) -> int:
        """Nanoseconds that an arrival may be ahead of its time."""
        return (self.burst - 1) * self.interval

    @property
    def span(self) -> int:
        """Nanoseconds after which a key that used up its burst has all of it again."""
        return self.burst * self.interval


def advance(due: int, now: int, pace: Pace, quantity: int) -> tuple[int, int]:
    """One transition of a key that is due at `due`: (nanoseconds to wait, 0 = passed; when it is due afterwards).

    A `quantity` above the burst never passes; a negative one gives back. A `due` further ahead than a whole burst
    comes from a clock that was set back or from a pace that has changed; it is cut to that burst.
    """
    due = min(max(due, now), now + pace.span)
    after = due + quantity * pace.interval
    wait = after - now - pace.span
    if quantity > 0 and wait > 0:
        return wait, due
    return 0, max(after, now)


class Buckets:
    """The keys of one local limit, bounded: at most `capacity`, those used last.

    Two halves instead of a linked list: what is used moves to the young half; when that is full, the old half is
    dropped and the young one becomes old. A key that is dropped has its whole burst again, and nothing more.
    """

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, capacity: int = 100_000) -> None:
        self._half = max(1, capacity // 2)
        self._young: dict[Hashable, int] = {}
        self._old: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def take(self, key: Hashable, interval: int, slack: int, now: int) -> int:
        """Take one at `now`. Returns 0 if it passed, else the nanoseconds after which it would have."""
        # The fast path of every limited RPC.
        due = self._young.get(key)
        if due is None:
            key, due = self._find(key)
        if due <= now:
            self._young[key] = now + interval
            return 0
        wait = due - slack - now
        if wait > 0:
            return wait
        self._young[key] = due + interval
        return 0

    def take_place(self, key: Hashable, interval: int, slack: int, now: int) -> int:
        """Take one in any case, and return the nanoseconds until it is on time: a place in the line."""
        due = self._young.get(key)
        if due is None:
            key, due = self._find(key)
        due = max(due, now)
        self._young[key] = due + interval
        return max(0, due - slack - now)

    def peek(self, key: Hashable, slack: int, now: int) -> int:
        """What `take` would return; nothing is taken."""
        key = bounded(key)
        due = self._young.get(key) or self._old.get(key, 0)
        return max(0, due - slack - now)

    def give_back(self, key: Hashable, interval: int) -> None:
        """Undo one `take`: the RPC was refused by another limit."""
        key = bounded(key)
        if key in self._young:
            self._young[key] -= interval

    def _find(self, key: Hashable) -> tuple[Hashable, int]:
        """A key that is not young as it stands: (what it is kept under, when it is due); there is room for it now."""
        key = bounded(key)
        due = self._young.get(key)
        if due is not None:
            return key, due
        due = self._old.pop(key, 0)
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        # Also when it is refused next: who is refused again and again must not be forgotten.
        self._young[key] = due
        return key, due


def bounded(key: Hashable) -> Hashable:
    """`key` (a text or a tuple of texts), or a digest if it is so long that a caller could exhaust memory with it."""
    parts = key if isinstance(key, tuple) else (key,)
    if sum(len(part) for part in parts if isinstance(part, str | bytes)) <= _KEY_TEXT:
        return key
    return digest(parts)


def digest(parts: tuple[str | bytes | None, ...]) -> bytes:
    """16 bytes that stand for `parts`: no two lists of parts share them, and an absent part is not an empty one."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        if part is None:
            state.update(b"-")
        else:
            text = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            state.update(b"%d:" % len(text))
            state.update(text)
    return state.digest()
