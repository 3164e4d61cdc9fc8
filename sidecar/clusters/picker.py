"""An immutable snapshot to choose an endpoint from; choosing never waits. The cluster replaces it whole when anything changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.clusters.endpoint import Endpoint
    from sidecar.proxy.call import Call


class RoundRobin:
    """Each ready endpoint in turn."""

    __slots__ = ("_endpoints", "_next")

    def __init__(self, endpoints: tuple[Endpoint, ...], start: int = 0) -> None:
        self._endpoints = endpoints
        self._next = start % len(endpoints) if endpoints else 0

    def pick(self, call: Call) -> Endpoint | None:
        endpoints = self._endpoints
        if len(endpoints) == 1:
            return endpoints[0]
        if not endpoints:
            return None
        position = self._next
        self._next = position + 1 if position + 1 < len(endpoints) else 0
        return endpoints[position]
