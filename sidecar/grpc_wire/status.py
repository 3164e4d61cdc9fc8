"""Status codes (grpc/grpc `doc/statuscodes.md`) and what the codes of other protocols become."""

from __future__ import annotations

from enum import IntEnum


class StatusCode(IntEnum):
    """A gRPC status code as it stands in `grpc-status`."""

    # As it is equal to its number; Enum would look for its name each time.
    __hash__ = int.__hash__

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


SERVER_FAULTS = frozenset(
    {
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)
"""Codes that are the server's fault (OpenTelemetry, `docs/rpc/grpc.md`); a flood of NOT_FOUND is not an outage."""

_BY_VALUE = {b"%d" % code: code for code in StatusCode}
_LABELS = {
    code: "OK" if code is StatusCode.OK else "".join(part.capitalize() for part in code.name.split("_"))
    for code in StatusCode
}
# grpc/grpc doc/http-grpc-status-mapping.md
_HTTP = {
    400: StatusCode.INTERNAL,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    429: StatusCode.UNAVAILABLE,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.UNAVAILABLE,
}
# grpc/grpc doc/PROTOCOL-HTTP2.md, "Errors"
_RST = {
    0x7: StatusCode.UNAVAILABLE,  # REFUSED_STREAM
    0x8: StatusCode.CANCELLED,  # CANCEL
    0xB: StatusCode.RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    0xC: StatusCode.PERMISSION_DENIED,  # INADEQUATE_SECURITY
}


def parse_status(value: bytes) -> StatusCode:
    """The code of a `grpc-status` value; what is no known code is UNKNOWN."""
    return _BY_VALUE.get(value, StatusCode.UNKNOWN)


def from_http_status(status: int) -> StatusCode:
    """What an HTTP status means where no grpc-status came."""
    return _HTTP.get(status, StatusCode.UNKNOWN)


def from_rst_code(code: int) -> StatusCode:
    """What an RST_STREAM code means to a gRPC caller."""
    return _RST.get(code, StatusCode.INTERNAL)


def code_label(code: StatusCode) -> str:
    """The code as dashboards expect it in `grpc_code`: OK, InvalidArgument, …"""
    return _LABELS[code]
