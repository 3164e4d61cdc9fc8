from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.control.rpc_series import RpcSeries
from sidecar.grpc_wire.status import StatusCode
from sidecar.policies.metrics import Metrics
from sidecar.telemetry import names
from sidecar.telemetry.names import MetricName
from tests.support.bench import Bench, of

GET = ("test.Service", "Get")


def bench(direction: str = "inbound") -> Bench[Metrics]:
    made = of(Metrics, prepare=lambda runtime: replace(runtime, direction=direction))
    RpcSeries(made.metrics, lambda: [made.plan], lambda: [each for each in made.calls if not each.ended])
    return made


def counts(made: Bench[Metrics], name: MetricName) -> dict[tuple[str, ...], float]:
    return made.metrics.samples(name)


def call(made: Bench[Metrics], code: StatusCode = StatusCode.OK, *, messages: int = 1, method: str = "Get") -> None:
    made.request(method=f"/test.Service/{method}", end=False)
    for _ in range(messages):
        made.message(b"x")
    made.end(code)


def test_what_has_begun_and_what_has_ended() -> None:
    made = bench()
    call(made)
    call(made, StatusCode.NOT_FOUND)
    made.request(method="/test.Service/Get", end=False)
    assert counts(made, names.GRPC_SERVER_STARTED) == {("unary", *GET): 3}
    assert counts(made, names.GRPC_SERVER_HANDLED) == {("unary", *GET, "OK"): 1, ("unary", *GET, "NotFound"): 1}
    assert counts(made, names.GRPC_SERVER_RECEIVED) == {("unary", *GET): 2}
    assert counts(made, names.GRPC_SERVER_SENT) == {("unary", *GET): 0}
    assert counts(made, names.GRPC_CLIENT_STARTED) == {}
    (histogram,) = made.metrics.histograms(names.GRPC_SERVER_SECONDS).values()
    assert sum(histogram.counts) == 2


def test_outbound_is_a_client() -> None:
    made = bench("outbound")
    call(made)
    assert counts(made, names.GRPC_CLIENT_HANDLED) == {("unary", *GET, "OK"): 1}
    assert counts(made, names.GRPC_CLIENT_SENT) == {("unary", *GET): 1}
    assert counts(made, names.GRPC_CLIENT_RECEIVED) == {("unary", *GET): 0}
    assert counts(made, names.GRPC_SERVER_STARTED) == {}


def test_a_method_is_a_stream_once_it_was_one() -> None:
    made = bench()
    call(made)
    call(made, messages=2)
    call(made)
    assert counts(made, names.GRPC_SERVER_HANDLED) == {("client_stream", *GET, "OK"): 3}


@pytest.mark.parametrize(
    ("sent", "received", "kind"),
    [(1, 1, "unary"), (2, 1, "client_stream"), (1, 2, "server_stream"), (2, 2, "bidi_stream")],
)
def test_the_type_shows_while_it_runs(sent: int, received: int, kind: str) -> None:
    made = bench()
    call(made)
    made.request(method="/test.Service/Get", end=False)
    made.last.request_messages, made.last.response_messages = sent, received
    made.metrics.samples(names.GRPC_SERVER_STARTED)
    assert counts(made, names.GRPC_SERVER_STARTED) == {(kind, *GET): 2}


def test_invented_methods_make_no_series() -> None:
    made = bench()
    for i in range(30):
        call(made, StatusCode.UNIMPLEMENTED, method=f"Evil{i}")
    made.request(method="/test.Service/Evil", end=False)
    assert counts(made, names.GRPC_SERVER_STARTED) == {("unary", "_OTHER", "_OTHER"): 30}
