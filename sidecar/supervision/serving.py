"""Asks a server once whether it serves: grpc.health.v1 Check over our own engine, on a connection of its own.

On one of its own, because the question is about the process: it must be answered while RPCs use all streams of the others.
"""

from __future__ import annotations

import asyncio
import enum
import socket
from typing import TYPE_CHECKING

from sidecar import __version__
from sidecar.clusters.health import Question, write_request
from sidecar.grpc_wire.messages import frame
from sidecar.grpc_wire.status import StatusCode
from sidecar.http2.connection import Connection
from sidecar.http2.hpack import encode_field
from sidecar.transport.dial import dial
from sidecar.transport.socket import Flusher, Socket

if TYPE_CHECKING:
    from sidecar.runtime import Runtime

_CHECK = b"/grpc.health.v1.Health/Check"
_SERVING = 1


class Answer(enum.Enum):
    """What came of the question."""

    SERVING = "SERVING"
    NO_HEALTH_SERVICE = "it accepts RPCs and has no health service"
    NOT_SERVING = "its health service says that it does not serve"
    NO_ANSWER = "no answer in time"
    NOBODY = "nothing listens at its address"
    BROKEN = "what listens at its address does not speak gRPC"

    @property
    def serves(self) -> bool:
        return self in {Answer.SERVING, Answer.NO_HEALTH_SERVICE}


async def ask(address: str, service: str, runtime: Runtime, timeout: float) -> Answer:
    """Ask `address` for `service` (empty = the whole server); an answer within about `timeout` seconds."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Answer] = loop.create_future()
    statuses: list[int] = []

    def settle(answer: Answer) -> None:
        if not answered.done():
            answered.set_result(answer)

    def over(code: StatusCode, _why: str) -> None:
        if code is StatusCode.UNIMPLEMENTED:
            settle(Answer.NO_HEALTH_SERVICE)
        elif code is StatusCode.OK and statuses:
            settle(Answer.SERVING if statuses[-1] == _SERVING else Answer.NOT_SERVING)
        else:
            settle(Answer.NOT_SERVING if code is StatusCode.NOT_FOUND else Answer.BROKEN)

    question = Question(statuses.append, over)

    def made(opened: Socket) -> Connection:
        connection = Connection(accept=None, wake=opened.wake)
        connection.on_closed = lambda: settle(Answer.BROKEN)

        def begin() -> None:
            connection.open(question)
            question.send_headers(_headers(address))
            question.send_data(frame(write_request(service)), True)

        connection.on_settings = begin
        return connection

    flusher = Flusher(loop)
    opened: Socket | None = None
    try:
        async with asyncio.timeout(timeout):
            opened = await dial(
                address,
                lambda: Socket(flusher, runtime.clock.monotonic, made, lambda _: settle(Answer.BROKEN)),
                timeout=timeout,
            )
            return await answered
    except TimeoutError:
        return Answer.NO_ANSWER
    except (ConnectionRefusedError, FileNotFoundError, socket.gaierror):
        return Answer.NOBODY
    except OSError:
        return Answer.BROKEN
    finally:
        if opened is not None:
            if opened.connection is not None:
                opened.connection.close()
            opened.close()


def _headers(address: str) -> bytes:
    authority = "localhost" if address.startswith("unix:") else address
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":authority", authority.encode()),
        (b":path", _CHECK),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", f"grpc-sidecar/{__version__}".encode()),
    ]
    return b"".join(encode_field(*each)[2] for each in fields)
