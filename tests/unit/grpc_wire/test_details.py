from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from sidecar.grpc_wire import details as d

# Surrogates have no UTF-8.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
DETAIL = st.one_of(
    st.builds(d.ErrorInfo, text, text, st.dictionaries(text, text, max_size=4)),
    st.builds(d.RetryInfo, st.integers(0, 10**9).map(lambda n: n / 1000)),
    st.builds(d.QuotaFailure, st.lists(st.builds(d.QuotaViolation, text, text), max_size=3).map(tuple)),
    st.builds(d.BadRequest, st.lists(st.builds(d.FieldViolation, text, text), max_size=3).map(tuple)),
    st.builds(d.PreconditionFailure, st.lists(st.builds(d.PreconditionViolation, text, text, text), max_size=3).map(tuple)),
)


def by_google(detail: d.Detail) -> object:
    if isinstance(detail, d.ErrorInfo):
        return error_details_pb2.ErrorInfo(reason=detail.reason, domain=detail.domain, metadata=detail.metadata)
    if isinstance(detail, d.RetryInfo):
        delay = Duration()
        delay.FromNanoseconds(round(detail.seconds * 1e9))
        return error_details_pb2.RetryInfo(retry_delay=delay)
    kind = type(detail).__name__
    message = getattr(error_details_pb2, kind)()
    for each in detail.violations:
        violation = (message.field_violations if kind == "BadRequest" else message.violations).add()
        for name in each.__slots__:
            setattr(violation, name, getattr(each, name))
    return message


@given(st.integers(0, 16), text, st.lists(DETAIL, max_size=5))
def test_google_reads_what_we_write(code: int, message: str, details: list[d.Detail]) -> None:
    status = status_pb2.Status.FromString(d.encode_status(code, message, details))
    assert (status.code, status.message) == (code, message)
    assert len(status.details) == len(details)
    for packed, detail in zip(status.details, details, strict=True):
        expected = by_google(detail)
        found = type(expected)()
        assert packed.Unpack(found)
        assert found == expected


@given(st.integers(0, 16), text, st.lists(DETAIL, max_size=5))
def test_we_read_what_google_writes(code: int, message: str, details: list[d.Detail]) -> None:
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        status.details.add().Pack(by_google(detail))
    assert d.decode_status(status.SerializeToString()) == d.Status(code, message, tuple(details))


@given(st.binary(max_size=200))
def test_hostile_bytes_raise_value_error_at_most(data: bytes) -> None:
    try:
        d.decode_status(data)
    except ValueError:
        return


def test_unknown_details_are_kept() -> None:
    status = status_pb2.Status(code=1)
    status.details.add(type_url="type.googleapis.com/x.Y", value=b"abc")
    assert d.decode_status(status.SerializeToString()).details == (("type.googleapis.com/x.Y", b"abc"),)


@pytest.mark.parametrize("data", [b"\x08", b"\x1a\xff", b"\x00\x00", b"\x0b", b"\x1a\x05abc", b"\x80" * 11])
def test_broken_ones_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        d.decode_status(data)
