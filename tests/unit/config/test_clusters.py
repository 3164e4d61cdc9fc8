from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

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
        {"balancing": "least_request"},
    ],
)
def test_what_no_cluster_can_have(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _cluster(**fields)


@pytest.mark.parametrize("how", [{"server_name": "data"}, {"peer_identities": ["spiffe://mesh.local/a"]}])
def test_a_unix_endpoint_may_be_known_by_another_name(how: dict[str, Any]) -> None:
    assert _cluster(endpoints=["unix:/a"], tls=TLS | how).endpoints == ("unix:/a",)


def _cluster(**fields: Any) -> ClusterConfig:
    return ClusterConfig.model_validate_json(json.dumps({"endpoints": ["a:1"]} | fields))
