"""The table of docs/performance.md beside the other proxies, and its picture, docs/images/bench.svg.

make bench-picture             (or: python -m bench.picture --rounds 5)
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from xml.sax.saxutils import escape

from bench.__main__ import compare, parser

OUT = Path(__file__).resolve().parent.parent / "docs/images/bench.svg"
ROWS = {
    "relay: identity, deadline, metrics": ["--mtls"],
    "everything armed": ["--mtls", "--config", "full"],
    "a message on an open stream": ["--mtls", "--streams"],
    "1 MB both ways, clear": ["--bytes", "1000000", "--concurrency", "4"],
}
COLOURS = {"sidecar": "#1f6feb", "envoy": "#b8c0cc", "haproxy": "#d5dae2", "nginx": "#e4e8ee"}
WIDTH = 420


def medians(figures: dict[str, list[dict]]) -> dict[str, float]:
    return {name: statistics.median(run.get("cpu_us", 0.0) for run in runs) for name, runs in figures.items()}


def rounds(figures: dict[str, list[dict]], peer: str) -> list[float]:
    """CPU of the sidecar as a part of the peer's, round by round."""
    return [ours["cpu_us"] / theirs["cpu_us"] for ours, theirs in zip(figures["sidecar"], figures[peer], strict=True)]


def picture(found: dict[str, dict[str, float]]) -> str:
    """A group of bars for each row; its longest bar fills the width."""
    bars = sum(map(len, found.values()))
    height = 60 + 22 * bars + 44 * len(found)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" font-family="sans-serif" font-size="14">',
        f'<rect width="760" height="{height}" fill="#ffffff"/>',
        '<text x="20" y="32" font-size="18" fill="#111">CPU of one RPC: the whole proxy process, user and system</text>',
    ]
    y = 66
    for row, proxies in found.items():
        parts.append(f'<text x="20" y="{y}" fill="#111">{escape(row)}</text>')
        longest = max(proxies.values()) or 1.0
        for name, cost in proxies.items():
            width = max(2.0, WIDTH * cost / longest)
            text = f"{cost / 1000:.2f} ms" if cost >= 1000 else f"{cost:.1f} µs"
            parts += [
                f'<text x="20" y="{y + 22}" fill="#333">{escape(name)}</text>',
                f'<rect x="100" y="{y + 9}" width="{width:.1f}" height="16" fill="{COLOURS.get(name, "#cccccc")}"/>',
                f'<text x="{110 + width:.0f}" y="{y + 22}" fill="#333">{text}</text>',
            ]
            y += 22
        y += 44
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    asked = argparse.ArgumentParser(prog="python -m bench.picture", description=__doc__)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--seconds", type=float, default=2)
    given = asked.parse_args()
    found: dict[str, dict[str, float]] = {}
    for row, arguments in ROWS.items():
        args = parser().parse_args([*arguments, "--rounds", str(given.rounds), "--seconds", str(given.seconds)])
        figures = compare(args)
        found[row] = medians(figures)
        for peer in [name for name in figures if name != "sidecar"]:
            ratios = rounds(figures, peer)
            every = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            ours, theirs = found[row]["sidecar"], found[row][peer]
            print(
                f"| {row} | {peer} | {ours:.1f} | {theirs:.1f} | {statistics.median(ratios):.2f} ({every}) |",
                flush=True,
            )
    OUT.write_text(picture(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
