"""A caller's own retry policy (gRFC A6, in grpcio's service config) works through two sidecars as it does without them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.journeys.pair import Pair

POLICY = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.02s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


class Server:
    """Fails the first attempts of each RPC as its request says; keeps what each attempt said of former ones."""

    def __init__(self) -> None:
        self.attempts: list[str | None] = []
        self._lock = threading.Lock()
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Stream": grpc.stream_stream_rpc_method_handler(self._stream),
        }
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Flaky", handlers)])
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def _unary(self, request: bytes, context: Any) -> bytes:
        self._fail_first(json.loads(request), context)
        return b"done"

    def _stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        received = list(requests)
        wish = json.loads(received[0])
        self._fail_first(wish, context)
        yield from received[1:]

    def _fail_first(self, wish: dict[str, Any], context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        with self._lock:
            self.attempts.append(metadata.get("grpc-previous-rpc-attempts"))
            count = len(self.attempts)
        if count > wish["failures"]:
            return
        if wish.get("headers"):
            context.send_initial_metadata((("x-early", "1"),))
        if "pushback" in wish:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", wish["pushback"]),))
        context.abort(grpc.StatusCode[wish.get("code", "UNAVAILABLE")], f"attempt {count} fails")


def call(target: str, wish: dict[str, Any], *, streams: bool) -> tuple[str, Any]:
    """(code, what came)."""
    request = json.dumps(wish).encode()
    with grpc.insecure_channel(target, options=[("grpc.service_config", json.dumps(POLICY))]) as channel:
        try:
            if not streams:
                return "OK", channel.unary_unary("/test.Flaky/Unary")(request, timeout=10, wait_for_ready=True)
            asked = iter([request, b"one", b"two"])
            return "OK", list(channel.stream_stream("/test.Flaky/Stream")(asked, timeout=10, wait_for_ready=True))
        except grpc.RpcError as error:
            return error.code().name, error.details()


CASES: dict[str, tuple[dict[str, Any], str, list[str | None]]] = {
    "two failures": ({"failures": 2}, "OK", [None, "1", "2"]),
    "more than it may try": ({"failures": 9}, "UNAVAILABLE", [None, "1", "2", "3"]),
    "a code that is not repeated": ({"failures": 9, "code": "ABORTED"}, "ABORTED", [None]),
    "told when": ({"failures": 1, "pushback": "20"}, "OK", [None, "1"]),
    "told not to": ({"failures": 1, "pushback": "-1"}, "UNAVAILABLE", [None]),
    "after initial metadata": ({"failures": 1, "headers": True}, "UNAVAILABLE", [None]),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.server.stop(None)


@pytest.fixture(scope="module")
def pair(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(Path(tmp_path_factory.mktemp("pair")), server.address) as made:
        yield made


@pytest.mark.parametrize("streams", [False, True], ids=["unary", "bidirectional"])
@pytest.mark.parametrize("name", CASES)
def test_the_clients_policy_sees_what_it_would_see_without_us(
    server: Server, pair: Pair, name: str, streams: bool
) -> None:
    wish, code, attempts = CASES[name]
    found = []
    for target in (server.address, pair.address):
        server.attempts.clear()
        found.append((call(target, wish, streams=streams), list(server.attempts)))
    without, through = found
    assert through == without
    assert (without[0][0], without[1]) == (code, attempts)
