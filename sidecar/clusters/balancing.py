"""How a cluster spreads RPCs: each rule is a picker over the endpoints that take RPCs now.

A picker never waits and never changes its endpoints; the cluster replaces it whole. `avoid` are endpoints that have been tried:
another one is picked if there is one.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from sidecar.clusters.picker import RoundRobin, untried
from sidecar.config.units import parse_metadata_name
from sidecar.proxy.selectors import compile_selector

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from sidecar.clusters.endpoint import Endpoint
    from sidecar.clusters.picker import Picker
    from sidecar.proxy.call import Call
    from sidecar.proxy.selectors import Selector

_RULES = ("round_robin", "least_request", "ring_hash")
_HELP = "allowed: round_robin, least_request, ring_hash: {key: identity} or {key: metadata.NAME}"
_KEYS = ("identity", "method", "route", "authority")


@dataclass(frozen=True, slots=True)
class Balancing:
    """Which rule; `key` says by what ring_hash tells callers apart."""

    rule: str = "round_robin"
    key: str | None = None


def parse_balancing(value: object) -> Balancing:
    """`least_request`, or `{ring_hash: {key: metadata.x-session}}`. Raises ValueError saying what is allowed."""
    if isinstance(value, Balancing):
        return value
    if value == "ring_hash":
        raise ValueError("needs a key; write ring_hash: {key: identity} or {key: metadata.NAME}")
    if isinstance(value, str) and value in _RULES:
        return Balancing(value)
    if not isinstance(value, dict) or list(value) != ["ring_hash"]:
        raise ValueError(f"is no way to balance; {_HELP}")
    options = value["ring_hash"]
    if not isinstance(options, dict) or list(options) != ["key"] or not isinstance(options["key"], str):
        raise ValueError("needs a key, and nothing else; write ring_hash: {key: identity} or {key: metadata.NAME}")
    key = options["key"]
    if key.startswith("metadata."):
        parse_metadata_name(key.removeprefix("metadata."))
    elif key not in _KEYS:
        raise ValueError(f"has a key that no call has; allowed: {', '.join(_KEYS)}, metadata.NAME")
    return Balancing("ring_hash", key)


def _written(balancing: Balancing) -> Any:
    return {"ring_hash": {"key": balancing.key}} if balancing.key else balancing.rule


BalancingRule: TypeAlias = Annotated[
    Balancing,
    PlainValidator(parse_balancing),
    PlainSerializer(_written, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": ["round_robin", "least_request"]},
                {
                    "type": "object",
                    "required": ["ring_hash"],
                    "additionalProperties": False,
                    "properties": {
                        "ring_hash": {
                            "type": "object",
                            "required": ["key"],
                            "additionalProperties": False,
                            "properties": {"key": {"type": "string", "examples": ["identity", "metadata.x-session"]}},
                        }
                    },
                },
            ]
        }
    ),
]


class LeastRequest:
    """Of two endpoints drawn at random, the one with less to do (power of two choices).

    What an endpoint refused quickly counts as work it still does (`Endpoint.load`): otherwise the one that fails fastest would
    look idle and get the most.
    """

    __slots__ = ("_count", "_endpoints", "_random", "_rng", "_weights")

    def __init__(
        self, endpoints: tuple[Endpoint, ...], rng: random.Random, weights: Sequence[float] | None = None
    ) -> None:
        self._endpoints = endpoints
        self._count = len(endpoints)
        self._rng = rng
        self._random = rng.random
        self._weights = weights

    def pick(self, call: Call, avoid: Sequence[object] = ()) -> Endpoint | None:
        if avoid:
            # Weights are left out: the rest is chosen for having less to do than what has failed.
            return LeastRequest(untried(self._endpoints, avoid), self._rng).pick(call)
        count = self._count
        if count < 2:
            return self._endpoints[0] if count else None
        first = int(self._random() * count)
        second = int(self._random() * (count - 1))
        if second >= first:
            second += 1
        one, other = self._endpoints[first], self._endpoints[second]
        weights = self._weights
        if weights is None:
            return other if other.load < one.load else one
        return other if (other.load + 1) / weights[second] < (one.load + 1) / weights[first] else one


class Weighted:
    """Shares by weight, within a fraction of a percent over any thousand picks.

    A walk by the golden ratio instead of independent draws: its points lie evenly at every length, so that 10 % of 50 RPCs are
    five and not one or nine. Where it starts is drawn.
    """

    __slots__ = ("_bounds", "_choices", "_point", "_total")

    _STEP = 0.6180339887498949

    def __init__(self, choices: tuple[Endpoint, ...], weights: Sequence[float], start: float = 0.0) -> None:
        self._choices = choices
        self._bounds = list(accumulate(weights))
        self._total = self._bounds[-1] if self._bounds else 0.0
        self._point = start

    def pick(self, call: Call, avoid: Sequence[object] = ()) -> Endpoint | None:
        if avoid:
            return RoundRobin(untried(self._choices, avoid), int(self._point * 1000)).pick(call)
        if not self._choices:
            return None
        point = self._point = (self._point + self._STEP) % 1.0
        return self._choices[min(bisect_right(self._bounds, point * self._total), len(self._choices) - 1)]


def points_of(address: str) -> list[int]:
    """Where an endpoint stands on the ring: 160 places, the same in every process."""
    points = []
    for i in range(40):
        digest = hashlib.blake2b(f"{address}#{i}".encode(), digest_size=32).digest()
        points += [int.from_bytes(digest[start : start + 8], "big") for start in (0, 8, 16, 24)]
    return points


class RingHash:
    """The same key goes to the same endpoint for as long as that is there; others keep theirs when one comes or goes.

    Calls without the key are spread in turn.
    """

    __slots__ = ("_owners", "_places", "_select", "_unkeyed")

    def __init__(
        self,
        endpoints: tuple[Endpoint, ...],
        select: Selector,
        start: int = 0,
        points: Callable[[str], list[int]] = points_of,
    ) -> None:
        ring = sorted((point, each.address, each) for each in endpoints for point in points(each.address))
        self._places = [point for point, _, _ in ring]
        self._owners = [owner for _, _, owner in ring]
        self._select = select
        self._unkeyed = RoundRobin(endpoints, start)

    def pick(self, call: Call, avoid: Sequence[object] = ()) -> Endpoint | None:
        key = self._select(call)
        owners = self._owners
        if key is None or not owners:
            return self._unkeyed.pick(call, avoid)
        digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        place = bisect_right(self._places, int.from_bytes(digest, "big")) % len(owners)
        picked = owners[place]
        if avoid and picked in avoid:
            return next((owner for owner in owners[place:] + owners[:place] if owner not in avoid), picked)
        return picked


def make_picker(
    balancing: Balancing,
    endpoints: tuple[Endpoint, ...],
    rng: random.Random,
    weights: Sequence[float] | None,
    points: Callable[[str], list[int]],
) -> Picker:
    """The picker of a rule. `weights`: some endpoints are in their slow start; a ring ignores that, or keys would move."""
    start = rng.randrange(1 << 16)
    if balancing.rule == "ring_hash":
        return RingHash(endpoints, compile_selector(balancing.key or "identity"), start, points)
    if balancing.rule == "least_request":
        return LeastRequest(endpoints, rng, weights)
    if weights is not None:
        return Weighted(endpoints, weights, rng.random())
    return RoundRobin(endpoints, start)
