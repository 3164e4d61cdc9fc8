from __future__ import annotations

import pytest

from sidecar.telemetry.trace_context import is_in_share, parse_traceparent, sampled_traceparent

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("flags", "is_sampled"), [(b"00", False), (b"01", True), (b"02", False), (b"03", True), (b"ff", True)]
)
def test_the_flags_say_whether_it_is_sampled(flags: bytes, is_sampled: bool) -> None:
    found = parse_traceparent(b"00-%b-%b-%b" % (TRACE, SPAN, flags))
    assert found is not None
    assert (found.trace_id, found.span_id, found.is_sampled) == (TRACE, SPAN, is_sampled)


def test_a_later_version_may_say_more() -> None:
    assert parse_traceparent(b"01-%b-%b-01-what-comes" % (TRACE, SPAN)) is not None
    assert parse_traceparent(b"01-%b-%b-01what-comes" % (TRACE, SPAN)) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-%b-%b" % (TRACE, SPAN),
        b"00-%b-%b-01-more" % (TRACE, SPAN),
        b"ff-%b-%b-01" % (TRACE, SPAN),
        b"00-%b-%b-01" % (TRACE.upper(), SPAN),
        b"00-%b-%b-01" % (b"0" * 32, SPAN),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        b"00-%b-%b-1" % (TRACE, SPAN),
        b"00-%b-%b-01\n" % (TRACE, SPAN),
    ],
)
def test_what_is_not_of_the_form_says_nothing(value: bytes) -> None:
    assert parse_traceparent(value) is None


def test_what_is_written_is_read() -> None:
    found = parse_traceparent(sampled_traceparent(TRACE, SPAN))
    assert found is not None
    assert found.is_sampled


def test_a_share_of_all_traces() -> None:
    assert is_in_share(b"f" * 32, 1.0)
    assert not is_in_share(b"0" * 32, 0.0)
    assert is_in_share(b"f" * 16 + b"3" + b"0" * 15, 0.25)
    assert not is_in_share(b"0" * 16 + b"4" + b"0" * 15, 0.25)
