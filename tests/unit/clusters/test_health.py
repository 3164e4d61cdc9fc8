from __future__ import annotations

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from hypothesis import given
from hypothesis import strategies as st

from sidecar.clusters.health import read_response, write_request


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=255))
def test_what_we_ask_is_what_protobuf_writes(service: str) -> None:
    assert write_request(service) == HealthCheckRequest(service=service).SerializeToString()


@pytest.mark.parametrize("status", HealthCheckResponse.ServingStatus.values())
def test_what_protobuf_writes_is_what_we_read(status: HealthCheckResponse.ServingStatus) -> None:
    assert read_response(HealthCheckResponse(status=status).SerializeToString()) == status


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 0),
        (b"\x08\x01", 1),
        # Fields of a later version, of each wire type, around the one we know.
        (b"\x10\x05\x19" + bytes(8) + b"\x08\x01\x22\x02hi\x2d" + bytes(4), 1),
        # The last one counts.
        (b"\x08\x01\x08\x02", 2),
        (b"\x08\xac\x02", 300),
    ],
)
def test_other_fields_are_skipped(data: bytes, status: int) -> None:
    assert read_response(data) == status


@pytest.mark.parametrize("data", [b"\x08", b"\x08\xff", b"\xff" * 12, b"\x12\x05hi", b"\x19abc", b"\x0b", b"\x2d\x00"])
def test_what_is_cut_off_or_unknown_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_response(data)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        assert read_response(data) >= 0
    except ValueError:
        return
