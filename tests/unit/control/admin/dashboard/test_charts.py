"""Curves: their scale, their gaps, their size."""

from __future__ import annotations

import re

import pytest

from sidecar.control.admin.dashboard import words
from sidecar.control.admin.dashboard.charts import Curve, chart, charts, nice, spark
from sidecar.control.admin.dashboard.history import KEPT, Point


def lines(text: str) -> list[str]:
    return re.findall(r'<path d="([^"]*)" class="line', text)


@pytest.mark.parametrize(
    ("top", "end"), [(0, 1), (0.07, 0.1), (1, 1), (1.01, 2), (2.2, 2.5), (2.6, 5), (80, 100), (101, 200)]
)
def test_scales_end_at_round_numbers(top: float, end: float) -> None:
    assert nice(top) == pytest.approx(end)


def test_the_newest_value_stands_at_the_right() -> None:
    drawn = chart("RPC/s", words.rate, [Curve("all", "main", [0.0, 5.0, 10.0])])
    assert lines(drawn) == [f"M{KEPT - 3} 100L{KEPT - 2} 50L{KEPT - 1} 0"]
    assert ">10</b>" in drawn
    assert 'aria-label="RPC/s over the last 15 minutes; now all 10"' in drawn


def test_where_nothing_was_measured_nothing_is_drawn() -> None:
    drawn = chart("Latency", words.seconds, [Curve("p99", "main", [1.0, None, None, 1.0, 1.0])])
    assert lines(drawn) == [f"M{KEPT - 5} 0h-.5", f"M{KEPT - 2} 0L{KEPT - 1} 0"]
    assert 'data-values="1,,,1,1"' in drawn


def test_without_samples_there_are_axes_only() -> None:
    assert lines(charts([])) == []


def test_fifteen_minutes_are_small_enough() -> None:
    points = [Point(i, 1234.567 + i, 0.123, 7.77, 0.001234, 0.1234, 77, 0.5321, 1 << 26) for i in range(KEPT)]
    assert len(charts(points)) < 45_000


def test_a_spark_has_a_point_for_five_samples() -> None:
    assert lines(spark([])) == []
    assert lines(spark([1, 1, 1, 1, 1])) == ["M59 0h-.5"]
    assert lines(spark([9, *([1] * 5), *([2] * 5)])) == ["M58 10L59 0"], "what does not fill a point is left out"
