"""What differs between the two directions, as the data path sees it; `listeners/inbound.py` and `outbound.py` fill it in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sidecar.grpc_wire.metadata import is_hop_by_hop, is_own
from sidecar.proxy.request import REWRITTEN

if TYPE_CHECKING:
    from sidecar.proxy.rejection import Rejection
    from sidecar.proxy.routing import RouteTable
    from sidecar.runtime import Runtime

_NAMES_KEPT = 2048


class Peer(Protocol):
    """Facts of one connection, found once."""

    edge: Edge
    identity: str | None
    address: str
    ends: float
    """When its certificate expires, in monotonic seconds."""
    refused: Rejection | None
    to_agent: bytes
    """Encoded fields that tell the agent who calls; empty where it is not told."""

    def refusal(self, now: float) -> Rejection | None:
        """Why calls of this peer are refused at `now` (monotonic seconds); None = they are not."""


class Edge:
    """One listener of one generation. `strips_ours`: `x-sidecar-*` in answers is a claim of the agent, not of a sidecar."""

    __slots__ = ("clean", "direction", "draining", "name", "routes", "runtime", "strips_ours")

    def __init__(self, *, name: str, direction: str, routes: RouteTable, runtime: Runtime) -> None:
        self.name = name
        self.direction = direction
        self.routes = routes
        self.runtime = runtime
        self.strips_ours = direction == "inbound"
        self.draining = False
        self.clean: set[bytes] = set()

    def passes(self, name: bytes) -> bool:
        """Does a caller's field of this name go on? Names that were found clean are remembered, up to a bound."""
        if name in self.clean:
            return True
        if is_dropped(name):
            return False
        if len(self.clean) > _NAMES_KEPT:
            self.clean.clear()
        if name not in REWRITTEN:
            self.clean.add(name)
        return True


def is_dropped(name: bytes) -> bool:
    """Does a caller's field of this name end here? Hop-by-hop fields, and whatever pretends to be ours."""
    return is_hop_by_hop(name) or is_own(name)
