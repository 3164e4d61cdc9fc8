"""What a record says, in which words. Metadata values are never among them; text is masked, and bounded."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from sidecar.grpc_wire.status import StatusCode
from sidecar.policies.audit.trail import rfc3339
from sidecar.telemetry.masking import mask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.policies.audit.trail import TrailSettings
    from sidecar.proxy.policy import Outcome

_LONGEST = 1024
"""Characters of any one text."""
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?", re.DOTALL)
_UUID = re.compile(rb"[0-9a-fA-F]{8}(-?)(?:[0-9a-fA-F]{4}\1){3}[0-9a-fA-F]{12}")
_DENIALS = frozenset({StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED})


class Ended:
    """The facts of a call that has ended, taken on the data path; put into words by the writer's thread."""

    __slots__ = (
        "address",
        "attempts",
        "bytes_in",
        "bytes_out",
        "endpoint",
        "identity",
        "kind",
        "listener",
        "method",
        "notes",
        "now",
        "outcome",
        "request_id",
        "request_messages",
        "response_messages",
        "route",
        "settings",
        "started",
        "traceparent",
    )

    def __init__(
        self,
        settings: TrailSettings,
        kind: str,
        listener: str,
        route: str,
        method: str,
        identity: str | None,
        address: str,
        outcome: Outcome,
        notes: Mapping[str, Any] | None,
        started: float,
        now: float,
        sizes: tuple[int, int, int, int],
        request_id: bytes,
        traceparent: bytes | None,
        endpoint: str | None,
        attempts: int,
    ) -> None:
        """`started`, `now`: monotonic seconds. `sizes`: messages in and out, bytes in and out."""
        self.settings = settings
        self.kind = kind
        self.listener = listener
        self.route = route
        self.method = method
        self.identity = identity
        self.address = address
        self.outcome = outcome
        self.notes = notes
        self.started = started
        self.now = now
        self.request_messages, self.response_messages, self.bytes_in, self.bytes_out = sizes
        self.request_id = request_id
        self.traceparent = traceparent
        self.endpoint = endpoint
        self.attempts = attempts

    def describe(self, wall_offset: float) -> dict[str, Any]:
        """The record; `wall_offset` = wall clock minus monotonic clock, in seconds. What is not known is left out."""
        outcome = self.outcome
        decision, rule = self._decision()
        record: dict[str, Any] = {
            "kind": self.kind,
            "time": rfc3339(self.now + wall_offset),
            "generation": self.settings.generation or None,
            "listener": self.listener,
            "route": self.route or None,
            "method": _text(self.method) or None,
            "identity": _text(self.identity),
            "remote": self.address,
            "decision": decision,
            "rule": _text(rule),
            "status": outcome.code.name,
            "reason": outcome.reason.name if outcome.reason is not None else None,
            "origin": outcome.origin.value,
            "request_id": _request_id(self.request_id),
            "trace_id": self._trace(),
        }
        if self.kind == "call":
            record |= {
                "message": _message(outcome.message) if outcome.message else None,
                "duration_ms": round((self.now - self.started) * 1000, 3),
                "received": {"messages": self.request_messages, "bytes": self.bytes_in},
                "sent": {"messages": self.response_messages, "bytes": self.bytes_out},
                "idempotency": self._idempotency(),
                "endpoint": self.endpoint,
                "attempts": self.attempts,
            }
        return {name: value for name, value in record.items() if value is not None}

    def _trace(self) -> str | None:
        trace = self.notes.get("tracing") if self.notes else None
        return trace.trace_id.decode() if trace is not None else _trace_id(self.traceparent)

    def _decision(self) -> tuple[str, str | None]:
        """Whether it might pass, and by which rule. Without authorization, only an unusable identity is a denial."""
        permit = self.notes.get("authz") if self.notes else None
        if permit is not None:
            return str(permit.decision), str(permit.rule)
        reason = self.outcome.reason
        return ("deny" if reason is not None and reason.code in _DENIALS else "allow"), None

    def _idempotency(self) -> str | None:
        note = self.notes.get("idempotency") if self.notes else None
        return None if note is None else _text(str(getattr(note, "outcome", note)))


# Callers, methods and rules repeat; looking for secrets in them is most of what a record costs.
@functools.lru_cache(maxsize=2048)
def _text(value: str | None) -> str | None:
    if value is None:
        return None
    masked = mask(value)
    return masked if len(masked) <= _LONGEST else f"{masked[:_LONGEST]}…"


# Of refusals most are alike; what an agent says differs, and must not wash the above away.
_message = functools.lru_cache(maxsize=256)(_text.__wrapped__)


def _request_id(value: bytes) -> str | None:
    text = value.decode("ascii", "replace")
    # Ids differ each time, and most are ours (UUIDs, which hold no secret): not looked into, not remembered.
    return (text if _UUID.fullmatch(value) else mask(text)) or None


def _trace_id(traceparent: bytes | None) -> str | None:
    """W3C Trace Context §3.2: version-traceid-parentid-flags; the rest of a later version is ignored."""
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent is not None else None
    return found[1].decode() if found is not None else None
