from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.grpc_wire.details import QuotaFailure
from sidecar.grpc_wire.status import StatusCode
from sidecar.proxy import reply
from sidecar.proxy.rejection import Kind, Reason, Rejection

PAGE = Path(__file__).resolve().parents[3] / "docs" / "refusals.md"
ROWS = {
    name: (kind, status, repeat)
    for kind, name, status, repeat in re.findall(
        r"^\| (\w+) \| ([A-Z_]+) \| ([A-Z_]+) \| (yes|no) \| \S", PAGE.read_text(), re.MULTILINE
    )
}


def test_the_page_names_every_reason_and_no_other() -> None:
    assert list(ROWS) == [reason.name for reason in Reason]


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_a_reason_is_what_the_page_promises(reason: Reason) -> None:
    assert ROWS[reason.name] == (reason.kind.value, reason.code.name, "yes" if reason.repeatable else "no")


def test_every_kind_has_reasons() -> None:
    assert {reason.kind for reason in Reason} == set(Kind)


def test_a_refusal_repeats_the_parts_of_its_message() -> None:
    refusal = Reason.UPSTREAM_PROTOCOL.reject("HTTP status 503", code=StatusCode.UNAVAILABLE, httpStatus=503)
    assert (refusal.code, refusal.metadata, refusal.retry_after) == (
        StatusCode.UNAVAILABLE,
        {"httpStatus": "503"},
        None,
    )


def test_what_is_written_is_remembered_and_never_mixed_up() -> None:
    def refused(**more: object) -> Rejection:
        return Reason.RATE_LIMITED.reject("too many", **more)  # type: ignore[arg-type]  # whatever a policy gives

    first = refused(limit="a", retry_after=1.0)
    assert reply.written(refused(limit="a", retry_after=0.9995)) is reply.written(first), "the same to a millisecond"
    others = [
        refused(limit="b", retry_after=1.0),
        refused(limit="a", retry_after=1.001),
        refused(limit="a"),
        refused(limit="a", retry_after=1.0, code=StatusCode.ABORTED),
        refused(limit="a", retry_after=1.0, details=(QuotaFailure(()),)),
        Reason.OVERLOADED.reject("too many", limit="a", retry_after=1.0, code=first.code),
    ]
    assert len({reply.written(each)[0] for each in (first, *others)}) == 7
    for number in range(1000):
        refused(limit=str(number))
        reply.written(refused(limit=str(number)))
    assert len(reply._known) <= 256
    kept = dict(reply._known)
    reply.written(Reason.NO_ROUTE.reject("no route", method="/" + "x" * 60_000))
    assert reply._known == kept, "nobody has us keep what is long"
