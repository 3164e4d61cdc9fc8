"""The metrics of a scripted run equal what was sent, exactly; Prometheus's own tool finds nothing to say against the page."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.journeys.pair import Pair
from tests.support.processes import Sidecar

OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
MESSAGE = b"x" * 7
FRAMED = len(MESSAGE) + 5
TOP = """
policies:
  retry: {max_attempts: 3, initial_backoff: 10ms, max_backoff: 20ms, only_idempotent: false}
  tracing: {otlp: "http://127.0.0.1:1", sample: 0}
  budget: [{name: tokens, limit: 1000/1h, per: [identity], reserve: 1, charge: {trailer: x-tokens}}]
"""


class Agent(grpc.GenericRpcHandler):
    """shop.Orders: `Get` answers, `Fail` ends with NOT_FOUND, `Flaky` fails at the first attempt, `List` answers three times,
    `Upload` reads all, `Chat` echoes; whatever else, it does not know.
    """

    def service(self, details: Any) -> Any:
        return {
            "/shop.Orders/Get": grpc.unary_unary_rpc_method_handler(self._get),
            "/shop.Orders/Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "/shop.Orders/Flaky": grpc.unary_unary_rpc_method_handler(self._flaky),
            "/shop.Orders/List": grpc.unary_stream_rpc_method_handler(lambda message, _: iter([message] * 3)),
            "/shop.Orders/Upload": grpc.stream_unary_rpc_method_handler(lambda messages, _: b"".join(messages)[:7]),
            "/shop.Orders/Chat": grpc.stream_stream_rpc_method_handler(lambda messages, _: messages),
        }.get(details.method)

    def _get(self, message: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("x-tokens", "100"),))
        return message

    def _fail(self, message: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such order")
        raise AssertionError

    def _flaky(self, message: bytes, context: Any) -> bytes:
        if "grpc-previous-rpc-attempts" not in dict(context.invocation_metadata()):
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return message


@pytest.fixture
def agent() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Agent(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def run(address: str) -> None:
    """5 Get, one of them traced, 3 Fail, 2 Flaky, 2 List, 1 Upload of 4, 1 Chat of 2, 2 of what there is not."""
    with grpc.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:

        def unary(method: str, *metadata: tuple[str, str]) -> grpc.StatusCode:
            try:
                channel.unary_unary(method)(MESSAGE, metadata=metadata, timeout=15)
            except grpc.RpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        codes = [unary("/shop.Orders/Get") for _ in range(4)]
        codes += [unary("/shop.Orders/Get", ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"))]
        codes += [unary("/shop.Orders/Flaky") for _ in range(2)]
        assert codes == [grpc.StatusCode.OK] * 7
        assert [unary("/shop.Orders/Fail") for _ in range(3)] == [grpc.StatusCode.NOT_FOUND] * 3
        assert [unary(f"/evil.Service/M{i}") for i in range(2)] == [grpc.StatusCode.UNIMPLEMENTED] * 2
        for _ in range(2):
            assert len(list(channel.unary_stream("/shop.Orders/List")(MESSAGE, timeout=15))) == 3
        assert channel.stream_unary("/shop.Orders/Upload")(iter([MESSAGE] * 4), timeout=15) == MESSAGE
        assert len(list(channel.stream_stream("/shop.Orders/Chat")(iter([MESSAGE] * 2), timeout=15))) == 2


# (type, method) → (RPCs by code, messages of callers, messages of the agent)
EXPECTED: dict[tuple[str, str], tuple[dict[str, int], int, int]] = {
    ("unary", "Get"): ({"OK": 5}, 5, 5),
    ("unary", "Fail"): ({"NotFound": 3}, 3, 0),
    ("unary", "Flaky"): ({"OK": 2}, 2, 2),
    ("server_stream", "List"): ({"OK": 2}, 2, 6),
    ("client_stream", "Upload"): ({"OK": 1}, 4, 1),
    ("bidi_stream", "Chat"): ({"OK": 1}, 2, 2),
    ("unary", "_OTHER"): ({"Unimplemented": 2}, 2, 0),
}


class Page:
    """A scrape: samples by name and labels."""

    def __init__(self, sidecar: Sidecar) -> None:
        status, text = sidecar.get("/metrics")
        assert status == 200
        self.text = text
        self.samples = [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Sums of a family by some labels; nothing where it is 0."""
        found: dict[tuple[str, ...], float] = {}
        for sample, given, value in self.samples:
            if sample == name and value:
                key = tuple(given[label] for label in labels)
                found[key] = found.get(key, 0) + value
        return found


def check_de_facto(page: Page, side: str, received: int, sent: int) -> None:
    """`received`, `sent`: which of the two message counts of EXPECTED that is, from this side."""
    kind = ("grpc_type", "grpc_method")
    assert page.by(f"grpc_{side}_handled_total", *kind, "grpc_code") == {
        (*key, code): count for key, (codes, *_) in EXPECTED.items() for code, count in codes.items()
    }
    total = {key: sum(codes.values()) for key, (codes, *_) in EXPECTED.items()}
    assert page.by(f"grpc_{side}_started_total", *kind) == total
    assert page.by(f"grpc_{side}_handling_seconds_count", *kind) == total
    assert page.by(f"grpc_{side}_msg_received_total", *kind) == {
        key: each[received] for key, each in EXPECTED.items() if each[received]
    }
    assert page.by(f"grpc_{side}_msg_sent_total", *kind) == {
        key: each[sent] for key, each in EXPECTED.items() if each[sent]
    }
    services = {labels[0] for labels in page.by(f"grpc_{side}_started_total", "grpc_service")}
    assert services == {"shop.Orders", "_OTHER"}


def test_the_metrics_are_what_was_sent(tmp_path: Path, agent: str) -> None:
    with Pair(tmp_path, agent, top=TOP) as pair:
        run(pair.address)
        outer, inner = Page(pair.outbound), Page(pair.inbound)
        status, exemplars = pair.inbound.get("/metrics", OPENMETRICS)
    check_de_facto(outer, "client", received=2, sent=1)
    check_de_facto(inner, "server", received=1, sent=2)
    assert outer.by("grpc_server_started_total", "grpc_method") == {}
    assert inner.by("grpc_client_started_total", "grpc_method") == {}

    methods = {method: each for (_, method), each in EXPECTED.items()}
    for page in (outer, inner):
        assert page.by("sidecar_rpcs_total", "grpc_method", "grpc_code") == {
            (method, code): count for method, (codes, *_) in methods.items() for code, count in codes.items()
        }
        assert page.by("sidecar_rpc_received_bytes_total", "grpc_method") == {
            (method,): each[1] * FRAMED for method, each in methods.items()
        }
        assert page.by("sidecar_rpc_sent_bytes_total", "grpc_method") == {
            (method,): each[2] * FRAMED for method, each in methods.items() if each[2]
        }
        assert page.by("sidecar_rpcs_active", "route") == {}
    # The inner one repeats; the outer one sees an RPC that went well.
    attempts = {(method,): float(sum(codes.values())) for method, (codes, *_) in methods.items()}
    assert outer.by("sidecar_attempts_total", "grpc_method") == attempts
    assert inner.by("sidecar_attempts_total", "grpc_method") == {**attempts, ("Flaky",): 4.0}
    assert inner.by("sidecar_retries_total", "result") == {("started",): 2.0}
    assert inner.by("sidecar_budget_charged_total", "limit")[("tokens",)] >= 500
    left = inner.by("sidecar_budget_left_ratio", "limit")[("tokens",)]
    assert left == 1 - inner.by("sidecar_budget_charged_total", "limit")[("tokens",)] / 1000

    assert status == 200
    found = [
        sample.exemplar.labels
        for family in openmetrics(exemplars)
        for sample in family.samples
        if sample.exemplar is not None and sample.name == "grpc_server_handling_seconds_bucket"
    ]
    assert found == [{"trace_id": TRACE}]
    for sidecar in (outer, inner):
        check_by_promtool(sidecar.text)


def check_by_promtool(text: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        return
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    # The library's own counter is not ours to name.
    said = [
        line for line in (checked.stdout + checked.stderr).splitlines() if line and not line.startswith("python_gc")
    ]
    assert said == []
