from __future__ import annotations

from types import SimpleNamespace

from sidecar.grpc_wire.status import StatusCode
from sidecar.policies.metrics import Metrics
from sidecar.telemetry import names
from tests.support.bench import of


def counts(bench: object) -> dict[tuple[str, ...], float]:
    found = bench.metrics.samples(names.RPCS)
    return {(values[4], values[5], values[6]): count for values, count in found.items()}


def test_every_call_is_counted_once_by_its_end() -> None:
    bench = of(Metrics)
    for code in (StatusCode.OK, StatusCode.OK, StatusCode.NOT_FOUND):
        bench.request()
        bench.end(code)
        bench.end(code)
    bench.request(end=False)
    bench.cancel()
    assert counts(bench) == {
        ("Method", "OK", "agent"): 2,
        ("Method", "NotFound", "agent"): 1,
        ("Method", "Cancelled", "caller"): 1,
    }


def test_invented_methods_make_no_series() -> None:
    bench = of(Metrics)
    for i in range(50):
        bench.request(method=f"/evil.Service/M{i}")
        bench.end(StatusCode.UNIMPLEMENTED)
    assert counts(bench) == {("_OTHER", "Unimplemented", "agent"): 50}


def test_methods_that_answer_are_bounded_too() -> None:
    bench = of(Metrics)
    for i in range(600):
        bench.request(method=f"/a.Service/M{i}")
        bench.end(StatusCode.OK)
    found = counts(bench)
    assert len(found) <= 501
    assert sum(found.values()) == 600


def test_bytes_messages_and_durations() -> None:
    bench = of(Metrics)
    bench.request(end=False)
    bench.message(b"12345")
    bench.clock.advance(0.004)
    bench.message(b"", end=True)
    bench.end(StatusCode.OK)
    key = ("bench", "inbound", "bench", "test.Service", "Method")
    assert bench.metrics.samples(names.MESSAGES_RECEIVED)[key] == 2
    assert bench.metrics.samples(names.BYTES_RECEIVED)[key] == 15
    histogram = bench.metrics.histograms(names.RPC_SECONDS)[key]
    assert sum(histogram.counts) == 1


def test_attempts_are_counted() -> None:
    bench = of(Metrics)
    bench.request()
    bench.last.attempts = 3
    bench.end(StatusCode.OK)
    assert bench.metrics.samples(names.ATTEMPTS)[("bench", "inbound", "bench", "test.Service", "Method")] == 3


def test_a_traced_call_is_an_exemplar() -> None:
    bench = of(Metrics)
    bench.request(notes={"tracing": SimpleNamespace(trace_id=b"a" * 32)})
    bench.end(StatusCode.OK)
    (histogram,) = bench.metrics.histograms(names.RPC_SECONDS).values()
    assert histogram.exemplars is not None
    assert [each.trace_id for each in histogram.exemplars.values()] == ["a" * 32]
