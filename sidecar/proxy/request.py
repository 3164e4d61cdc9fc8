"""What the headers of a request say (step 3): found once per beginning that a caller repeats, or once per call.

A request is understood in two parts, like the block it came in: its beginning, whose findings are kept and shared by all calls
that begin with the same bytes, and the rest (ids, traces, timeouts), which is looked at field by field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.grpc_wire import timeout as grpc_timeout
from sidecar.grpc_wire.metadata import is_grpc_content_type
from sidecar.proxy.rejection import Reason, Rejection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sidecar.http2.hpack import Field
    from sidecar.proxy.edge import Edge
    from sidecar.proxy.routing import Method, RouteTable

_CONTENT_TYPES = frozenset({b"application/grpc", b"application/grpc+proto"})
REWRITTEN = frozenset({b"grpc-timeout", b"x-request-id"})
"""Not passed on as they came: rewritten by `relay`, or replaced when they are not usable."""


def is_grpc(index: Mapping[bytes, bytes]) -> bool:
    """Is this a gRPC call at all? Everything else gets a plain HTTP answer."""
    content_type = index.get(b"content-type", b"")
    return index[b":method"] == b"POST" and (content_type in _CONTENT_TYPES or is_grpc_content_type(content_type))


class RequestFacts:
    """The findings about a beginning that is a complete gRPC request by itself, as far as routing goes.

    `block`: its fields that go on, encoded. Valid for one route table.
    """

    __slots__ = ("block", "method", "request_id", "routes", "seconds", "timeout", "usable")

    def __init__(self, fields: Iterable[Field], index: Mapping[bytes, bytes], edge: Edge) -> None:
        self.routes: RouteTable = edge.routes
        self.method: Method | None = None
        self.timeout: bytes | None = index.get(b"grpc-timeout")
        self.seconds: float | Rejection | None = None if self.timeout is None else parse_timeout(self.timeout)
        self.request_id: Field | None = next((each for each in fields if each[0] == b"x-request-id"), None)
        self.block = b""
        self.usable = False
        if b":method" not in index or b":path" not in index or index.get(b"te") != b"trailers" or not is_grpc(index):
            return
        self.method = self.routes.method(index[b":path"])
        self.usable = self.method is not None
        self.block = b"".join([each[2] for each in fields if each[0] not in REWRITTEN and edge.passes(each[0])])


def parse_timeout(value: bytes) -> float | Rejection:
    """Seconds of a `grpc-timeout`, or why it is none."""
    try:
        return grpc_timeout.parse(value)
    except ValueError as error:
        return Reason.MALFORMED_REQUEST.reject(f"grpc-timeout: {error}")
