from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.telemetry import names
from sidecar.telemetry.exposition import Exposition
from sidecar.telemetry.metrics import Histogram, Metrics


def test_children_are_the_same_object() -> None:
    metrics = Metrics()
    one = metrics.counter(names.CONFIG_RELOADS, result="accepted")
    assert metrics.counter(names.CONFIG_RELOADS, result="accepted") is one
    one.inc()
    metrics.counter(names.CONFIG_RELOADS, result="rejected").inc(2)
    assert metrics.samples(names.CONFIG_RELOADS) == {("accepted",): 1, ("rejected",): 2}


@given(st.lists(st.floats(0, 100)))
def test_histograms_count_everything_once(values: list[float]) -> None:
    histogram = Histogram((0.1, 1.0, 10.0))
    for value in values:
        histogram.observe(value)
    assert sum(histogram.counts) == len(values)
    assert histogram.counts[0] == sum(value <= 0.1 for value in values)
    assert histogram.counts[-1] == sum(value > 10 for value in values)


def test_the_page_is_prometheus_text() -> None:
    metrics = Metrics()
    metrics.counter(names.CONFIG_RELOADS, result="accepted").inc(3)
    metrics.gauge(names.LOOP_LAG).set(0.5)
    labels = {"listener": "in", "direction": "inbound", "route": "all", "grpc_service": "a.B", "grpc_method": "C"}
    metrics.histogram(names.RPC_SECONDS, names.RPC_BUCKETS, **labels).observe(0.003)
    metrics.defects["x"] += 1
    exposition = Exposition(metrics)
    kind, page = exposition.page(exposition.snapshot(), "")
    text = page.decode()
    assert kind.startswith("text/plain")
    assert 'sidecar_config_reloads_total{result="accepted"} 3.0' in text
    assert "sidecar_loop_lag_seconds 0.5" in text
    assert 'sidecar_defects_total{where="x"} 1.0' in text
    assert 'le="0.005"' in text
    assert "sidecar_rpc_duration_seconds_count" in text
    kind, page = exposition.page(exposition.snapshot(), "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert page.endswith(b"# EOF\n")


def test_readers_under_one_key_replace_each_other() -> None:
    metrics = Metrics()
    metrics.read(names.CONNECTIONS, lambda: [(("in", "inbound"), 1)], "key")
    metrics.read(names.CONNECTIONS, lambda: [(("in", "inbound"), 2)], "key")
    metrics.read(names.CONNECTIONS, lambda: [(("out", "outbound"), 5)], "other")
    assert metrics.samples(names.CONNECTIONS) == {("in", "inbound"): 2, ("out", "outbound"): 5}


def test_a_traced_value_is_an_exemplar_of_its_bucket() -> None:
    metrics = Metrics()
    labels = {"listener": "in", "direction": "inbound", "route": "all", "grpc_service": "a.B", "grpc_method": "C"}
    histogram = metrics.histogram(names.RPC_SECONDS, names.RPC_BUCKETS, **labels)
    for value in (0.003, 0.004, 99.0):
        histogram.observe(value)
    histogram.exemplify(0.003, b"a" * 32, 1700000000.1234)
    histogram.exemplify(0.004, b"b" * 32, 1700000001.0)
    histogram.exemplify(99.0, b"c" * 32, 1700000002.0)
    exposition = Exposition(metrics)
    _, page = exposition.page(exposition.snapshot(), "application/openmetrics-text; version=1.0.0")
    shown = [line for line in page.decode().splitlines() if "trace_id" in line]
    assert [line.partition(" # ")[2] for line in shown] == [
        f'{{trace_id="{"b" * 32}"}} 0.004 1700000001.0',
        f'{{trace_id="{"c" * 32}"}} 99.0 1700000002.0',
    ]
    _, text = exposition.page(exposition.snapshot(), "text/plain")
    assert b"trace_id" not in text


def test_histograms_can_be_read_and_added() -> None:
    metrics = Metrics()
    one, other = Histogram((1.0,)), Histogram((1.0,))
    one.observe(0.5)
    other.observe(2.0)
    other.exemplify(2.0, b"d" * 32, 1.0)
    one.add(other)
    metrics.read_histograms(names.GRPC_SERVER_SECONDS, lambda: {("unary", "a.B", "C"): one})
    assert metrics.histograms(names.GRPC_SERVER_SECONDS) == {("unary", "a.B", "C"): one}
    assert (one.counts, one.sum) == ([1, 1], 2.5)
    assert one.exemplars == {1: ("d" * 32, 2.0, 1.0)}
