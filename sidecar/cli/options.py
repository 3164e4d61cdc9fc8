"""Options that commands share which talk to a running sidecar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]
ADMIN = "http://127.0.0.1:9901"

token = click.option("--token", metavar="TOKEN", envvar="SIDECAR_ADMIN_TOKEN", help="The admin token, if there is one.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_admin = click.option(
    "--admin", metavar="URL", default=ADMIN, show_default=True, envvar="SIDECAR_ADMIN", help="Its admin address."
)


def reaches(command: Command) -> Command:
    """How to reach the sidecar: `admin`, `token`."""
    return _admin(token(command))


def asks(command: Command) -> Command:
    """How to reach the sidecar, and what to print: `admin`, `token`, `as_json`."""
    return reaches(as_json(command))
