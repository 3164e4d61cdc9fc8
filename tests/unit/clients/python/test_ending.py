"""How calls end, also where grpcio forgets it."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from clients.python.ending import Ending
from clients.python.failure import LOST, CallFailure


class Call:
    """A call whose status is set, and set again, as grpc.aio does it."""

    def __init__(self) -> None:
        self._told: list[Any] = []
        self._status: Any = None

    def add_done_callback(self, callback: Any) -> None:
        self._told.append(callback)

    def end(self, code: grpc.StatusCode, details: str, *trailers: tuple[str, str]) -> None:
        self._status = (code, details, trailers)
        for callback in self._told:
            callback(self)

    async def code(self) -> grpc.StatusCode:
        return self._status[0]

    async def details(self) -> str:
        return self._status[1]

    async def trailing_metadata(self) -> Any:
        return self._status[2]


def error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details, "")


def raised(*statuses: Any, last: grpc.aio.AioRpcError) -> CallFailure:
    ending = Ending()
    call = ending.of(Call())
    for status in statuses:
        call.end(*status)
    with pytest.raises(CallFailure) as caught, ending:
        raise last
    return caught.value


LOST_ERROR = error(grpc.StatusCode.INTERNAL, LOST)
REFUSED = (grpc.StatusCode.NOT_FOUND, "no such table", ("x-sidecar-origin", "sidecar"))


def test_the_status_that_came_first_is_the_one() -> None:
    failure = raised(REFUSED, (grpc.StatusCode.INTERNAL, LOST), last=LOST_ERROR)
    assert (failure.code, failure.message, failure.is_from_sidecar) == (
        grpc.StatusCode.NOT_FOUND,
        "no such table",
        True,
    )


def test_a_status_that_comes_late_is_taken_too() -> None:
    assert raised((grpc.StatusCode.INTERNAL, LOST), REFUSED, last=LOST_ERROR).code is grpc.StatusCode.NOT_FOUND


def test_other_errors_are_told_as_they_are() -> None:
    failure = raised(REFUSED, last=error(grpc.StatusCode.UNAVAILABLE, "gone"))
    assert (failure.code, failure.message) == (grpc.StatusCode.UNAVAILABLE, "gone")


def test_without_a_status_the_loss_is_said() -> None:
    assert "did not keep" in raised(last=LOST_ERROR).message


def test_what_grpcio_did_not_raise_passes() -> None:
    with pytest.raises(LookupError), Ending():
        raise LookupError
