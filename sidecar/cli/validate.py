"""`sidecar validate`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidecar.cli.load import load_or_exit

if TYPE_CHECKING:
    from sidecar.config.load import Loaded


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  sidecar validate -c sidecar.yaml\n"
        "  sidecar validate -c sidecar.yaml && kill -HUP $(pidof sidecar)\n\n"
        "Exit codes: 0 valid (warnings allowed), 1 not valid, 2 wrong usage."
    ),
)
@click.option("-c", "--config", "path", required=True, type=click.Path(path_type=Path), help="The configuration file.")
def validate(path: Path) -> None:
    """Parse the file, load its certificates, compile its rules. Binds nothing, disturbs nothing."""
    loaded = load_or_exit(path)
    problem = asyncio.run(_build(loaded))
    if problem is not None:
        click.echo(f"{path}: {problem}", err=True)
        sys.exit(1)
    click.echo(f"{path} is valid: {len(loaded.root.listeners)} listeners, {len(loaded.root.clusters)} clusters")


async def _build(loaded: Loaded) -> str | None:
    from sidecar.cli.run import make_runtime
    from sidecar.control.certificates import Certificates
    from sidecar.control.generation import Builder, listener_options
    from sidecar.control.revocations import RevocationLists
    from sidecar.transport.socket import Flusher

    try:
        runtime = make_runtime(loaded)
    except ValueError as error:
        return f"store.url: {error}"
    certificates = Certificates(runtime.clock.wall)
    builder = Builder(runtime, Flusher(asyncio.get_running_loop()), certificates)
    try:
        generation = builder.build(loaded.root, number=1, source_hash=loaded.source_hash)
        for config in generation.root.listeners:
            certificates.for_listener(config)
            listener_options(config, RevocationLists())
    except ValueError as error:
        return str(error)
    return None
