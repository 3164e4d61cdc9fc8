"""`sidecar alerts`: what fires, and whether those who should hear of it can be reached."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import click

from sidecar.alerts.alert import said_time
from sidecar.cli.ask import AdminError, ask
from sidecar.cli.options import asks
from sidecar.cli.progress import Progress

_COLOURS = {"critical": "red", "warning": "yellow", "notice": None}
_TEST_LIMIT = 20.0
_CHANGES = 10


@click.group(
    epilog=(
        "\b\nExamples:\n"
        "  sidecar alerts list\n"
        "  sidecar alerts list --all\n"
        "  sidecar alerts test --receiver oncall\n\n"
        "Exit codes: 0 nothing critical fires, or every receiver took the test; 1 something does, one did not, or no answer; "
        "2 wrong usage."
    ),
)
def alerts() -> None:
    """What people are told, and whether it reaches them. What each alert means: docs/alerts.md."""


@alerts.command("list")
@click.option("-a", "--all", "everything", is_flag=True, help="Also the rules, and what was lately.")
@asks
def show(*, everything: bool, admin: str, token: str | None, as_json: bool) -> None:
    """What fires now."""
    found = _ask(admin, "/alerts", token)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo("\n".join(lines(found, everything=everything)))
    sys.exit(any(each["severity"] == "critical" for each in found["firing"]))


@alerts.command()
@click.option("--receiver", metavar="NAME", help="Only this one.")
@asks
def test(*, receiver: str | None, admin: str, token: str | None, as_json: bool) -> None:
    """Send a test to the receivers, and say of each whether it took it."""
    query = f"?{urlencode({'receiver': receiver})}" if receiver else ""
    with Progress("waiting for the receivers"):
        found = _ask(admin, f"/alerts/test{query}", token, form={}, timeout=_TEST_LIMIT)["receivers"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("nobody is told: the configuration has no alerts.send")
    for each in [] if as_json else found:
        mark = click.style("√", fg="green") if each["delivered"] else click.style("×", fg="red")
        name = each["receiver"] if each["receiver"] == each["kind"] else f"{each['receiver']} ({each['kind']})"
        click.echo(f"{mark} {name}" + ("" if each["delivered"] else f": {each['problem']}"))
    sys.exit(not all(each["delivered"] for each in found))


def _ask(admin: str, path: str, token: str | None, **how: Any) -> Any:
    try:
        return ask(admin, path, token=token, **how)
    except AdminError as error:
        raise click.ClickException(str(error)) from None


def lines(found: Mapping[str, Any], *, everything: bool) -> Iterator[str]:
    """`/alerts` for people."""
    if not found["firing"]:
        yield f"{click.style('●', fg='green')} nothing fires, of {len(found['rules'])} rules"
    for each in found["firing"]:
        yield change(each)
    for each in found["receivers"]:
        if each["problem"] is not None:
            yield click.style(f"▲ {each['name']} is not reached: {each['problem']}", fg="yellow")
    if not found["receivers"]:
        yield "nobody is told: the configuration has no alerts.send"
    if everything:
        yield ""
        width = max(len(each["name"]) for each in found["rules"])
        for each in found["rules"]:
            yield f"  {each['name']:<{width}}  {each['state']:<7}  {each['severity']:<8}  {each['rule']}"
        if found["history"]:
            yield ""
        for each in found["history"][:_CHANGES]:
            yield change(each)


def change(alert: Mapping[str, Any]) -> str:
    """One line on what began, or ended."""
    if alert["state"] == "firing":
        mark = click.style(f"✕ {alert['name']}", fg=_COLOURS[alert["severity"]], bold=True)
        return f"{mark}  {alert['severity']} since {said_time(alert['began'])}  {alert['summary']}"
    return f"{click.style('●', fg='green')} {alert['name']}  ended {said_time(alert['ended'])}  {alert['summary']}"
