from __future__ import annotations

import h2.errors

from sidecar.http2.errors import CONNECTION_LOST, MALFORMED, NOT_PROCESSED, ConnectionFault, ErrorCode


def test_codes_are_those_of_the_rfc() -> None:
    assert {code.name: int(code) for code in ErrorCode} == {code.name: int(code) for code in h2.errors.ErrorCodes}


def test_causes_of_ours_are_no_codes_of_a_peer() -> None:
    assert len({CONNECTION_LOST, NOT_PROCESSED, MALFORMED}) == 3
    assert all(cause < 0 for cause in (CONNECTION_LOST, NOT_PROCESSED, MALFORMED))


def test_a_fault_says_what_and_why() -> None:
    assert str(ConnectionFault(ErrorCode.PROTOCOL_ERROR, "no preface")) == "PROTOCOL_ERROR: no preface"
