from __future__ import annotations

import pytest

from sidecar.grpc_wire.status import StatusCode
from sidecar.telemetry.spans import Kind, Span


def span(kind: Kind = "server", path: str = "/p.S/M") -> Span:
    return Span(kind, path, trace_id=b"1" * 32, span_id=b"2" * 16, parent_id=None, tracestate=b"", started=0.0)


@pytest.mark.parametrize(
    ("code", "server", "client"),
    [
        (StatusCode.OK, False, False),
        (StatusCode.NOT_FOUND, False, True),
        (StatusCode.PERMISSION_DENIED, False, True),
        (StatusCode.UNAVAILABLE, True, True),
        (StatusCode.DEADLINE_EXCEEDED, True, True),
    ],
)
def test_whose_error_it_is(code: StatusCode, server: bool, client: bool) -> None:
    kinds: list[tuple[Kind, bool]] = [("server", server), ("client", client)]
    for kind, is_error in kinds:
        made = span(kind)
        made.end(1.0, code, "why")
        assert made.is_error is is_error
        assert made.attributes.get("error.type") == (code.name if is_error else None)
        assert made.message == ("why" if is_error else "")


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("10.0.0.1:8443", {"server.address": "10.0.0.1", "server.port": 8443}),
        ("[::1]:80", {"server.address": "::1", "server.port": 80}),
        ("unix:/run/agent.sock", {"server.address": "/run/agent.sock"}),
    ],
)
def test_an_address_in_its_parts(address: str, found: dict[str, object]) -> None:
    made = span()
    made.address("server.address", "server.port", address)
    assert {name: each for name, each in made.attributes.items() if name.startswith("server")} == found


def test_a_call_without_a_method_has_a_name() -> None:
    assert span(path="").name == "_OTHER"
