from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.grpc_wire.timeout import encode, parse


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"6n", 6e-9), (b"99999999S", 99999999), (b"0n", 0)],
)
def test_each_unit(value: bytes, seconds: float) -> None:
    assert parse(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"S", b"1", b"1s", b"-1S", b"1.5S", b"123456789S", b" 1S", b"1S ", b"\xb2S", b"1_0S", b"0x1S"])
def test_malformed_ones_are_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="must"):
        parse(value)


@given(st.floats(min_value=1e-9, max_value=3e11, allow_nan=False))
def test_a_deadline_only_shrinks(seconds: float) -> None:
    encoded = encode(seconds)
    again = parse(encoded)
    assert len(encoded) <= 9
    assert again <= seconds * (1 + 1e-12)
    assert again >= seconds * 0.97 - 2e-9


@given(st.floats(max_value=0, allow_nan=False))
def test_what_is_over_is_zero(seconds: float) -> None:
    assert encode(seconds) == b"0n"
