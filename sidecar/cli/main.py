"""`sidecar`: the group that holds the commands, each imported when it is called."""

from __future__ import annotations

import importlib
from typing import Any

import click

from sidecar import __version__

_COMMANDS = {
    "run": ("run", "Run the sidecar."),
    "validate": ("validate", "Check a configuration file without running it."),
    "check": ("check", "Check a configuration and what it names, live."),
    "status": ("status", "What a running sidecar does, at a glance; --watch keeps looking."),
    "schema": ("schema", "Print the JSON Schema of the configuration file."),
    "explain": ("explain", "Which route, rule and limit decide about a call, and why."),
    "alerts": ("alerts", "What fires, and whether it reaches people: list, test."),
    "call": ("call", "Call any method of a gRPC server, in JSON, for those without grpcurl."),
    "idempotency": ("idempotency", "Records of keyed RPCs; settle what nobody knows."),
    "rollout": ("rollout", "Drive a rollout: status, start, pause, resume, promote, abort."),
    "drill": ("drill", "A fault on purpose, for a bounded time, with a verdict."),
    "logging": ("logging", "What a running sidecar logs: show it, or change it."),
    "audit": ("audit", "Check an audit log, or read it."),
    "certs": ("certs", "A development CA, SPIFFE certificates, and what is in them."),
    "demo": ("demo", "Agents, sidecars, certificates and real RPCs on this machine."),
    "probe": ("probe", "Ask a gRPC server for its health; grpc-health-probe's exit codes."),
    "version": ("version", "Print versions."),
}


class _Lazy(click.Group):
    """Knows its commands by name; `sidecar version` must not import the data path."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module = importlib.import_module(f"sidecar.cli.{entry[0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage.",
)
@click.version_option(__version__, prog_name="sidecar")
def sidecar(**_: Any) -> None:
    """A gRPC service-mesh sidecar for agent workloads."""


def main() -> None:
    sidecar(prog_name="sidecar")


if __name__ == "__main__":
    main()
