"""How figures are written."""

from __future__ import annotations

import pytest

from sidecar.control.admin.dashboard import words


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0, "0"), (0.01, "<0.1"), (0.06, "0.1"), (9.94, "9.9"), (9.96, "10"), (12345.6, "12,346")],
)
def test_rates(value: float | None, shown: str) -> None:
    assert words.rate(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (1.0, "100 %"),
        (0.9999999, "99.99 %"),
        (0.9995, "99.95 %"),
        (0.987, "98.7 %"),
        (0.0, "0.0 %"),
    ],
)
def test_a_share_is_100_percent_only_when_it_is(value: float | None, shown: str) -> None:
    assert words.share(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.00042, "420 µs"),
        (0.0042, "4.2 ms"),
        (0.00996, "10 ms"),
        (0.42, "420 ms"),
        (0.9996, "1.00 s"),
        (4.2, "4.20 s"),
        (42, "42 s"),
    ],
)
def test_latencies(value: float | None, shown: str) -> None:
    assert words.seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(-3, "0 s"), (59.9, "59 s"), (60, "1 min"), (3700, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_ages(value: float, shown: str) -> None:
    assert words.age(value) == shown


def test_the_rest() -> None:
    assert [words.size(each) for each in (None, 10, 2048, 70 << 20, 3 << 30)] == [
        "–",
        "10 B",
        "2 KiB",
        "70 MiB",
        "3.0 GiB",
    ]
    assert [words.several(each, "connection") for each in (0, 1, 2000)] == [
        "0 connections",
        "1 connection",
        "2,000 connections",
    ]
    assert words.clock(86_400 * 3 + 3_723.9) == "01:02:03"
    assert words.short_identity("spiffe://mesh.local/agent/a") == "mesh.local/agent/a"
    assert words.short_identity("host.example") == "host.example"
