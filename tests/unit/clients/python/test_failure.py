"""Statuses taken apart."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from clients.python.api import agent_pb2 as pb
from clients.python.failure import CallFailure, code_of, from_rpc_error, from_status, from_turn_error, number_of


def details(*messages: Any) -> tuple[str, bytes]:
    status = status_pb2.Status(code=14, message="m")
    for message in messages:
        packed = any_pb2.Any()
        packed.Pack(message)
        status.details.append(packed)
    return "grpc-status-details-bin", status.SerializeToString()


def test_a_refusal_of_a_sidecar() -> None:
    failure = from_status(
        grpc.StatusCode.UNAVAILABLE,
        "m",
        [
            ("x-sidecar-origin", "sidecar"),
            details(
                error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="sidecar", metadata={"limit": "5"}),
                error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=100_000_000)),
                error_details_pb2.QuotaFailure(),
            ),
        ],
    )
    assert (failure.reason, failure.domain, failure.metadata) == ("OVERLOADED", "sidecar", {"limit": "5"})
    assert (failure.retry_after, failure.is_from_sidecar) == (0.1, True)
    assert str(failure) == "UNAVAILABLE (sidecar: OVERLOADED): m"


def test_wrong_fields() -> None:
    request = error_details_pb2.BadRequest()
    request.field_violations.add(field="a", description="b")
    failure = from_status(grpc.StatusCode.INVALID_ARGUMENT, "m", [details(request)])
    assert [(each.field, each.description) for each in failure.violations] == [("a", "b")]
    assert failure.as_dict()["violations"] == [{"field": "a", "description": "b"}]


@pytest.mark.parametrize(
    "trailers", [[], [("grpc-status-details-bin", b"\xff\xff")], [("grpc-retry-pushback-ms", "-1")]]
)
def test_without_usable_details(trailers: Any) -> None:
    failure = from_status(grpc.StatusCode.UNAVAILABLE, "m", trailers)
    assert (failure.reason, failure.retry_after, failure.is_from_sidecar) == ("", None, False)
    assert str(failure) == "UNAVAILABLE: m"


def test_pushback_alone_says_when_to_come_back() -> None:
    assert from_status(grpc.StatusCode.UNAVAILABLE, "", [("grpc-retry-pushback-ms", "1500")]).retry_after == 1.5


def test_numbers_and_codes() -> None:
    assert all(code_of(number_of(code)) is code for code in grpc.StatusCode)
    assert code_of(99) is grpc.StatusCode.UNKNOWN


def test_a_failed_turn() -> None:
    failure = from_turn_error(pb.TurnError(code=5, message="m", reason="R", metadata={"a": "b"}))
    assert (failure.code, failure.reason, failure.domain) == (grpc.StatusCode.NOT_FOUND, "R", "agent")


def test_it_can_be_raised_through_context_managers() -> None:
    from contextlib import contextmanager  # noqa: PLC0415

    @contextmanager
    def through() -> Any:
        yield

    with pytest.raises(CallFailure), through():
        raise CallFailure(grpc.StatusCode.ABORTED, "m")


def test_a_status_that_grpcio_lost_is_said_to_be_lost() -> None:
    empty = grpc.aio.Metadata()
    error = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, empty, empty, "Internal error from Core", "")
    failure = from_rpc_error(error)
    assert (failure.code, "did not keep the status" in failure.message) == (grpc.StatusCode.INTERNAL, True)
