"""Why a call failed: the status, and what its details say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clients.python.api import agent_pb2 as pb

_DETAILS = "grpc-status-details-bin"
_ORIGIN = "x-sidecar-origin"
_PUSHBACK = "grpc-retry-pushback-ms"

LOST = "Internal error from Core"
"""What grpc.aio says in place of a status it lost; see ending.py."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request that is wrong."""

    field: str
    description: str


@dataclass(eq=False)
class CallFailure(Exception):
    """A call, or a turn of a conversation, that failed."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    """Reason of the ErrorInfo, for machines; empty where the status came without details."""
    domain: str = ""
    """Whose reason it is: "agent" or "sidecar"."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Every variable part of the message."""
    retry_after: float | None = None
    """Seconds after which repeating may help; None: it was not said."""
    violations: tuple[FieldViolation, ...] = ()
    is_from_sidecar: bool = False
    """A sidecar made this status; the agent may not have seen the call."""
    trailers: tuple[tuple[str, str | bytes], ...] = ()

    def __str__(self) -> str:
        reason = f" ({self.domain}: {self.reason})" if self.reason else ""
        return f"{self.code.name}{reason}: {self.message}"

    def as_dict(self) -> dict[str, Any]:
        """As values of JSON."""
        found: dict[str, Any] = {
            "code": self.code.name,
            "number": number_of(self.code),
            "message": self.message,
            "reason": self.reason,
            "domain": self.domain,
            "metadata": self.metadata,
            "from_sidecar": self.is_from_sidecar,
        }
        if self.retry_after is not None:
            found["retry_after"] = self.retry_after
        if self.violations:
            found["violations"] = [{"field": each.field, "description": each.description} for each in self.violations]
        return found


def number_of(code: grpc.StatusCode) -> int:
    """The number of a status code."""
    number: int = code.value[0]
    return number


def code_of(number: int) -> grpc.StatusCode:
    """The status code of a number; UNKNOWN for one that is none."""
    return next((code for code in grpc.StatusCode if number_of(code) == number), grpc.StatusCode.UNKNOWN)


def from_rpc_error(error: grpc.aio.AioRpcError) -> CallFailure:
    """What grpc.aio raised, with its details taken apart. Details that do not parse are left out."""
    pairs: Any = error.trailing_metadata() or ()
    trailers = tuple((str(key), value) for key, value in pairs)
    message = error.details() or ""
    if message == LOST:
        message = "the server ended the call while messages were being sent; grpcio did not keep the status it gave"
    return from_status(error.code(), message, trailers)


def from_status(code: grpc.StatusCode, message: str, trailers: Iterable[tuple[str, str | bytes]]) -> CallFailure:
    """A status and its trailers as a failure."""
    all_trailers = tuple(trailers)
    by_name = dict(all_trailers)
    reason = domain = ""
    metadata: dict[str, str] = {}
    retry_after: float | None = None
    violations: list[FieldViolation] = []
    for detail in _details(by_name.get(_DETAILS)):
        info, retry, request = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.RetryInfo(),
            error_details_pb2.BadRequest(),
        )
        if detail.Unpack(info):
            reason, domain, metadata = info.reason, info.domain, dict(info.metadata)
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
        elif detail.Unpack(request):
            violations += [FieldViolation(each.field, each.description) for each in request.field_violations]
    pushback = by_name.get(_PUSHBACK)
    if retry_after is None and isinstance(pushback, str) and pushback.isascii() and pushback.isdigit():
        retry_after = int(pushback) / 1000
    return CallFailure(
        code,
        message,
        reason,
        domain,
        metadata,
        retry_after,
        tuple(violations),
        by_name.get(_ORIGIN) == "sidecar",
        all_trailers,
    )


def from_turn_error(error: pb.TurnError) -> CallFailure:
    """A turn that failed."""
    return CallFailure(
        code_of(error.code),
        error.message,
        error.reason,
        "agent",
        dict(error.metadata),
        violations=tuple(FieldViolation(each.field, each.description) for each in error.field_violations),
    )


def _details(raw: str | bytes | None) -> list[Any]:
    if not isinstance(raw, bytes):
        return []
    try:
        return list(status_pb2.Status.FromString(raw).details)
    except DecodeError:
        return []
