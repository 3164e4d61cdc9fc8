"""`sidecar drill`: a fault on purpose in a running sidecar, and a verdict on what callers saw of it."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

from sidecar.cli.ask import AdminError, ask, ask_text
from sidecar.cli.options import asks
from sidecar.cli.progress import Progress
from sidecar.config.units import parse_duration
from sidecar.control.drills.figures import Figures, read
from sidecar.control.drills.order import NAMES
from sidecar.control.drills.verdict import Check, Demands, Seen, is_well, judge

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOK = 0.2
_WINDOW = 1.0
"""Seconds of traffic by which it is judged whether all is well again."""


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return value if isinstance(value, float) else parse_duration(value)
        except ValueError as error:
            self.fail(f"{error}", param, ctx)


_DURATION = _Duration()


@click.command(
    epilog=(
        "\b\nDrills:\n"
        "  latency      a share of the RPCs waits (--percent, --delay)\n"
        "  errors       a share of the RPCs fails (--percent, --status)\n"
        "  agent-crash  the supervised agent is killed\n"
        "  store-loss   the store gives no answer\n"
        "  cert-expiry  callers' certificates are judged as if they had expired\n"
        "  partition    a cluster, or one endpoint of it, cannot be reached\n\n"
        "\b\nExamples:\n"
        "  sidecar drill latency --for 1m --percent 20 --delay 300ms\n"
        "  sidecar drill errors --admin 127.0.0.1:9902 --callers 127.0.0.1:9901\n"
        "  sidecar drill partition --cluster data-agent --endpoint 10.0.0.5:8443\n\n"
        "It needs traffic: it makes none of its own. The sidecar ends the drill by itself when its time is over, even if this "
        "command is gone by then; Ctrl-C ends it at once.\n\n"
        "Exit codes: 0 passed, 1 not passed, refused or no answer, 2 wrong usage."
    ),
)
@click.argument("name", type=click.Choice(NAMES), metavar="NAME")
@click.option("--for", "length", type=_DURATION, default="30s", show_default=True, help="How long, up to 10m.")
@click.option("--before", type=_DURATION, default="5s", show_default=True, help="How long to look before.")
@click.option("--recover", type=_DURATION, default="30s", show_default=True, help="How soon all must be well again.")
@click.option("--percent", type=float, default=50.0, show_default=True, help="latency, errors: share of the RPCs.")
@click.option("--delay", type=_DURATION, default="500ms", show_default=True, help="latency: how long they wait.")
@click.option("--status", default="UNAVAILABLE", show_default=True, help="errors: with which code they fail.")
@click.option("--listener", help="latency, errors, cert-expiry: only this listener.")
@click.option("--route", help="latency, errors: only this route.")
@click.option("--cluster", help="partition: which cluster.")
@click.option("--endpoint", metavar="ADDRESS", help="partition: only this endpoint.")
@click.option("--min-success", type=click.FloatRange(0, 100), help="Percent of the RPCs that must succeed meanwhile.")
@click.option("--max-latency", type=_DURATION, help="What p99 may be meanwhile.")
@click.option("--min-rpcs", type=click.IntRange(1), default=20, show_default=True, help="Fewer are no verdict.")
@click.option("--callers", metavar="URL", help="Judge by what this sidecar counts (that of the callers) instead.")
@click.option("--by", metavar="NAME", envvar="USER", default="admin", help="Who asks; noted in log and audit.")
@asks
def drill(
    *,
    name: str,
    length: float,
    before: float,
    recover: float,
    delay: float,
    min_success: float | None,
    max_latency: float | None,
    min_rpcs: int,
    callers: str | None,
    admin: str,
    token: str | None,
    as_json: bool,
    **words: Any,
) -> None:
    """Run the drill NAME against a running sidecar: watch callers before, during and after it, and judge."""
    query = {key: str(value) for key, value in words.items() if value is not None}
    query |= {"name": name, "for": f"{round(length * 1000)}ms", "delay": f"{round(delay * 1000)}ms"}
    demands = Demands(
        drill=name,
        is_callers=callers is not None,
        min_success=min_success,
        max_latency=max_latency,
        added_latency=delay if name == "latency" else 0.0,
        recover_within=recover,
        min_rpcs=min_rpcs,
    )
    try:
        run = _Run(admin, callers or admin, token, demands, {"listener": words["listener"]} if not callers else {})
        what, seen = run.all(query, before, length)
    except AdminError as error:
        raise click.ClickException(str(error)) from None
    checks = judge(demands, seen)
    passed = all(each.holds for each in checks)
    if as_json:
        click.echo(json.dumps(_plain(name, what, seen, checks, passed=passed), indent=2))
    else:
        click.echo("\n".join(lines(name, what, seen, checks, passed=passed)))
    sys.exit(0 if passed else 1)


class _Run:
    """One drill, seen from outside. Times from the clock of this command."""

    def __init__(
        self, admin: str, callers: str, token: str | None, demands: Demands, only: dict[str, str | None]
    ) -> None:
        self._admin = admin
        self._callers = callers
        self._token = token
        self._demands = demands
        self._only = {key: value for key, value in only.items() if value is not None}

    def all(self, query: dict[str, str], before: float, length: float) -> tuple[str, Seen]:
        """(what was done, what was seen). Raises AdminError."""
        with Progress(f"drill {query['name']}: looking at what is normal") as progress:
            first = self._page(self._callers)
            _sleep(before)
        own = self._page(self._admin)
        begun = self._page(self._callers)
        started = ask(self._admin, f"/drill/start?{urlencode(query)}", token=self._token, form={})["running"]
        try:
            with Progress(f"drill {query['name']}: {started['what']}") as progress:
                last = self._ended(started["number"], length)
                progress.step("over")
        except BaseException:
            ask(self._admin, "/drill/end", token=self._token, form={})
            raise
        over = time.monotonic()
        seen, at_end = self._page(self._callers), self._page(self._admin)
        with Progress(f"drill {query['name']}: waiting until all is well again"):
            recovered = self._recovered(begun - first, over)
        after, at_last = self._page(self._callers), self._page(self._admin)
        felt = at_end - own
        # An agent that was killed may be started only after the drill's time.
        counted = Figures(felt.rpcs, felt.buckets, felt.faults, (at_last - own).defects, (at_last - own).agent_starts)
        return started["what"], Seen(
            before=begun - first,
            during=seen - begun,
            after=after - seen,
            injected=counted,
            hits=last["hits"],
            ended=last["ended"],
            recovered_after=recovered,
        )

    def _ended(self, number: int, length: float) -> dict[str, Any]:
        """The view of it when it has ended."""
        limit = time.monotonic() + length + 10.0
        while time.monotonic() < limit:
            last = ask(self._admin, "/drill", token=self._token)["last"]
            if last is not None and last["number"] >= number:
                return dict(last)
            _sleep(_LOOK)
        raise AdminError("the drill does not end; POST /drill/end ends it")

    def _recovered(self, before: Figures, over: float) -> float | None:
        limit = over + self._demands.recover_within
        then, at = self._page(self._callers), time.monotonic()
        while True:
            _sleep(_WINDOW)
            now = self._page(self._callers)
            if is_well(before, now - then) and self._stands():
                return at - over
            if time.monotonic() >= limit:
                return None
            then, at = now, time.monotonic()

    def _stands(self) -> bool:
        """Is the agent back, where it was taken?"""
        if self._demands.drill != "agent-crash":
            return True
        return bool(ask(self._admin, "/agent", token=self._token)["serving"])

    def _page(self, where: str) -> Figures:
        return read(ask_text(where, "/metrics", token=self._token), self._only)


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


# ── what is printed ──


def lines(name: str, what: str, seen: Seen, checks: list[Check], *, passed: bool) -> Iterator[str]:
    """A drill for people."""
    yield f"{click.style(f'drill {name}', bold=True)}: {what}"
    yield ""
    columns = (seen.before, seen.during, seen.after)
    yield _row("", ("before", "during", "after"))
    yield _row("RPCs", tuple(str(each.total) for each in columns))
    yield _row("succeeded", tuple(_percent(each.success()) for each in columns))
    for word, share in (("p50", 0.5), ("p99", 0.99)):
        yield _row(word, tuple(_seconds(each.quantile(share)) for each in columns))
    kinds = dict.fromkeys(kind for each in columns for kind, _ in each.failures())
    for kind in kinds:
        yield _row(kind, tuple(str(dict(each.failures()).get(kind, 0)) for each in columns))
    yield ""
    for check in checks:
        mark = click.style("[+]", fg="green") if check.holds else click.style("[-]", fg="red")
        yield f"{mark} {check.name}: {check.said}"
    yield ""
    yield click.style("passed", fg="green", bold=True) if passed else click.style("not passed", fg="red", bold=True)


def _row(name: str, cells: tuple[str, ...]) -> str:
    return f"  {name:<36}" + "".join(f"{each:>12}" for each in cells)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2f} %"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"≤ {seconds * 1000:g} ms"


def _finite(seconds: float | None) -> float | None:
    return seconds if seconds is not None and math.isfinite(seconds) else None


def _plain(name: str, what: str, seen: Seen, checks: list[Check], *, passed: bool) -> dict[str, Any]:
    def figures(each: Figures) -> dict[str, Any]:
        return {
            "rpcs": each.total,
            "succeeded_percent": each.success(),
            # JSON has no infinity: above every bound is none.
            **{f"p{share}_seconds": _finite(each.quantile(share / 100)) for share in (50, 99)},
            "failures": dict(each.failures()),
        }

    return {
        "drill": name,
        "what": what,
        "passed": passed,
        "recovered_after_seconds": seen.recovered_after,
        **{word: figures(getattr(seen, word)) for word in ("before", "during", "after")},
        "checks": [asdict(each) for each in checks],
    }
