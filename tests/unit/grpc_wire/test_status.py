from __future__ import annotations

import grpc
import pytest

from sidecar.grpc_wire.status import (
    SERVER_FAULTS,
    StatusCode,
    code_label,
    from_http_status,
    from_rst_code,
    parse_status,
)


def test_codes_are_those_of_grpc() -> None:
    assert {code.name: int(code) for code in StatusCode} == {code.name: code.value[0] for code in grpc.StatusCode}


@pytest.mark.parametrize(
    ("value", "code"),
    [(b"0", StatusCode.OK), (b"16", StatusCode.UNAUTHENTICATED), (b"17", StatusCode.UNKNOWN), (b"-1", StatusCode.UNKNOWN),
     (b"", StatusCode.UNKNOWN), (b"OK", StatusCode.UNKNOWN), (b"00", StatusCode.UNKNOWN)],
)
def test_parse_status(value: bytes, code: StatusCode) -> None:
    assert parse_status(value) is code


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "INTERNAL"), (401, "UNAUTHENTICATED"), (403, "PERMISSION_DENIED"), (404, "UNIMPLEMENTED"), (429, "UNAVAILABLE"),
     (502, "UNAVAILABLE"), (503, "UNAVAILABLE"), (504, "UNAVAILABLE"), (200, "UNKNOWN"), (418, "UNKNOWN"), (500, "UNKNOWN")],
)
def test_http_status_by_the_table_of_grpc(status: int, code: str) -> None:
    assert from_http_status(status).name == code


@pytest.mark.parametrize(
    ("rst", "code"),
    [(0, "INTERNAL"), (1, "INTERNAL"), (2, "INTERNAL"), (7, "UNAVAILABLE"), (8, "CANCELLED"), (0xB, "RESOURCE_EXHAUSTED"),
     (0xC, "PERMISSION_DENIED"), (0xFF, "INTERNAL")],
)
def test_rst_codes_by_the_table_of_grpc(rst: int, code: str) -> None:
    assert from_rst_code(rst).name == code


def test_labels_are_what_dashboards_expect() -> None:
    assert [code_label(code) for code in (StatusCode.OK, StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND)] == [
        "OK",
        "InvalidArgument",
        "NotFound",
    ]


def test_a_missing_record_is_nobodys_outage() -> None:
    assert StatusCode.NOT_FOUND not in SERVER_FAULTS
    assert StatusCode.UNAVAILABLE in SERVER_FAULTS
