"""What differs between the two directions, as the data path sees it; `listeners/inbound.py` and `outbound.py` fill it in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sidecar.grpc_wire.metadata import is_hop_by_hop, is_own

if TYPE_CHECKING:
    from sidecar.http2.hpack import Field
    from sidecar.proxy.rejection import Rejection
    from sidecar.proxy.routing import RouteTable
    from sidecar.runtime import Runtime

_NAMES_KEPT = 2048


class Peer(Protocol):
    """Facts of one connection, found once."""

    edge: Edge
    identity: str | None
    address: str
    to_agent: bytes
    """Encoded fields that tell the agent who calls; empty where it is not told."""

    def refusal(self, now: float) -> Rejection | None:
        """Why calls of this peer are refused at `now` (monotonic seconds); None = they are not."""


class Edge:
    """One listener of one generation. `strips_ours`: `x-sidecar-*` in answers is a claim of the agent, not of a sidecar."""

    __slots__ = ("_clean", "direction", "draining", "name", "routes", "runtime", "strips_ours")

    def __init__(self, *, name: str, direction: str, routes: RouteTable, runtime: Runtime) -> None:
        self.name = name
        self.direction = direction
        self.routes = routes
        self.runtime = runtime
        self.strips_ours = direction == "inbound"
        self.draining = False
        self._clean: set[bytes] = set()

    def all_pass(self, names: frozenset[bytes] | set[bytes]) -> bool:
        """Do all of these names go on? Names that were found clean are remembered, up to a bound."""
        unknown = names - self._clean
        if not unknown:
            return True
        if any(map(is_dropped, unknown)):
            return False
        if len(self._clean) > _NAMES_KEPT:
            self._clean.clear()
        self._clean |= unknown
        return True


def is_dropped(name: bytes) -> bool:
    """Does a caller's field of this name end here? Hop-by-hop fields, and whatever pretends to be ours."""
    return is_hop_by_hop(name) or is_own(name)


def passing(fields: tuple[Field, ...]) -> list[Field]:
    """The fields that may go on, in their order."""
    return [each for each in fields if not is_dropped(each[0])]
