"""What a call asks for, from its message and its metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent_server.core.executor import Order
from agent_server.core.failure import invalid
from agent_server.service.messages import from_struct

if TYPE_CHECKING:
    import grpc

    from agent_server.service.api import agent_pb2 as pb

IDENTITY = "x-sidecar-identity"
IDEMPOTENCY_KEY = "idempotency-key"

_MAX_SESSION_ID = 255


def order_of(
    request: pb.ExecuteRequest | pb.ExecuteStreamRequest | pb.SubmitRequest, context: grpc.aio.ServicerContext[Any, Any]
) -> Order:
    return Order(
        task=request.task,
        agent=request.agent,
        operation=request.operation,
        parameters=from_struct(request.parameters),
        session_id=session_id_of(request.session_id),
        idempotency_key=_key(request.idempotency_key, metadata_of(context, IDEMPOTENCY_KEY)),
        identity=metadata_of(context, IDENTITY),
    )


def metadata_of(context: grpc.aio.ServicerContext[Any, Any], name: str) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == name:
            return value if isinstance(value, str) else value.decode("ascii", "replace")
    return ""


def _key(from_message: str, from_metadata: str) -> str:
    if from_message and from_metadata and from_message != from_metadata:
        raise invalid("idempotency_key", "differs from the metadata idempotency-key", reason="KEY_MALFORMED")
    key = from_metadata or from_message
    if len(key) > 255 or any(not "!" <= char <= "~" for char in key):
        raise invalid("idempotency_key", "must be 1 to 255 visible ASCII characters", reason="KEY_MALFORMED")
    return key


def session_id_of(session_id: str) -> str:
    if len(session_id) > _MAX_SESSION_ID or not session_id.isprintable():
        raise invalid("session_id", f"must be at most {_MAX_SESSION_ID} printable characters")
    return session_id
