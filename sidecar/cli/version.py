"""`sidecar version`."""

from __future__ import annotations

import platform
from importlib import metadata

import click

from sidecar import __version__

_SHOWN = ("grpcio", "protobuf", "cryptography", "pydantic", "uvloop")


@click.command(
    epilog="\b\nExamples:\n  sidecar version",
)
def version() -> None:
    """Print the version of the sidecar, of Python, and of the libraries that matter in a bug report."""
    click.echo(f"sidecar {__version__}")
    click.echo(f"python {platform.python_version()} ({platform.platform()})")
    for name in _SHOWN:
        try:
            click.echo(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            click.echo(f"{name} not installed")
