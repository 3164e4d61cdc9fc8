"""An immutable snapshot to choose an endpoint from; choosing never waits. The cluster replaces it whole when anything changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.clusters.endpoint import Endpoint
    from sidecar.proxy.call import Call


class Picker(Protocol):
    """One way to choose; the others are in `balancing.py`."""

    def pick(self, call: Call, avoid: Sequence[object] = ()) -> Endpoint | None:
        """An endpoint, another than those to `avoid` if there is one; None = there is none at all."""


def untried(endpoints: tuple[Endpoint, ...], avoid: Sequence[object]) -> tuple[Endpoint, ...]:
    """`endpoints` without those to `avoid`; all of them if nothing would be left."""
    return tuple(each for each in endpoints if each not in avoid) or endpoints


class RoundRobin:
    """Each endpoint in turn."""

    __slots__ = ("_endpoints", "_next")

    def __init__(self, endpoints: tuple[Endpoint, ...], start: int = 0) -> None:
        self._endpoints = endpoints
        self._next = start % len(endpoints) if endpoints else 0

    def pick(self, call: Call, avoid: Sequence[object] = ()) -> Endpoint | None:
        endpoints = self._endpoints
        if len(endpoints) == 1:
            return endpoints[0]
        if not endpoints:
            return None
        position = self._next
        self._next = position + 1 if position + 1 < len(endpoints) else 0
        picked = endpoints[position]
        if avoid and picked in avoid:
            # Its turn is given to the next one that was not tried.
            order = endpoints[position:] + endpoints[:position]
            return next((each for each in order if each not in avoid), picked)
        return picked
