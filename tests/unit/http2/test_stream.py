from __future__ import annotations

import pytest

from sidecar.http2.errors import ErrorCode
from sidecar.http2.stream import Stream
from tests.support.wire import (
    RESPONSE,
    ScriptedStream,
    Wire,
    block,
    client_connection,
    request_block,
    server_connection,
)


def joined() -> tuple[ScriptedStream, ScriptedStream, Wire]:
    taken: list[ScriptedStream] = []

    def accept(_: object) -> ScriptedStream:
        taken.append(ScriptedStream(consumes=False))
        return taken[-1]

    wire = Wire(client_connection(), server_connection(accept))
    wire.start()
    caller = ScriptedStream()
    wire.client.open(caller)
    caller.send_headers(request_block())
    wire.run()
    return caller, taken[0], wire


def test_trailers_wait_for_data_that_waits() -> None:
    caller, served, wire = joined()
    caller.send_data(b"x" * 400_000, False)
    caller.send_trailers(block(("grpc-status", "0")))
    wire.run()
    assert served.seen.trailers is None
    while not served.seen.ended:
        served.consume(len(served.seen.data) - served.drained)
        served.drained = len(served.seen.data)
        wire.run()
    assert len(served.seen.data) == 400_000
    assert served.seen.trailers == [(b"grpc-status", b"0")]
    # What `send_data` kept was told as it left.
    assert 0 < caller.drained <= 400_000


def test_a_reset_drops_what_waits_and_is_told_to_the_peer_once() -> None:
    caller, served, wire = joined()
    caller.send_data(b"x" * 400_000, False)
    caller.reset(ErrorCode.CANCEL)
    caller.reset(ErrorCode.CANCEL)
    wire.run()
    assert served.seen.reset == ErrorCode.CANCEL
    assert not wire.client.backlog
    assert caller.seen.events == []


def test_both_ends_forget_a_stream_that_both_have_ended() -> None:
    caller, served, wire = joined()
    served.send_headers(block(*RESPONSE, ("grpc-status", "0")), True)
    wire.run()
    assert wire.client.streams
    caller.send_data(b"", True)
    wire.run()
    assert not wire.client.streams
    assert not wire.server.streams


@pytest.mark.parametrize("callback", ["on_headers", "on_data", "on_trailers", "on_reset", "on_drained", "on_headers_too_large"])
def test_the_owner_must_listen(callback: str) -> None:
    arguments = {"on_headers": (None, False), "on_data": (b"", False)}.get(callback, (None,))
    with pytest.raises(NotImplementedError):
        getattr(Stream(), callback)(*arguments)
