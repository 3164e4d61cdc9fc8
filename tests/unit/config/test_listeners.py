from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.config.listeners import LimitsConfig, ListenerConfig, ListenerTlsConfig, MatchConfig

TLS = {"certificate": "a.crt", "private_key": "a.key"}


def test_limits_have_the_defaults_of_the_contract() -> None:
    assert LimitsConfig().model_dump(mode="json") == {
        "max_concurrent_streams": 1000,
        "max_connections": 10000,
        "max_metadata": "16KiB",
        "max_message": "4MiB",
        "idle_timeout": "1h",
        "max_connection_age": "0s",
        "header_timeout": "10s",
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_concurrent_streams", 2**31),
        ("max_connections", 0),
        ("max_metadata", "1B"),
        ("max_metadata", "2MiB"),
        ("max_message", "3GiB"),
        ("idle_timeout", "0s"),
        ("header_timeout", "0s"),
        ("header_timeout", "11m"),
    ],
)
def test_limits_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as refused:
        LimitsConfig.model_validate({field: value})
    assert refused.value.errors()[0]["loc"] == (field,)


def test_a_method_may_stand_alone_or_in_a_list() -> None:
    assert MatchConfig.model_validate({"method": "/a.S/*"}).methods == ("/a.S/*",)
    assert MatchConfig.model_validate({"method": ["/a.S/Get", "/a.S/Put"]}).methods == ("/a.S/Get", "/a.S/Put")


@pytest.mark.parametrize("method", [[], 5, "", [5], {"a": "b"}])
def test_a_match_without_a_method_is_refused(method: object) -> None:
    with pytest.raises(ValidationError):
        MatchConfig.model_validate({"method": method})


def test_a_caller_must_show_a_certificate_unless_told_otherwise() -> None:
    assert _tls(trusted_ca="ca.crt").client_certificate == "require"


@pytest.mark.parametrize("choice", ["require", "optional"])
def test_certificates_cannot_be_judged_without_a_ca(choice: str) -> None:
    with pytest.raises(ValidationError, match=f"trusted_ca is missing, but client_certificate is {choice}"):
        _tls(client_certificate=choice)
    assert _tls(client_certificate=choice, trusted_ca="ca.crt").client_certificate == choice


def test_without_client_certificates_no_ca_is_needed() -> None:
    assert _tls(client_certificate="none").trusted_ca is None


def test_a_listener_needs_a_route() -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        ListenerConfig.model_validate_json('{"name": "a", "direction": "inbound", "bind": "a:1", "routes": []}')


def _tls(**fields: Any) -> ListenerTlsConfig:
    return ListenerTlsConfig.model_validate(TLS | fields)
