"""How errors leave."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from agent_server.core.failure import Failure, Violation
from agent_server.service.answering import answering, status_of


class Context:
    """A ServicerContext that notes what was done to it."""

    def __init__(self) -> None:
        self.trailers: Any = ()
        self.aborted: Any = None

    def set_trailing_metadata(self, trailers: Any) -> None:
        self.trailers = trailers

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        self.aborted = (code, details, dict(trailing_metadata))
        raise grpc.aio.AbortError


def end_with(error: BaseException | None) -> Context:
    context: Any = Context()

    async def work() -> None:
        async with answering(context, "v7"):
            if error is not None:
                raise error

    if error is None:
        asyncio.run(work())
    else:
        with pytest.raises(type(error) if isinstance(error, KeyboardInterrupt) else grpc.aio.AbortError):
            asyncio.run(work())
    found: Context = context
    return found


def test_a_good_answer_names_the_version() -> None:
    context = end_with(None)
    assert (context.trailers, context.aborted) == ((("x-agent-version", "v7"),), None)


def test_a_failure_leaves_with_details_that_agree_with_the_status() -> None:
    failure = Failure(
        grpc.StatusCode.UNAVAILABLE,
        "BUSY",
        "come back",
        metadata={"a": "b"},
        violations=[Violation("f", "d")],
        retry_after=0.25,
    )
    code, message, trailers = end_with(failure).aborted
    assert (code, message, trailers["x-agent-version"]) == (grpc.StatusCode.UNAVAILABLE, "come back", "v7")
    assert trailers["grpc-retry-pushback-ms"] == "250"
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert (status.code, status.message) == (14, "come back")
    info, retry, request = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    for message_type, detail in zip((info, retry, request), status.details, strict=True):
        assert detail.Unpack(message_type)
    assert (info.domain, info.reason, dict(info.metadata)) == ("agent", "BUSY", {"a": "b"})
    assert retry.retry_delay.nanos == 250_000_000
    assert request.field_violations[0].field == "f"


def test_a_defect_tells_nothing_of_our_insides(caplog: pytest.LogCaptureFixture) -> None:
    code, message, trailers = end_with(ZeroDivisionError("secret")).aborted
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in message + str(trailers)
    assert "ZeroDivisionError: secret" in caplog.text


def test_an_error_fits_into_the_metadata_of_any_client() -> None:
    failure = Failure(
        grpc.StatusCode.INVALID_ARGUMENT,
        "LONG",
        "x" * 50_000,
        metadata={f"k{n}": "y" * 5000 for n in range(3)},
        violations=[Violation("f" * 1000, "d" * 1000)] * 50,
    )
    status = status_of(failure)
    assert len(status.SerializeToString()) < 6000
    assert len(status.message) == 1024
