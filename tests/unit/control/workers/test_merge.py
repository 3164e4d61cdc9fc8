"""Pages of workers become one page."""

from __future__ import annotations

from prometheus_client.core import Metric

from sidecar.control.workers import merge

ONE = """
# HELP sidecar_rpcs_total RPCs.
# TYPE sidecar_rpcs_total counter
sidecar_rpcs_total{route="a"} 3.0
sidecar_rpcs_total{route="b"} 1.0
# HELP sidecar_rpcs_active RPCs that run now.
# TYPE sidecar_rpcs_active gauge
sidecar_rpcs_active 2.0
# HELP sidecar_loop_lag_seconds Lag.
# TYPE sidecar_loop_lag_seconds gauge
sidecar_loop_lag_seconds 0.5
# HELP sidecar_config_generation Generation.
# TYPE sidecar_config_generation gauge
sidecar_config_generation 7.0
# HELP sidecar_rpc_duration_seconds Time.
# TYPE sidecar_rpc_duration_seconds histogram
sidecar_rpc_duration_seconds_bucket{le="0.1"} 1.0
sidecar_rpc_duration_seconds_bucket{le="+Inf"} 2.0
sidecar_rpc_duration_seconds_count 2.0
sidecar_rpc_duration_seconds_sum 1.5
"""
TWO = """
# HELP sidecar_rpcs_total RPCs.
# TYPE sidecar_rpcs_total counter
sidecar_rpcs_total{route="a"} 4.0
# HELP sidecar_rpcs_active RPCs that run now.
# TYPE sidecar_rpcs_active gauge
sidecar_rpcs_active 1.0
# HELP sidecar_loop_lag_seconds Lag.
# TYPE sidecar_loop_lag_seconds gauge
sidecar_loop_lag_seconds 0.25
# HELP sidecar_config_generation Generation.
# TYPE sidecar_config_generation gauge
sidecar_config_generation 6.0
# HELP sidecar_rpc_duration_seconds Time.
# TYPE sidecar_rpc_duration_seconds histogram
sidecar_rpc_duration_seconds_bucket{le="0.1"} 5.0
sidecar_rpc_duration_seconds_bucket{le="+Inf"} 5.0
sidecar_rpc_duration_seconds_count 5.0
sidecar_rpc_duration_seconds_sum 0.25
"""


def values(families: list[Metric]) -> dict[str, float]:
    return {f"{each.name}{each.labels or ''}": each.value for family in families for each in family.samples}


def test_counts_add_up_and_measures_are_the_worst() -> None:
    assert values(merge.merge([ONE, TWO])) == {
        "sidecar_rpcs_total{'route': 'a'}": 7.0,
        "sidecar_rpcs_total{'route': 'b'}": 1.0,
        "sidecar_rpcs_active": 3.0,
        "sidecar_loop_lag_seconds": 0.5,
        "sidecar_config_generation": 6.0,
        "sidecar_rpc_duration_seconds_bucket{'le': '0.1'}": 6.0,
        "sidecar_rpc_duration_seconds_bucket{'le': '+Inf'}": 7.0,
        "sidecar_rpc_duration_seconds_count": 7.0,
        "sidecar_rpc_duration_seconds_sum": 1.75,
    }


def test_one_page_stays_as_it_is() -> None:
    content_type, body = merge.page(merge.merge([ONE]), "text/plain")
    assert content_type.startswith("text/plain")
    lines = [line for line in ONE.strip().splitlines() if not line.startswith("#")]
    assert [line for line in body.decode().splitlines() if not line.startswith("#")] == lines


def test_nothing_makes_an_empty_page() -> None:
    assert merge.page(merge.merge([]), "text/plain")[1] == b""
