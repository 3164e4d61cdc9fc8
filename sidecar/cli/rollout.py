"""`sidecar rollout`: look at a rollout and drive it, over the admin address."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import click

from sidecar.cli.ask import AdminError, ask
from sidecar.cli.options import asks

_COLOURS = {"promoted": "green", "rolled_back": "red", "paused": "yellow", "progressing": "cyan", "verifying": "cyan"}


@click.group(
    epilog=(
        "\b\nExamples:\n"
        "  sidecar rollout status\n"
        "  sidecar rollout pause data-agent\n"
        "  sidecar rollout abort data-agent --admin http://127.0.0.1:9901\n\n"
        "Exit codes: 0 done, 1 refused (what is asked makes no sense now) or no answer, 2 wrong usage."
    ),
)
def rollout() -> None:
    """Look at a rollout, and drive it. CLUSTER is the name in the configuration."""


@rollout.command()
@click.argument("cluster", required=False)
@click.option("-w", "--watch", is_flag=True, help="Print every change, until it has ended.")
@asks
def status(*, cluster: str | None, watch: bool, admin: str, token: str | None, as_json: bool) -> None:
    """Where a rollout stands, and why; of all clusters that have one, if none is named."""
    shown: object = None
    while True:
        found = _ask(admin, "/rollout" + (f"?{urlencode({'cluster': cluster})}" if cluster else ""), token)
        rollouts = found if isinstance(found, list) else [found]
        what = [
            (each["cluster"], each["phase"], each["percent"], each["failed_checks"], each["reason"])
            for each in rollouts
        ]
        if what != shown:
            shown = what
            _print(rollouts, as_json=as_json)
        if not watch or all(each["phase"] in {"promoted", "rolled_back", "idle"} for each in rollouts):
            return
        time.sleep(0.5)


def _ordering(order: str, text: str) -> None:
    @rollout.command(order, help=text)
    @click.argument("cluster")
    @click.option("--by", metavar="NAME", envvar="USER", default="admin", help="Who asks; noted in log and audit.")
    @asks
    def run(*, cluster: str, by: str, admin: str, token: str | None, as_json: bool) -> None:
        query = urlencode({"cluster": cluster, "by": by})
        _print([_ask(admin, f"/rollout/{order}?{query}", token, form={})], as_json=as_json)


_ordering("start", "Begin, or begin again after a rollback.")
_ordering("pause", "Stay at this step; a candidate that fails is sent back all the same.")
_ordering("resume", "Go on; at a manual gate: open it.")
_ordering("promote", "Everything to the candidate, now.")
_ordering("abort", "Everything back to stable, now; also after a promotion, while the old version is kept.")


def _ask(admin: str, path: str, token: str | None, form: Mapping[str, str] | None = None) -> Any:
    try:
        return ask(admin, path, token=token, form=form)
    except AdminError as error:
        raise click.ClickException(str(error)) from None


def _print(rollouts: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rollouts, indent=2))
        return
    if not rollouts:
        click.echo("no cluster has a rollout")
    for each in rollouts:
        click.echo("\n".join(lines(each)))
    sys.stdout.flush()


def lines(rollout: Mapping[str, Any]) -> Iterator[str]:
    """One rollout for people."""
    phase = click.style(rollout["phase"].replace("_", " "), fg=_COLOURS.get(rollout["phase"]), bold=True)
    yield f"{click.style(rollout['cluster'], bold=True)}  {phase}  {rollout['stable']} → {rollout['candidate']}"
    step = f"step {rollout['step']} of {len(rollout['steps'])}, " if rollout["step_lasts_seconds"] else ""
    served = (
        f", {rollout['step_served_seconds']:g} of {rollout['step_lasts_seconds']:g} s"
        if rollout["step_lasts_seconds"]
        else ""
    )
    yield f"  {step}{rollout['percent']:g} % wanted, {rollout['measured_percent']:g} % measured{served}"
    yield f"  {rollout['reason']}"
    if rollout["failed_checks"]:
        yield f"  {rollout['failed_checks']} of {rollout['max_failed_checks']} failed checks"
    if rollout["store_problem"]:
        yield f"  the store does not answer: {rollout['store_problem']}"
    for version in rollout["versions"]:
        figures = version["figures"]
        rate = "–" if figures["success_rate"] is None else f"{figures['success_rate']:.2f} %"
        p99 = "–" if figures["latency_p99"] is None else f"{figures['latency_p99'] * 1000:.1f} ms"
        state = "serving" if version["serving"] else version["problem"]
        yield f"  {version['name']:<12} {figures['rpcs']:>7} RPCs  {rate:>9} went well  p99 {p99:>9}  {state}"
    for entry in rollout["history"][-5:]:
        at = datetime.fromtimestamp(entry["at"], UTC).strftime("%H:%M:%S")
        yield f"    {at}Z  {entry['phase']:<12} {entry['percent']:>5g} %  {entry['reason']}  ({entry['by']})"
