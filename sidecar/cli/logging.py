"""`sidecar logging`."""

from __future__ import annotations

from urllib.parse import urlencode

import click

from sidecar.cli.ask import AdminError, ask
from sidecar.cli.options import reaches
from sidecar.telemetry.logs import LEVELS


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  sidecar logging\n"
        "  sidecar logging debug\n"
        "  sidecar logging warning --admin http://127.0.0.1:9902\n\n"
        "A change holds until the sidecar ends; --log-level of `sidecar run` says how it begins."
    )
)
@click.argument("level", type=click.Choice(LEVELS), required=False)
@reaches
def logging(level: str | None, admin: str, token: str | None) -> None:
    """Show what a running sidecar logs, or change it to LEVEL and above.

    At `warning`, the access log has only the RPCs that failed.
    """
    try:
        if level is None:
            found = ask(admin, "/logging", token=token)
        else:
            found = ask(admin, f"/logging?{urlencode({'level': level})}", token=token, form={})
    except AdminError as error:
        raise click.ClickException(str(error)) from None
    click.echo(found["level"])
