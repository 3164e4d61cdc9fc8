"""`sidecar idempotency`: records of keyed RPCs, and settling what nobody knows, over the admin address."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import click

from sidecar.cli.ask import AdminError, ask
from sidecar.cli.options import asks

_COLOURS = {"done": "green", "running": "cyan", "released": "white", "unknown": "red", "unreadable": "red"}


@click.group(
    epilog=(
        "\b\nExamples:\n"
        "  sidecar idempotency list --state unknown\n"
        "  sidecar idempotency show 9f2c…\n"
        "  sidecar idempotency resolve 9f2c… --not-executed\n\n"
        "Exit codes: 0 done, 1 refused or no answer, 2 wrong usage."
    ),
)
def idempotency() -> None:
    """Look at the records of keyed RPCs, and settle those whose outcome nobody knows."""


@idempotency.command("list")
@click.option("--state", type=click.Choice(["running", "done", "released", "unknown", "unreadable"]))
@click.option("--after", metavar="RECORD", default="", help="Go on after this one.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@asks
def list_records(*, state: str | None, after: str, limit: int, admin: str, token: str | None, as_json: bool) -> None:
    """Records, in the order of their ids."""
    query = {"after": after, "limit": str(limit)} | ({"state": state} if state is not None else {})
    found = _ask(admin, f"/idempotency?{urlencode(query)}", token)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for each in found:
        click.echo(line(each))
    if not found:
        click.echo("no records")
    elif len(found) == limit:
        click.echo(f"there may be more: --after {found[-1]['record']}")


@idempotency.command()
@click.argument("record")
@asks
def show(*, record: str, admin: str, token: str | None, as_json: bool) -> None:
    """One record."""
    _print(_ask(admin, f"/idempotency?{urlencode({'record': record})}", token), as_json=as_json)


@idempotency.command()
@click.argument("record")
@click.option("--executed", "outcome", flag_value="executed", help="It was done: never execute this key again.")
@click.option("--not-executed", "outcome", flag_value="not_executed", help="It was not done: the next RPC executes it.")
@click.option("--by", metavar="NAME", envvar="USER", default="admin", help="Who settles it; noted in log and audit.")
@asks
def resolve(*, record: str, outcome: str | None, by: str, admin: str, token: str | None, as_json: bool) -> None:
    """Settle a record whose outcome is unknown. Find out first what the agent really did."""
    if outcome is None:
        raise click.UsageError("say what is true: --executed or --not-executed")
    query = urlencode({"record": record, "outcome": outcome, "by": by})
    _print(_ask(admin, f"/idempotency/resolve?{query}", token, form={}), as_json=as_json)


def _ask(admin: str, path: str, token: str | None, form: Mapping[str, str] | None = None) -> Any:
    try:
        return ask(admin, path, token=token, form=form)
    except AdminError as error:
        raise click.ClickException(str(error)) from None


def _print(record: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(record, indent=2))
        return
    click.echo(line(record))
    for name in ("identity", "execution", "code", "bytes", "settled_by"):
        if record.get(name) not in {None, ""}:
            click.echo(f"  {name.replace('_', ' '):<12} {record[name]}")
    for name in ("began", "ended"):
        if record.get(name):
            click.echo(f"  {name:<12} {_time(record[name])}")


def line(record: Mapping[str, Any]) -> str:
    """One record on one line."""
    state = click.style(f"{record['state']:<10}", fg=_COLOURS.get(record["state"]), bold=record["state"] == "unknown")
    began = _time(record["began"]) if record.get("began") else ""
    return f"{record['record']}  {state}  {began}  {record.get('method', '')}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
