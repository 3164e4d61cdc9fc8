"""The command `agent-server`. Exit codes: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import asyncio
import json
import logging
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

import click

import agent_server

EXAMPLES = """\b
Examples:
  agent-server run --bind 127.0.0.1:50051 --database data.db
  agent-server describe --agent data
  agent-server run --help
"""


@click.group(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Agents behind a gRPC service.

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """
    # Agents and tools are often files of the folder one is in; what is installed comes first.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


@main.command(
    context_settings={"auto_envvar_prefix": "AGENT_SERVER"},
    epilog="""\b
Examples:
  agent-server run
  agent-server run --bind unix:/run/agent.sock --database data.db --version v2
  agent-server run -c agent.yaml --allow-address 127.0.0.0/8
  agent-server run --agents my_package.my_agent --agents agent_server.agents.data
""",
)
@click.option(
    "-c", "--config", type=click.Path(path_type=Path, dir_okay=False), help="YAML file with the settings below."
)
@click.option(
    "--bind", metavar="ADDRESS", help="host:port (port 0: a free one) or unix:/path.  [default: 127.0.0.1:50051]"
)
@click.option("--allow-remote/--no-allow-remote", default=None, help="Bind to more than loopback, in clear text.")
@click.option("--version", metavar="LABEL", help="Label of this deployment, sent as x-agent-version.  [default: v1]")
@click.option("--agents", multiple=True, metavar="MODULE", help="Module that declares agents; may be repeated.")
@click.option("--database", type=click.Path(path_type=Path, dir_okay=False), help="SQLite file; none: a temporary one.")
@click.option("--database-readers", type=int, metavar="N", help="Queries at the same time.  [default: 2]")
@click.option(
    "--allow-address",
    "allow_addresses",
    multiple=True,
    metavar="CIDR",
    help="Network to fetch from besides the public internet; may be repeated.",
)
@click.option("--max-message-bytes", type=int, metavar="BYTES", help="Largest message.  [default: 16 MiB]")
@click.option("--max-concurrent-rpcs", type=int, metavar="N", help="Calls at the same time.  [default: no limit]")
@click.option("--max-sessions", type=int, metavar="N", help="Sessions that are remembered.  [default: 1000]")
@click.option("--operation-timeout", type=float, metavar="SECONDS", help="Longest operation.  [default: 300]")
@click.option("--grace", type=float, metavar="SECONDS", help="For running calls after SIGTERM.  [default: 30]")
@click.option(
    "--environment", metavar="NAME", help="Overlay of the file: FILE.NAME.yaml beside it.  [default: production]"
)
@click.option("--state", type=click.Path(path_type=Path, dir_okay=False), help="File of tasks, checkpoints and memory.")
@click.option("--workflows", type=click.Path(path_type=Path, file_okay=False), help="Folder of workflows.")
@click.option("--tools", multiple=True, metavar="MODULE", help="Module that declares tools; may be repeated.")
@click.option("--task-concurrency", type=int, metavar="N", help="Submitted tasks at the same time.  [default: 4]")
@click.option("--task-keep", type=float, metavar="SECONDS", help="How long ended tasks are known.  [default: 7 days]")
@click.option("--metrics", metavar="ADDRESS", help="host:port where Prometheus finds /metrics.  [default: nowhere]")
@click.option("--otlp", metavar="URL", help="Collector of spans, http://host:4317.  [default: none]")
@click.option("--trace-sample", type=float, metavar="PERCENT", help="Of calls that begin a trace here.  [default: 1]")
@click.option("--reflection/--no-reflection", default=None, help="Answer server reflection.  [default: on]")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def run(config: Path | None, log_level: str, **given: Any) -> None:
    """Serve until SIGTERM or SIGINT.

    Every option can be set as AGENT_SERVER_<OPTION> too, and in the file without its dashes. Prints one line to
    stdout when calls are taken:
    "agent-server ready ADDRESS".
    """
    from agent_server.configuration.settings import SettingsError, load_settings, settings_files
    from agent_server.core.catalogue import CatalogueError
    from agent_server.core.masking import MaskingFormatter
    from agent_server.core.store import StoreError
    from agent_server.service.binding import BindError
    from agent_server.service.life import serve
    from agent_server.service.tracing import TracingError
    from agent_server.tools.database import DatabaseError
    from agent_server.tools.declare import ToolError
    from agent_server.workflows.library import LibraryError

    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(MaskingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=log_level.upper(), handlers=[lines])
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    chosen = {name: value or None if isinstance(value, tuple) else value for name, value in given.items()}
    try:
        settings = load_settings(config, chosen)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None

    def ready(address: str) -> None:
        click.echo(f"agent-server ready {address}")

    try:
        is_orderly = asyncio.run(
            serve(
                settings,
                now=time.monotonic,
                wall=time.time,
                chance=random.SystemRandom(),
                ready=ready,
                load=lambda: load_settings(config, chosen),
                files=settings_files(config, settings.environment),
            )
        )
    except (BindError, CatalogueError, DatabaseError, LibraryError, StoreError, ToolError, TracingError) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(0 if is_orderly else 1)


@main.command(
    epilog="""\b
Examples:
  agent-server describe
  agent-server describe --agent data | jq '.agents[0].operations[].name'
"""
)
@click.option("--agent", default="", help="Only this agent.")
@click.option("--agents", multiple=True, metavar="MODULE", help="Module that declares agents; may be repeated.")
@click.option("--tools", multiple=True, metavar="MODULE", help="Module that declares tools; may be repeated.")
def describe(agent: str, agents: tuple[str, ...], tools: tuple[str, ...]) -> None:
    """Print the agents, their operations, the tools of workflows, and the JSON Schemas of all, as JSON. Needs no running server."""
    from agent_server.agents import BUILT_IN
    from agent_server.core.catalogue import CatalogueError, load_specs
    from agent_server.tools.declare import BUILT_IN as TOOLS
    from agent_server.tools.declare import ToolError, load_tools

    try:
        specs = load_specs(agents or BUILT_IN)
        known = load_tools(tools or TOOLS)
    except (CatalogueError, ToolError) as error:
        raise click.ClickException(str(error)) from error
    if agent:
        specs = [spec for spec in specs if spec.name == agent]
        if not specs:
            msg = f"no agent is named {agent!r}"
            raise click.ClickException(msg)
    described = {
        "server_version": agent_server.__version__,
        "agents": [
            {
                "name": spec.name,
                "summary": spec.summary,
                "operations": [
                    {
                        "name": each.name,
                        "summary": each.summary,
                        "kind": each.kind.value,
                        "read_only": each.read_only,
                        "text_parameter": each.text_parameter,
                        "input_schema": each.input_model.model_json_schema(),
                        "output_schema": each.output_model.model_json_schema(mode="serialization"),
                    }
                    for each in spec.operations.values()
                ],
            }
            for spec in specs
        ],
        "tools": [each.described() for each in sorted(known.values(), key=lambda each: each.name)],
    }
    click.echo(json.dumps(described, indent=2))


@main.command(
    epilog="""\b
Examples:
  agent-server check workflows/
  agent-server check night.yaml --tools agent_server.tools.kit.tables --tools my_tools
"""
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--tools", multiple=True, metavar="MODULE", help="Module that declares tools; may be repeated.")
def check(paths: tuple[Path, ...], tools: tuple[str, ...]) -> None:
    """Check workflow files, or folders of them: their form, their steps' order, their tools and what these are given."""
    from agent_server.core.failure import Failure
    from agent_server.tools.declare import BUILT_IN, ToolError, load_tools
    from agent_server.workflows.definition import parse

    try:
        known = load_tools(tools or BUILT_IN)
    except ToolError as error:
        raise click.ClickException(str(error)) from error
    files = [each for path in paths for each in (sorted(path.glob("*.y*ml")) if path.is_dir() else [path])]
    is_wrong = not files
    for file in files:
        try:
            workflow = parse(file.read_text(encoding="utf-8"), "")
            workflow.check_tools(known, "")
            workflow.check_inputs(known, "")
            click.echo(f"{file}: {workflow.name}, {len(workflow.steps)} steps")
        except Failure as failure:
            is_wrong = True
            for each in failure.violations:
                click.echo(f"{file}: {each.field.lstrip('.') or 'workflow'}: {each.description}", err=True)
        except (OSError, UnicodeDecodeError) as error:
            is_wrong = True
            click.echo(f"{file}: {error}", err=True)
    if not files:
        click.echo("there are no workflow files", err=True)
    sys.exit(1 if is_wrong else 0)


@main.command(
    epilog="""\b
Example:
  agent-server reseal -c agent.yaml
"""
)
@click.option(
    "-c", "--config", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The server's settings."
)
@click.option("--environment", metavar="NAME", help="Overlay of the file: FILE.NAME.yaml beside it.")
def reseal(config: Path, environment: str | None) -> None:
    """Encrypt all that is stored with the newest key, so that older keys can be thrown away.

    To rotate keys: put the new one first in `encryption_keys`, restart, reseal, take the old ones out, restart. The server may run
    meanwhile.
    """
    from agent_server.configuration.settings import SettingsError, load_settings, state_file
    from agent_server.core.store import Store, StoreError
    from agent_server.core.vault import VaultError

    try:
        settings = load_settings(config, {"environment": environment})
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    path = state_file(settings)
    if path is None or not path.exists():
        raise click.ClickException(f"there is no state file{'' if path is None else f' {path}'}")

    async def work() -> int:
        store = Store(path, [each.get_secret_value() for each in settings.encryption_keys])
        await store.open()
        try:
            return await store.renew()
        finally:
            await store.close()

    try:
        count = asyncio.run(work())
    except (StoreError, VaultError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{path}: {count} values are encrypted with the newest key")


@main.command(
    epilog="""\b
Example:
  agent-server version
"""
)
def version() -> None:
    """Print the releases of this program, grpcio and Python."""
    import grpc

    click.echo(
        f"agent-server {agent_server.__version__} (grpcio {grpc.__version__}, Python {platform.python_version()})"
    )
