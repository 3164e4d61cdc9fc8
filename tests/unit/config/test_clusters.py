from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.clusters.balancing import Balancing
from sidecar.config.clusters import ClusterConfig
from sidecar.config.model import ContradictionsError

TLS = {"trusted_ca": "ca.crt"}


def test_a_cluster_needs_nothing_but_endpoints() -> None:
    cluster = _cluster()
    assert (cluster.endpoints, cluster.tls, cluster.connections) == (("a:1",), None, 1)
    assert (cluster.connect_timeout, cluster.keepalive.interval, cluster.keepalive.timeout) == (5.0, 300.0, 20.0)


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({"tls": TLS | {"certificate": "a.crt"}}, {"private_key": "is missing, but there is a certificate"}),
        ({"tls": TLS | {"private_key": "a.key"}}, {"certificate": "is missing, but there is a private_key"}),
        ({"endpoints": ["a:1", "b:1", "a:1"]}, {"endpoints.2": "is given twice (as endpoints.0, too)"}),
        ({"endpoints": ["a:1", "unix:/a"], "tls": TLS}, {"endpoints.1": "has no host name to look for"}),
    ],
)
def test_fields_that_are_wrong_together(fields: dict[str, Any], problems: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as refused:
        _cluster(**fields)
    cause = refused.value.errors()[0]["ctx"]["error"]
    assert isinstance(cause, ContradictionsError)
    assert {field: message.split(";")[0] for field, message in cause.found}.keys() == problems.keys()
    for field, message in cause.found:
        assert message.startswith(problems[field])


@pytest.mark.parametrize(
    "fields",
    [
        {"endpoints": []},
        {"endpoints": ["a"]},
        {"connections": 0},
        {"connections": 65},
        {"connect_timeout": "0s"},
        {"keepalive": {"interval": "9s"}},
        {"keepalive": {"timeout": "0s"}},
        {"tls": {}},
        {"tls": TLS | {"peer_identities": ["*"]}},
        {"tls": TLS | {"server_name": "a b"}},
        {"balancing": "fastest"},
        {"balancing": "ring_hash"},
        {"balancing": {"ring_hash": {}}},
        {"balancing": {"ring_hash": {"key": "colour"}}},
        {"balancing": {"ring_hash": {"key": "metadata.X"}}},
        {"balancing": {"ring_hash": {"key": "identity", "size": 1}}},
        {"circuit_breaker": {"failure_threshold": 0}},
        {"circuit_breaker": {"failure_codes": ["OK"]}},
        {"circuit_breaker": {"open_for": "0s"}},
        {"outlier_ejection": {"base_ejection": "10m"}},
        {"outlier_ejection": {"max_ejected_percent": 101}},
        {"health_check": {"mode": "sometimes"}},
        {"health_check": {"timeout": "0s"}},
        {"concurrency": {"max_in_flight": 0}},
        {"panic_below": -1},
    ],
)
def test_what_no_cluster_can_have(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _cluster(**fields)


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ("round_robin", Balancing("round_robin")),
        ("least_request", Balancing("least_request")),
        ({"ring_hash": {"key": "identity"}}, Balancing("ring_hash", "identity")),
        ({"ring_hash": {"key": "metadata.x-session"}}, Balancing("ring_hash", "metadata.x-session")),
    ],
)
def test_ways_to_balance_are_read_and_written_alike(written: Any, rule: Balancing) -> None:
    cluster = _cluster(balancing=written)
    assert cluster.balancing == rule
    assert json.loads(cluster.model_dump_json())["balancing"] == written


def test_a_cluster_watches_its_endpoints_only_when_told_to() -> None:
    plain = _cluster()
    assert (plain.balancing, plain.slow_start, plain.panic_below) == (Balancing("round_robin"), 0.0, 50.0)
    assert (plain.circuit_breaker, plain.outlier_ejection, plain.health_check, plain.concurrency) == (None,) * 4
    told = _cluster(circuit_breaker={}, outlier_ejection={}, health_check={}, concurrency={})
    assert told.circuit_breaker is not None
    assert (told.circuit_breaker.failure_threshold, told.circuit_breaker.success_threshold) == (5, 2)
    assert (told.circuit_breaker.open_for, told.circuit_breaker.half_open_max) == (60.0, 1)
    assert told.outlier_ejection is not None
    assert (told.outlier_ejection.base_ejection, told.outlier_ejection.max_ejection) == (30.0, 300.0)
    assert told.outlier_ejection.max_ejected_percent == 50
    assert told.health_check is not None
    assert (told.health_check.mode, told.health_check.interval, told.health_check.timeout) == ("watch", 5.0, 1.0)
    assert told.concurrency is not None
    assert (told.concurrency.max_in_flight, told.concurrency.max_pending) == (1024, 1024)


@pytest.mark.parametrize("how", [{"server_name": "data"}, {"peer_identities": ["spiffe://mesh.local/a"]}])
def test_a_unix_endpoint_may_be_known_by_another_name(how: dict[str, Any]) -> None:
    assert _cluster(endpoints=["unix:/a"], tls=TLS | how).endpoints == ("unix:/a",)


def _cluster(**fields: Any) -> ClusterConfig:
    return ClusterConfig.model_validate_json(json.dumps({"endpoints": ["a:1"]} | fields))
