"""The last refusals, for whoever is on call: filled where the sidecar answers by itself, never on the path of a call that passes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sidecar.proxy.call import Call
    from sidecar.proxy.rejection import Rejection

KEPT = 100
_LONGEST = 300
"""Characters of what a caller chose (a method name) or what was said to it: the ring is bounded in bytes, too."""


class Refusal(NamedTuple):
    """One status of ours. `at`: monotonic seconds. Texts only, so that no call is kept alive."""

    at: float
    listener: str
    route: str
    method: str
    identity: str
    address: str
    code: str
    reason: str
    message: str
    request_id: str


class RecentRefusals:
    """A ring of the newest `KEPT` refusals."""

    __slots__ = ("_ring", "total")

    def __init__(self) -> None:
        self._ring: deque[Refusal] = deque(maxlen=KEPT)
        self.total = 0

    def note(self, call: Call, rejection: Rejection) -> None:
        """`call` is being refused with `rejection`."""
        self.total += 1
        self._ring.append(
            Refusal(
                call.connection.now,
                call.edge.name,
                call.plan.route,
                call.path[:_LONGEST],
                (call.identity or "")[:_LONGEST],
                call.peer.address,
                rejection.code.name,
                rejection.reason.name,
                rejection.message[:_LONGEST],
                call.request_id_text,
            )
        )

    def newest(self, count: int = KEPT) -> list[Refusal]:
        """The newest first."""
        return list(reversed(self._ring))[:count]
