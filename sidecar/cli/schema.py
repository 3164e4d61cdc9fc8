"""`sidecar schema`."""

from __future__ import annotations

import json

import click


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  sidecar schema > sidecar.schema.json\n"
        "  # first line of a configuration, for editors:\n"
        "  # yaml-language-server: $schema=sidecar.schema.json"
    ),
)
def schema() -> None:
    """Print the JSON Schema of the configuration file, from the same models that parse it."""
    from sidecar.config.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
