"""How errors leave: each becomes a status with details, and nothing of our insides is told.

Every failure carries google.rpc.Status in `grpc-status-details-bin`: an ErrorInfo of domain "agent", and BadRequest or RetryInfo
where they say more. Exceptions nobody meant are logged with their traceback and leave as a bland INTERNAL.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from agent_server.core.failure import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message

    from agent_server.core.context import Usage

DOMAIN = "agent"
VERSION = "x-agent-version"
DETAILS = "grpc-status-details-bin"
USAGE = "x-usage-tokens"
PUSHBACK = "grpc-retry-pushback-ms"

_MAX_MESSAGE = 1024
_MAX_DETAILS = 4096
"""Clients take 8 KiB of metadata by default; an error that does not fit would become another error."""

log = logging.getLogger(__name__)


class Trailers:
    """What is told at the end of an RPC, however it ends: the version, what was used up, and what a call adds."""

    def __init__(self, version: str) -> None:
        self._pairs: list[tuple[str, str | bytes]] = [(VERSION, version)]
        self._usages: list[Usage] = []

    def add(self, name: str, value: str) -> None:
        """Tell this, too."""
        self._pairs.append((name, value))

    def charge(self, usage: Usage) -> None:
        """Tell what this has come to at the end."""
        self._usages.append(usage)

    def pairs(self) -> tuple[tuple[str, str | bytes], ...]:
        """All of them."""
        tokens = sum(each.tokens for each in self._usages)
        return (*self._pairs, (USAGE, str(tokens))) if tokens else tuple(self._pairs)


@asynccontextmanager
async def answering(context: grpc.aio.ServicerContext[Any, Any], version: str) -> AsyncIterator[Trailers]:
    """Run the body of an RPC: a Failure becomes its status, any other exception a bland INTERNAL. Trailers name the version."""
    trailers = Trailers(version)
    try:
        yield trailers
    except Failure as failure:
        log.info("refused: %s %s: %s", failure.code.name, failure.reason, failure.message)
        await _abort(context, failure, trailers)
    except grpc.aio.AbortError:
        raise
    except Exception:
        log.exception("defect")
        await _abort(context, defect(), trailers)
    else:
        context.set_trailing_metadata(trailers.pairs())


def defect() -> Failure:
    """What a caller is told of an exception nobody meant."""
    return Failure(grpc.StatusCode.INTERNAL, "DEFECT", "the agent failed; its log says why")


def status_of(failure: Failure) -> status_pb2.Status:
    """The failure as google.rpc.Status, small enough for any client's limit of metadata."""
    number: int = failure.code.value[0]
    status = status_pb2.Status(code=number, message=_cut(failure.message))
    metadata = {name: value[:256] for name, value in failure.metadata.items()}
    _add(status, error_details_pb2.ErrorInfo(reason=failure.reason, domain=DOMAIN, metadata=metadata))
    if failure.retry_after is not None:
        nanos = int(failure.retry_after * 1e9)
        delay = duration_pb2.Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)
        _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    request = error_details_pb2.BadRequest()
    for each in failure.violations:
        violation = request.field_violations.add(field=each.field[:256], description=each.description[:512])
        if status.ByteSize() + request.ByteSize() > _MAX_DETAILS:
            request.field_violations.remove(violation)
            break
    if request.field_violations:
        _add(status, request)
    return status


def _add(status: status_pb2.Status, detail: Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def _cut(message: str) -> str:
    return message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 1] + "…"


async def _abort(context: grpc.aio.ServicerContext[Any, Any], failure: Failure, trailers: Trailers) -> None:
    status = status_of(failure)
    told: list[tuple[str, str | bytes]] = [*trailers.pairs(), (DETAILS, status.SerializeToString())]
    if failure.retry_after is not None:
        told.append((PUSHBACK, str(int(failure.retry_after * 1000))))
    # The message must be the same as in the details: readers compare them.
    await context.abort(failure.code, status.message, tuple(told))
