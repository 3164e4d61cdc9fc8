"""`sidecar status`: what the dashboard shows, in the terminal."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from sidecar.cli.ask import AdminError, ask
from sidecar.cli.options import reaches
from sidecar.cli.rollout import lines as rollout_lines
from sidecar.control.admin.dashboard import words
from sidecar.control.admin.dashboard.alerts import happened, outcome, when

_COLOURS = {"critical": "red", "warning": "yellow", "notice": None}
_MARKS = {"critical": "✕", "warning": "▲", "notice": "○"}
_STATES = {"serving": "green", "probing": "yellow", "connecting": "yellow"}
_POOR_SHARE = 0.99
_REFUSALS = 5
_CHANGES = 5


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  sidecar status\n"
        "  sidecar status --watch --admin http://127.0.0.1:9901\n"
        "  sidecar status --json | jq .troubles\n\n"
        "Exit codes: 0 nothing critical is wrong, 1 something is, or the sidecar does not answer, 2 wrong usage."
    ),
)
@reaches
@click.option("-w", "--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(min=0.2), default=2.0, show_default=True, help="Seconds, with --watch."
)
@click.option("--json", "as_json", is_flag=True, help="The whole picture as JSON; with --watch, one line per look.")
def status(*, admin: str, token: str | None, watch: bool, interval: float, as_json: bool) -> None:
    """Listeners, routes, clusters, endpoints, breakers and rollouts of a running sidecar, at a glance."""
    terminal = sys.stdout.isatty()
    try:
        while True:
            try:
                picture = ask(admin, "/status", token=token)
            except AdminError as error:
                if not watch:
                    raise click.ClickException(str(error)) from None
                _show(f"{_clear(terminal)}{error}; trying again")
            else:
                if as_json:
                    click.echo(json.dumps(picture, indent=None if watch else 2))
                else:
                    width = shutil.get_terminal_size((100, 40)).columns if terminal else 100
                    _show(_clear(terminal and watch) + "\n".join(lines(picture, width)))
            if not watch:
                break
            time.sleep(interval)
    except (KeyboardInterrupt, BrokenPipeError):
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            # The reader has left; nothing may be written at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    sys.exit(any(each["severity"] == "critical" for each in (*picture["troubles"], *picture["alerts"]["firing"])))


def _show(text: str) -> None:
    click.echo(text)
    sys.stdout.flush()


def _clear(wanted: bool) -> str:
    """To the top of the screen, with what stood there gone."""
    return "\033[H\033[2J\033[3J" if wanted else ""


def lines(picture: Mapping[str, Any], width: int = 100) -> Iterator[str]:
    """The picture, line by line; colours are dropped by `click.echo` where there is no terminal."""
    totals, generation = picture["totals"], picture["generation"]
    node = click.style(picture["node"] or "sidecar", bold=True)
    colour = "green" if picture["state"] == "ready" else "yellow"
    yield f"{node}  {click.style(picture['state'], fg=colour)}  generation {generation['number']}  {picture['version']}"
    yield (
        f"{words.rate(totals['rpcs_per_second'])} RPC/s  success {_share(totals['success'])}  "
        f"p50 {words.seconds(totals['p50_seconds'])}  p99 {words.seconds(totals['p99_seconds'])}  "
        f"refused {words.rate(totals['refused_per_second'])}/s  active {words.count(totals['active'])}  "
        f"connections {words.count(totals['connections'])}"
    )
    yield ""
    for each in picture["alerts"]["firing"]:
        yield click.style(f"! alert {each['name']} fires: {each['summary']}", fg=_COLOURS[each["severity"]], bold=True)
    if picture["troubles"]:
        for each in picture["troubles"]:
            mark = click.style(f"{_MARKS[each['severity']]} {each['what']}", fg=_COLOURS[each["severity"]], bold=True)
            yield f"{mark}  {each['why']}".rstrip()
    elif not picture["alerts"]["firing"]:
        yield f"{click.style('●', fg='green')} nothing is wrong that this sidecar can see"
    for listener in picture["listeners"]:
        yield ""
        yield from _listener(listener)
    for cluster in picture["clusters"]:
        yield ""
        yield from _cluster(cluster)
    for each in picture["rollouts"]:
        yield ""
        yield from rollout_lines(each)
    yield from _happened(picture, width)


def _listener(listener: Mapping[str, Any]) -> Iterator[str]:
    name = click.style(listener["name"], bold=True)
    yield f"{name} {listener['address']}  {words.several(listener['connections'], 'connection')}"
    rows = [["route", "RPC/s", "success", "p50", "p99", "refused/s", "active", "cluster"]]
    rows.extend(
        [
            route["name"],
            words.rate(route["rpcs_per_second"]),
            _share(route["success"]),
            words.seconds(route["p50_seconds"]),
            words.seconds(route["p99_seconds"]),
            words.rate(route["refused_per_second"]),
            words.count(route["active"]),
            route["cluster"] or "none",
        ]
        for route in listener["routes"]
    )
    yield from table(rows, left={0, 7})
    for limit in listener["limits"]:
        yield f"  limit {limit['name']}: {words.rate(limit['per_second'])}/s, {words.count(limit['total'])} in all"


def _cluster(cluster: Mapping[str, Any]) -> Iterator[str]:
    facts = f"{cluster['balancing']}, {words.count(cluster['attempts_active'])} active"
    if cluster["pending"]:
        facts += f", {words.count(cluster['pending'])} wait"
    yield f"{click.style(cluster['name'], bold=True)} {facts}"
    rows = [["endpoint", "RPC/s", "success", "active", "state"]]
    rows.extend(
        [
            endpoint["address"],
            words.rate(endpoint["rpcs_per_second"]),
            _share(endpoint["success"]),
            words.count(endpoint["attempts_active"]),
            _state(endpoint),
        ]
        for endpoint in cluster["endpoints"]
    )
    yield from table(rows, left={0, 4})


def _state(endpoint: Mapping[str, Any]) -> str:
    state = click.style(endpoint["state"], fg=_STATES.get(endpoint["state"], "red"))
    why = endpoint["last_error"] if endpoint["state"] == "unreachable" else None
    return f"{state}: {why}" if why else state


def _happened(picture: Mapping[str, Any], width: int) -> Iterator[str]:
    changes = happened(picture)
    if changes:
        yield ""
        yield click.style("alerts and recoveries", bold=True)
        for each in changes[:_CHANGES]:
            what = f"{each['symptom']}: {each['action']}" if "symptom" in each else each["name"]
            state, why = (outcome(each), each["cause"]) if "symptom" in each else (each["state"], each["summary"])
            yield f"  {words.clock(when(each))} {what} {state.replace('_', ' ')}  {why}"[:width]
    if picture["refusals"]:
        yield ""
        yield click.style("refused lately", bold=True)
        for each in picture["refusals"][:_REFUSALS]:
            times = f" × {each['times']}" if each["times"] > 1 else ""
            yield f"  {words.clock(each['at'])} {each['reason']}{times}  {each['message']}"[:width]


def _share(value: float | None) -> str:
    shown = words.share(value)
    return click.style(shown, fg="red") if value is not None and value < _POOR_SHARE else shown


def table(rows: list[list[str]], left: set[int]) -> Iterator[str]:
    """Columns as wide as they must be; those in `left` begin at the left, numbers end at the right."""
    widths = [max(len(click.unstyle(row[i])) for row in rows) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = []
        for i, cell in enumerate(row):
            space = " " * (widths[i] - len(click.unstyle(cell)))
            cells.append(cell + space if i in left else space + cell)
        line = "  " + "  ".join(cells).rstrip()
        yield click.style(line, dim=True) if number == 0 else line
