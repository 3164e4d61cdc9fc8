"""The last refusals, for whoever is on call: filled where the sidecar answers by itself, never on the path of a call that passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sidecar.grpc_wire.status import StatusCode
    from sidecar.proxy.call import Call
    from sidecar.proxy.rejection import Reason, Rejection

KEPT = 100
"""Kinds of refusals."""
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
    """The newest refusal of each of the last `KEPT` kinds: a flood of one kind does not wash the others away."""

    __slots__ = ("_kinds", "total")

    def __init__(self) -> None:
        # (listener, route, method, identity, reason) → (how many, when the newest was, its code and message, its address and
        # request id); the newest kind last. A flood comes through here, so the rest is put into words for whoever asks.
        self._kinds: dict[tuple[str, str, str, str | None, Reason], tuple[int, float, StatusCode, str, str, bytes]] = {}
        self.total = 0

    def note(self, call: Call, rejection: Rejection) -> None:
        """`call` is being refused with `rejection`."""
        self.total += 1
        kinds = self._kinds
        key = (call.edge.name, call.plan.route, call.path[:_LONGEST], call.identity, rejection.reason)
        former = kinds.pop(key, None)
        count = 1 if former is None else former[0] + 1
        message = rejection.message[:_LONGEST]
        kinds[key] = (count, call.connection.now, rejection.code, message, call.peer.address, call.request_id[1])
        if len(kinds) > KEPT:
            del kinds[next(iter(kinds))]

    def newest(self, count: int = KEPT) -> list[tuple[Refusal, int]]:
        """The newest of each kind with how many there were, the newest kind first."""
        found = []
        for key, (times, at, code, message, address, request_id) in reversed(self._kinds.items()):
            listener, route, method, identity, reason = key
            refusal = Refusal(
                at,
                listener,
                route,
                method,
                (identity or "")[:_LONGEST],
                address,
                code.name,
                reason.name,
                message,
                request_id.decode("ascii"),
            )
            found.append((refusal, times))
            if len(found) == count:
                break
        return found
