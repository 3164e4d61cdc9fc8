"""What the attempts at one version have come to: codes, latencies, streams that broke off. Counted as they end, read at intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sidecar.clusters.judgement import judged
from sidecar.grpc_wire.status import StatusCode
from sidecar.proxy.attempt import OK_BY_AGENT, Attempt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.http2.blocks import HeaderBlock
    from sidecar.proxy.call import Call
    from sidecar.proxy.plan import Endpoint
    from sidecar.proxy.policy import Outcome

_STEPS = 16
"""Buckets per octave of a latency: each is 4.4 % wide."""
_SHORTEST = 1e-6
_HIGHEST_SCORE = 100


def bucket_of(seconds: float) -> int:
    return math.floor(math.log2(max(seconds, _SHORTEST)) * _STEPS)


def upper_edge(bucket: int) -> float:
    """Seconds below which everything in `bucket` lies."""
    return math.exp2((bucket + 1) / _STEPS)


@dataclass(frozen=True, slots=True)
class Counts:
    """A tally at one moment, or the difference between two: RPCs by code, and how many in each bucket of latency."""

    codes: Mapping[StatusCode, int] = field(default_factory=dict)
    aborted: int = 0
    """Of them, those that began to answer and ended without a status."""
    latency: Mapping[int, int] = field(default_factory=dict)
    """RPCs answered by one message or none, from their start to their end."""
    first_message: Mapping[int, int] = field(default_factory=dict)
    """Streams, from their start to their first message."""
    waiting: Mapping[int, int] = field(default_factory=dict)
    """RPCs that run: asked completely, and without a message for so long. Of this moment, never a difference."""
    ratings: Mapping[int, int] = field(default_factory=dict)
    """Scores that callers gave, as the agent's trailers told them."""

    @property
    def total(self) -> int:
        return sum(self.codes.values())

    def count(self, codes: frozenset[StatusCode]) -> int:
        return sum(number for code, number in self.codes.items() if code in codes)

    def __sub__(self, earlier: Counts) -> Counts:
        return Counts(
            _less(self.codes, earlier.codes),
            self.aborted - earlier.aborted,
            _less(self.latency, earlier.latency),
            _less(self.first_message, earlier.first_message),
            self.waiting,
            _less(self.ratings, earlier.ratings),
        )

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            _more(self.codes, other.codes),
            self.aborted + other.aborted,
            _more(self.latency, other.latency),
            _more(self.first_message, other.first_message),
            _more(self.waiting, other.waiting),
            _more(self.ratings, other.ratings),
        )

    def as_dict(self) -> dict[str, Any]:
        """For the store; `of` reads it."""
        return {
            "codes": {code.name: number for code, number in self.codes.items()},
            "aborted": self.aborted,
            "latency": {str(bucket): number for bucket, number in self.latency.items()},
            "first_message": {str(bucket): number for bucket, number in self.first_message.items()},
            "waiting": {str(bucket): number for bucket, number in self.waiting.items()},
            "ratings": {str(score): number for score, number in self.ratings.items()},
        }

    @staticmethod
    def of(data: Mapping[str, Any]) -> Counts:
        """What `as_dict` gave. Raises KeyError, ValueError."""
        latency, first, waiting = (
            {int(bucket): int(number) for bucket, number in data[name].items()}
            for name in ("latency", "first_message", "waiting")
        )
        codes = {StatusCode[name]: int(number) for name, number in data["codes"].items()}
        # Sidecars of an earlier release tell none.
        ratings = {int(score): int(number) for score, number in data.get("ratings", {}).items()}
        return Counts(codes, int(data["aborted"]), latency, first, waiting, ratings)


NOTHING = Counts()


def quantile(spread: Mapping[int, int], share: float) -> float | None:
    """Seconds within which `share` (0 to 1) of what was counted lies; None = nothing was."""
    total = sum(spread.values())
    if not total:
        return None
    seen = 0
    for bucket in sorted(spread):
        seen += spread[bucket]
        if seen >= share * total:
            return upper_edge(bucket)
    raise AssertionError("all of them are below the last bucket's edge")


def above(spread: Mapping[int, int], seconds: float) -> int:
    """How many took longer than `seconds`, by whole buckets."""
    edge = bucket_of(seconds)
    return sum(number for bucket, number in spread.items() if bucket > edge)


def _less(later: Mapping[Any, int], earlier: Mapping[Any, int]) -> dict[Any, int]:
    return {key: left for key, number in later.items() if (left := number - earlier.get(key, 0))}


def _more(one: Mapping[Any, int], other: Mapping[Any, int]) -> dict[Any, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


class TimedAttempt(Attempt):
    """An attempt that remembers when it began and when its first message came."""

    __slots__ = ("began", "first_message", "rated_by", "rating")

    def __init__(self, call: Call, endpoint: Endpoint) -> None:
        super().__init__(call, endpoint)
        self.began = 0.0
        self.first_message: float | None = None
        self.rated_by: bytes | None = None
        self.rating: int | None = None

    def on_data(self, payload: bytes, end_stream: bool) -> None:
        if self.first_message is None:
            self.first_message = self.connection.now
        super().on_data(payload, end_stream)

    def on_trailers(self, headers: HeaderBlock) -> None:
        score = headers.index.get(self.rated_by, b"") if self.rated_by is not None else b""
        # What is no score is the agent's own affair.
        if score.isdigit() and len(score) <= 3 and int(score) <= _HIGHEST_SCORE:
            self.rating = int(score)
        super().on_trailers(headers)


class Tally:
    """Of one version, since it was made. Never reset: whoever wants a window subtracts."""

    __slots__ = ("_aborted", "_codes", "_first_message", "_latency", "_ok", "_rated_by", "_ratings", "begun", "running")

    def __init__(self, rated_by: bytes | None = None) -> None:
        """`rated_by`: the trailer with a caller's score, if scores are counted."""
        self._rated_by = rated_by
        self._ratings: dict[int, int] = {}
        self.begun = 0
        self.running: set[TimedAttempt] = set()
        self._ok = 0
        self._codes: dict[StatusCode, int] = {}
        self._aborted = 0
        self._latency: dict[int, int] = {}
        self._first_message: dict[int, int] = {}

    def begin(self, attempt: TimedAttempt, now: float) -> None:
        attempt.began = now
        attempt.rated_by = self._rated_by
        self.begun += 1
        self.running.add(attempt)

    def end(self, attempt: TimedAttempt, outcome: Outcome, now: float) -> None:
        """What we refused ourselves, and what the caller gave up in time, says nothing of the version."""
        self.running.discard(attempt)
        if attempt.rating is not None:
            self._ratings[attempt.rating] = self._ratings.get(attempt.rating, 0) + 1
        if outcome is OK_BY_AGENT:
            self._ok += 1
        else:
            code = judged(attempt, outcome, now)
            if code is None:
                return
            self._codes[code] = self._codes.get(code, 0) + 1
            if attempt.responded and not attempt.remote_closed:
                self._aborted += 1
        first = attempt.first_message
        if attempt.call.response_messages > 1 and first is not None:
            spread, seconds = self._first_message, first - attempt.began
        else:
            spread, seconds = self._latency, now - attempt.began
        bucket = bucket_of(seconds)
        spread[bucket] = spread.get(bucket, 0) + 1

    @property
    def ended(self) -> int:
        return self._ok + sum(self._codes.values())

    def failed(self, codes: frozenset[StatusCode]) -> int:
        return sum(number for code, number in self._codes.items() if code in codes)

    def counts(self, now: float) -> Counts:
        """All of it at `now` (monotonic seconds)."""
        waiting: dict[int, int] = {}
        for attempt in self.running:
            # One that was asked completely and hangs is found before anybody's deadline is.
            if attempt.local_closed and attempt.first_message is None:
                bucket = bucket_of(now - attempt.began)
                waiting[bucket] = waiting.get(bucket, 0) + 1
        codes = {**self._codes, StatusCode.OK: self._codes.get(StatusCode.OK, 0) + self._ok}
        spreads = dict(self._latency), dict(self._first_message)
        return Counts(codes, self._aborted, *spreads, waiting, dict(self._ratings))
