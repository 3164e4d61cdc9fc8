"""What `run`, `validate` and `check` share: reading a configuration, with every problem told in one go."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from sidecar.config.load import load
from sidecar.config.problems import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.config.load import Loaded


def load_or_exit(path: Path) -> Loaded:
    """Load `path`; on problems print each with its line and leave with exit code 1. Warnings go to stderr."""
    try:
        loaded = load(path, environ=os.environ)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        count = len(error.problems)
        click.echo(f"{count} problem{'s' if count != 1 else ''} in {path}", err=True)
        sys.exit(1)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    return loaded
