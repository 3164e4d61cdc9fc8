"""What `run`, `validate` and `check` share: reading a configuration, with every problem told in one go."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from sidecar.config.files import Loaders, check_files
from sidecar.config.load import load
from sidecar.config.problems import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.config.load import Loaded


def load_or_exit(path: Path) -> Loaded:
    """Load `path`; on problems print each with its line and leave with exit code 1. Warnings go to stderr."""
    try:
        loaded = load(path, environ=os.environ)
        problems = list(check_files(loaded, file_loaders()))
    except ConfigError as error:
        problems = list(error.problems)
    if problems:
        for problem in problems:
            click.echo(str(problem), err=True)
        click.echo(f"{len(problems)} problem{'s' if len(problems) != 1 else ''} in {path}", err=True)
        sys.exit(1)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    return loaded


def file_loaders() -> Loaders:
    """How certificates and keys are read; `cryptography` is imported only if there are some."""

    def certificates(path: Path) -> object:
        from sidecar.identity.load import read_certificates

        return read_certificates(path)

    def private_key(path: Path) -> object:
        from sidecar.identity.load import read_private_key

        return read_private_key(path)

    def pair(certificate: Path, key: Path) -> object:
        from sidecar.identity.load import load as load_pair

        return load_pair(certificate, key, None)

    return Loaders(certificates, private_key, certificates, pair)
