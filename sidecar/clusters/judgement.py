"""What the end of an attempt says of its endpoint: it served, it failed, or nothing at all.

Statuses that we made never count (behaviour: "they never count against an endpoint"), except those that report what the endpoint
did: it was lost, it broke the protocol, or it did not answer in the time it had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.grpc_wire.status import StatusCode
from sidecar.proxy.dispatch import REFUSED
from sidecar.proxy.policy import Origin
from sidecar.proxy.rejection import Reason

if TYPE_CHECKING:
    from sidecar.proxy.attempt import Attempt
    from sidecar.proxy.policy import Outcome

FAILURE_CODES = (
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
    "UNKNOWN",
    "DATA_LOSS",
    "ABORTED",
    "RESOURCE_EXHAUSTED",
)
"""What is the endpoint's fault unless the configuration says otherwise; all other codes are answers like any."""

_REPORTS = frozenset({Reason.UPSTREAM_LOST, Reason.UPSTREAM_PROTOCOL, Reason.TRY_TIMEOUT})
# A sidecar further on that cannot reach what is behind it stands for it; its limits, rules and keys concern the caller alone.
_STANDS_FOR = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED})
_SLACK = 0.02
"""Seconds: a caller's own timer cancels just before our bucket is due."""


def judged(attempt: Attempt, outcome: Outcome, now: float) -> StatusCode | None:
    """The code by which `outcome` counts for or against the endpoint; None = it says nothing of it."""
    if outcome.origin is Origin.AGENT:
        # GOAWAY and REFUSED_STREAM: it leaves, or is full for a moment; the stream was never looked at.
        return None if outcome is REFUSED else outcome.code
    if outcome.origin is Origin.CALLER:
        # Abandoned. If that was because time was up, the endpoint was too slow.
        deadline = attempt.call.deadline
        return StatusCode.DEADLINE_EXCEEDED if deadline is not None and now >= deadline - _SLACK else None
    if outcome.reason is None:
        return outcome.code if outcome.code in _STANDS_FOR else None
    return outcome.code if outcome.reason in _REPORTS else None
