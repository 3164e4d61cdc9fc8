"""Curves of the last fifteen minutes, as inline SVG: no library, and nothing that a strict content policy would refuse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.control.admin.dashboard import words
from sidecar.control.admin.dashboard.history import INTERVAL, KEPT
from sidecar.control.admin.dashboard.html import Html, tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sidecar.control.admin.dashboard.history import Point

_HEIGHT = 100
_SPARK_POINTS = 60


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart. `kind` names its colour; `fills` = the area below it, too."""

    name: str
    kind: str
    values: Sequence[float | None]
    fills: bool = False


def charts(points: Iterable[Point]) -> Html:
    """Traffic, what went wrong, latency, and what the process uses."""
    points = list(points)
    return tag(
        "div",
        chart("RPC/s", words.rate, [Curve("all", "main", [each.rate for each in points], fills=True)]),
        chart(
            "Not served/s",
            words.rate,
            [
                Curve("failed", "bad", [each.failed for each in points], fills=True),
                Curve("refused", "warn", [each.refused for each in points]),
            ],
        ),
        chart(
            "Latency",
            words.seconds,
            [
                Curve("p99", "main", [each.p99 for each in points]),
                Curve("p50", "soft", [each.p50 for each in points]),
            ],
        ),
        chart("Processor cores", _cores, [Curve("cpu", "main", [each.cpu for each in points], fills=True)]),
        class_="charts",
    )


def chart(title: str, shown: Callable[[float | None], str], curves: Sequence[Curve]) -> Html:
    """One chart with its scale, its legend, and its newest values."""
    top = nice(max((value for curve in curves for value in curve.values if value is not None), default=0.0))
    latest = [(curve, curve.values[-1] if curve.values else None) for curve in curves]
    spoken = ", ".join(f"{curve.name} {shown(value)}" for curve, value in latest)
    return tag(
        "figure",
        tag(
            "figcaption",
            tag("span", title, class_="title"),
            [
                tag(
                    "span",
                    tag("i", class_=f"swatch {curve.kind}"),
                    f"{curve.name} " if len(curves) > 1 else "",
                    tag("b", shown(value), data_now=shown(value)),
                    class_="legend",
                    data_curve=str(position),
                )
                for position, (curve, value) in enumerate(latest)
            ],
        ),
        tag(
            "div",
            tag("span", shown(top), class_="scale"),
            tag(
                "svg",
                tag("path", d=f"M0 {_HEIGHT // 2}H{KEPT}M0 0H{KEPT}", class_="grid"),
                tag("path", d=f"M{KEPT // 3} 0V{_HEIGHT}M{KEPT * 2 // 3} 0V{_HEIGHT}", class_="grid"),
                [_drawn(curve, top) for curve in curves],
                viewBox=f"0 0 {KEPT} {_HEIGHT}",
                preserveAspectRatio="none",
                role="img",
                aria_label=f"{title} over the last 15 minutes; now {spoken}",
                data_unit=shown.__name__.strip("_"),
                data_interval=INTERVAL,
                data_values="|".join(_compact(curve.values) for curve in curves),
            ),
            class_="plot",
        ),
        tag("div", tag("span", "−15 min"), tag("span", "−10"), tag("span", "−5"), tag("span", "now"), class_="axis"),
        data_key=title,
    )


def spark(values: Iterable[float]) -> Html:
    """A small curve without a scale: has this changed?"""
    found = list(values)
    step = max(1, KEPT // _SPARK_POINTS)
    # Whole groups only, counted from the newest, so that points do not jump from draw to draw.
    grouped = [sum(found[i : i + step]) / step for i in range(len(found) % step, len(found), step)]
    top = max(grouped, default=0.0)
    line = _path([_SPARK_POINTS - len(grouped) + i for i in range(len(grouped))], grouped, top or 1.0, 20)
    return tag(
        "svg",
        tag("path", d=line, class_="line main") if line else None,
        viewBox=f"0 0 {_SPARK_POINTS} 20",
        preserveAspectRatio="none",
        class_="spark",
        aria_hidden="true",
    )


def nice(top: float) -> float:
    """A round number that is not below `top`: the end of the scale."""
    if top <= 0:
        return 1.0
    magnitude = 10.0 ** math.floor(math.log10(top))
    return next(step * magnitude for step in (1, 2, 2.5, 5, 10) if step * magnitude >= top * 0.999)


def _drawn(curve: Curve, top: float) -> list[Html]:
    offset = KEPT - len(curve.values)
    drawn: list[Html] = []
    for run in _runs(curve.values):
        xs = [offset + i for i in run]
        line = _path(xs, [curve.values[i] or 0.0 for i in run], top, _HEIGHT)
        if curve.fills:
            area = f"{line}L{xs[-1]} {_HEIGHT}L{xs[0]} {_HEIGHT}Z"
            drawn.append(tag("path", d=area, class_=f"area {curve.kind}"))
        drawn.append(tag("path", d=line, class_=f"line {curve.kind}"))
    return drawn


def _runs(values: Sequence[float | None]) -> list[list[int]]:
    """Positions that have a value, in runs: where nothing was measured, nothing is drawn."""
    runs: list[list[int]] = []
    for position, value in enumerate(values):
        if value is None:
            continue
        if runs and runs[-1][-1] == position - 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return runs


def _path(xs: Sequence[int], values: Sequence[float], top: float, height: int) -> str:
    if not xs:
        return ""
    points = [f"{x} {_short(height * (1 - value / top))}" for x, value in zip(xs, values, strict=True)]
    # A lone point has no length; half a step makes it seen.
    return f"M{'L'.join(points)}" + ("h-.5" if len(points) == 1 else "")


def _compact(values: Sequence[float | None]) -> str:
    return ",".join("" if value is None else f"{value:.3g}" for value in values)


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _cores(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
