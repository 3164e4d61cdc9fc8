"""The taxonomy of refusals: every reason, its status code, and whether repeating helps (the table of behaviour.md).

One vocabulary: the name of a `Reason` is the `ErrorInfo.reason` a caller sees, the `reason` label of metrics, and the
field `reason` of logs. A refusal is a value, not an exception: policies return it, `reply.py` turns it into bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from sidecar.grpc_wire.status import StatusCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.grpc_wire.details import Detail
    from sidecar.proxy.policy import Outcome

DOMAIN = "sidecar"


class Kind(Enum):
    """What sort of thing went wrong, for whoever sorts reasons."""

    IDENTITY = "identity"
    PERMISSION = "permission"
    LIMIT = "limit"
    KEY = "key"
    CONFIGURATION = "configuration"
    MESSAGE = "message"
    TIMEOUT = "timeout"
    CAPACITY = "capacity"
    EXECUTION = "execution"
    STORE = "store"
    DRILL = "drill"
    DEFECT = "defect"


class Reason(Enum):
    """Why the sidecar answers by itself: (status code, may the caller repeat the RPC?, kind). Names are stable: docs/refusals.md."""

    IDENTITY_UNUSABLE = (StatusCode.UNAUTHENTICATED, False, Kind.IDENTITY)
    TOKEN_MISSING = (StatusCode.UNAUTHENTICATED, False, Kind.IDENTITY)
    TOKEN_EXPIRED = (StatusCode.UNAUTHENTICATED, False, Kind.IDENTITY)
    TOKEN_NOT_YET_VALID = (StatusCode.UNAUTHENTICATED, False, Kind.IDENTITY)
    TOKEN_WRONG_AUDIENCE = (StatusCode.UNAUTHENTICATED, False, Kind.IDENTITY)
    TOKEN_INVALID = (StatusCode.UNAUTHENTICATED, False, Kind.IDENTITY)
    TOKEN_UNKNOWN_KEY = (StatusCode.UNAUTHENTICATED, False, Kind.IDENTITY)
    DENIED_BY_RULE = (StatusCode.PERMISSION_DENIED, False, Kind.PERMISSION)
    NO_RULE_ALLOWS = (StatusCode.PERMISSION_DENIED, False, Kind.PERMISSION)
    RATE_LIMITED = (StatusCode.RESOURCE_EXHAUSTED, True, Kind.LIMIT)
    BUDGET_EXHAUSTED = (StatusCode.RESOURCE_EXHAUSTED, True, Kind.LIMIT)
    STORE_UNAVAILABLE = (StatusCode.UNAVAILABLE, True, Kind.STORE)
    KEY_REQUIRED = (StatusCode.INVALID_ARGUMENT, False, Kind.KEY)
    KEY_MALFORMED = (StatusCode.INVALID_ARGUMENT, False, Kind.KEY)
    KEY_REUSED = (StatusCode.INVALID_ARGUMENT, False, Kind.KEY)
    KEY_IN_PROGRESS = (StatusCode.ABORTED, True, Kind.KEY)
    OUTCOME_UNKNOWN = (StatusCode.ABORTED, False, Kind.KEY)
    NOT_REPLAYABLE = (StatusCode.FAILED_PRECONDITION, False, Kind.KEY)
    METHOD_UNKNOWN = (StatusCode.UNIMPLEMENTED, False, Kind.CONFIGURATION)
    NO_ROUTE = (StatusCode.UNAVAILABLE, False, Kind.CONFIGURATION)
    MALFORMED_REQUEST = (StatusCode.INTERNAL, False, Kind.MESSAGE)
    DEADLINE = (StatusCode.DEADLINE_EXCEEDED, False, Kind.TIMEOUT)
    ROUTE_TIMEOUT = (StatusCode.DEADLINE_EXCEEDED, True, Kind.TIMEOUT)
    TRY_TIMEOUT = (StatusCode.DEADLINE_EXCEEDED, True, Kind.TIMEOUT)
    IDLE_TIMEOUT = (StatusCode.DEADLINE_EXCEEDED, True, Kind.TIMEOUT)
    OVERLOADED = (StatusCode.UNAVAILABLE, True, Kind.CAPACITY)
    CIRCUIT_OPEN = (StatusCode.UNAVAILABLE, True, Kind.EXECUTION)
    NO_HEALTHY_ENDPOINT = (StatusCode.UNAVAILABLE, True, Kind.EXECUTION)
    VERSION_WITHDRAWN = (StatusCode.UNAVAILABLE, True, Kind.EXECUTION)
    DRAINING = (StatusCode.UNAVAILABLE, True, Kind.CAPACITY)
    AGENT_NOT_READY = (StatusCode.UNAVAILABLE, True, Kind.EXECUTION)
    UPSTREAM_LOST = (StatusCode.UNAVAILABLE, True, Kind.EXECUTION)
    UPSTREAM_PROTOCOL = (StatusCode.INTERNAL, False, Kind.EXECUTION)
    MESSAGE_TOO_LARGE = (StatusCode.RESOURCE_EXHAUSTED, False, Kind.MESSAGE)
    METADATA_TOO_LARGE = (StatusCode.RESOURCE_EXHAUSTED, False, Kind.MESSAGE)
    INVALID_MESSAGE = (StatusCode.INVALID_ARGUMENT, False, Kind.MESSAGE)
    CANNOT_MASK = (StatusCode.INTERNAL, False, Kind.DEFECT)
    FAULT_INJECTED = (StatusCode.UNAVAILABLE, True, Kind.DRILL)
    DEFECT = (StatusCode.INTERNAL, False, Kind.DEFECT)

    # Members are what they are; Enum would look for their names each time.
    __hash__ = object.__hash__

    def __init__(self, code: StatusCode, repeatable: bool, kind: Kind) -> None:
        self.code = code
        self.repeatable = repeatable
        self.kind = kind

    # Two reasons may share all of it; without this, Enum would make the second an alias of the first.
    def __new__(cls, *_: object) -> Reason:
        member = object.__new__(cls)
        member._value_ = len(cls.__members__) + 1
        return member

    def reject(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        code: StatusCode | None = None,
        details: tuple[Detail, ...] = (),
        **metadata: object,
    ) -> Rejection:
        """A refusal for this reason.

        `message` names the rule and the value that decided; `metadata` repeats every variable part of it (AIP-193).
        `retry_after` (seconds) becomes RetryInfo and `grpc-retry-pushback-ms`. `code` overrides the reason's own
        where it depends on the case (an HTTP status mapped by gRPC's table).
        """
        return Rejection(
            self,
            message,
            self.code if code is None else code,
            retry_after,
            {key: str(value) for key, value in metadata.items()},
            details,
        )


Written: TypeAlias = "tuple[bytes, Outcome]"
"""Trailers as they go out, and the end of the call that they mean."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """One refusal, complete: what the caller is told. `details` are further `google.rpc` messages (QuotaFailure …)."""

    reason: Reason
    message: str
    code: StatusCode
    retry_after: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    details: tuple[Detail, ...] = ()
    written: list[Written] = field(default_factory=list, init=False, repr=False, compare=False)
    """What of it goes on the wire, once it did: policies that remember what they decided refuse many times alike."""
