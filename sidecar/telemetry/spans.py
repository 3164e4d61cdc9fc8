"""Spans of RPCs as OpenTelemetry wants them: the conventions for gRPC are here, and nowhere else.

Names follow the semantic conventions for RPC (opentelemetry.io/docs/specs/semconv/rpc): `rpc.system.name`, `rpc.method` with
the full name, `rpc.response.status_code` with the name of the code. What they have no word for begins with `sidecar.`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from sidecar.grpc_wire.status import StatusCode

if TYPE_CHECKING:
    from collections.abc import Mapping

Value: TypeAlias = str | int | bool
Kind: TypeAlias = Literal["server", "client"]

SYSTEM, METHOD, STATUS_CODE = "rpc.system.name", "rpc.method", "rpc.response.status_code"
ERROR_TYPE = "error.type"
SERVER_ADDRESS, SERVER_PORT = "server.address", "server.port"
CLIENT_ADDRESS, CLIENT_PORT = "client.address", "client.port"

LISTENER, ROUTE, REQUEST_ID = "sidecar.listener", "sidecar.route", "sidecar.request_id"
IDENTITY, ORIGIN, REASON = "sidecar.identity", "sidecar.origin", "sidecar.reason"
DECISION, RULE = "sidecar.decision", "sidecar.rule"
ATTEMPTS, ATTEMPT, CLUSTER = "sidecar.attempts", "sidecar.attempt", "sidecar.cluster"

_OTHER = "_OTHER"
# Semantic conventions for gRPC, "Server": the other codes are the caller's business, and its span shows them as errors.
_SERVER_ERRORS = frozenset(
    {
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)


class Span:
    """One span. Ids in lower-case hex, times in seconds since the epoch; `ended` is 0 while it runs."""

    __slots__ = (
        "attributes",
        "ended",
        "has_remote_parent",
        "is_error",
        "kind",
        "message",
        "name",
        "parent_id",
        "span_id",
        "started",
        "trace_id",
        "tracestate",
    )

    def __init__(
        self,
        kind: Kind,
        path: str,
        *,
        trace_id: bytes,
        span_id: bytes,
        parent_id: bytes | None,
        tracestate: bytes,
        started: float,
    ) -> None:
        """`path` as in HTTP/2, "/package.Service/Method"; empty where the caller named no method."""
        self.kind = kind
        self.name = path[1:] or _OTHER
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.has_remote_parent = kind == "server"
        self.tracestate = tracestate
        self.started = started
        self.ended = 0.0
        self.is_error = False
        self.message = ""
        self.attributes: dict[str, Value] = {SYSTEM: "grpc", METHOD: self.name}

    def tell(self, facts: Mapping[str, Value | None]) -> None:
        """Add attributes; what is None or empty is left out."""
        self.attributes.update({name: value for name, value in facts.items() if value not in {None, ""}})

    def address(self, name: str, port: str, address: str) -> None:
        """Add `address` ("host:port" or "unix:/path") as the attributes `name` and `port`."""
        host, colon, number = address.rpartition(":")
        if colon and number.isdigit():
            self.attributes[name] = host.strip("[]")
            self.attributes[port] = int(number)
        else:
            self.attributes[name] = address.removeprefix("unix:")

    def end(self, at: float, code: StatusCode, message: str) -> None:
        self.ended = at
        self.attributes[STATUS_CODE] = code.name
        self.is_error = code in _SERVER_ERRORS if self.kind == "server" else code is not StatusCode.OK
        if self.is_error:
            self.attributes[ERROR_TYPE] = code.name
            self.message = message
