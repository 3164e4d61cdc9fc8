from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.grpc_wire.status import StatusCode
from sidecar.proxy.rejection import Kind, Reason

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
