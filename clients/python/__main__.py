"""`python -m clients.python`: calls of all kinds from a shell. Prints JSON.

Exit codes: 0 OK, 1 failed before a call was made, 2 wrong usage, 64 + the gRPC status number when a call failed.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from clients.python import (
    AgentClient,
    CallFailure,
    Result,
    TlsFiles,
    Turn,
    new_idempotency_key,
)
from clients.python.failure import number_of
from clients.python.task_commands import add_to

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

STATUS_OFFSET = 64
"""As grpcurl does it, so that scripts can be carried over."""

F = TypeVar("F", bound="Callable[..., Any]")


class _Call:
    """What all commands share."""

    def __init__(self, client: Callable[[], AgentClient], *, is_compact: bool) -> None:
        self._client = client
        self._is_compact = is_compact

    def run(self, work: Callable[[AgentClient], Coroutine[Any, Any, None]]) -> None:
        """Run and leave with the exit code that fits."""

        async def connected() -> None:
            async with self._client() as client:
                await work(client)

        try:
            asyncio.run(connected())
        except CallFailure as failure:
            click.echo(json.dumps({"error": failure.as_dict()}, indent=None if self._is_compact else 2), err=True)
            sys.exit(STATUS_OFFSET + number_of(failure.code))
        except OSError as error:
            raise click.ClickException(str(error)) from error

    def show(self, value: Any) -> None:
        """Print one JSON value."""
        click.echo(json.dumps(value, indent=None if self._is_compact else 2, default=_encoded))

    def show_line(self, value: Any) -> None:
        """Print one JSON value on a line of its own: one of many."""
        click.echo(json.dumps(value, default=_encoded))


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  python -m clients.python execute query -p sql='SELECT 1 AS one'
  python -m clients.python --target 127.0.0.1:50061 stream fetch -p urls='["https://example.org/"]'
  python -m clients.python ingest -p table=people records.jsonl
""",
)
@click.option(
    "--target", default="127.0.0.1:50051", show_default=True, envvar="AGENT_TARGET", help="host:port or unix:/path."
)
@click.option("--agent", default="", help="Agent to call; may be left out where only one is served.")
@click.option(
    "--tls-ca", type=click.Path(path_type=Path, dir_okay=False), help="Speak TLS and check the server by this CA."
)
@click.option("--tls-cert", type=click.Path(path_type=Path, dir_okay=False), help="Our certificate, for mTLS.")
@click.option("--tls-key", type=click.Path(path_type=Path, dir_okay=False), help="Its key.")
@click.option("--server-name", default="", help="Name the server's certificate is checked against.")
@click.option("-H", "--metadata", multiple=True, metavar="NAME:VALUE", help="Request metadata; may be repeated.")
@click.option(
    "--timeout", type=float, default=60.0, show_default=True, help="Deadline in seconds; not for streams of ours."
)
@click.option("--compact", is_flag=True, help="Each answer on one line.")
@click.pass_context
def main(
    context: click.Context,
    target: str,
    agent: str,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    server_name: str,
    metadata: tuple[str, ...],
    timeout: float,
    compact: bool,
) -> None:
    """Call an agent, normally through the outbound sidecar. Prints JSON.

    Exit codes: 0 OK, 1 failed before a call was made, 2 wrong usage, 64 + the gRPC status number when a call failed.
    """
    if bool(tls_cert) != bool(tls_key):
        msg = "--tls-cert and --tls-key belong together"
        raise click.UsageError(msg)
    if tls_cert and not tls_ca:
        msg = "--tls-cert needs --tls-ca"
        raise click.UsageError(msg)
    tls = TlsFiles(tls_ca, tls_cert, tls_key, server_name) if tls_ca else None
    pairs = [_pair(each, ":") for each in metadata]

    def client() -> AgentClient:
        return AgentClient(target, tls=tls, agent=agent, timeout=timeout, metadata=pairs)

    context.obj = _Call(client, is_compact=compact)


def _operation_options(function: F) -> F:
    for option in (
        click.option(
            "--idempotency-key", default="", help="Repeating under the same key changes nothing; 'new' makes one."
        ),
        click.option("--session", default="", help="Session the call belongs to."),
        click.option("--task", default="", help="What is wanted, in words; the operation may then be left out."),
        click.option(
            "-p",
            "--param",
            multiple=True,
            metavar="NAME=VALUE",
            help="Input; the value is JSON if it parses, else text.",
        ),
        click.argument("operation", default=""),
    ):
        function = option(function)
    return function


@main.command(
    epilog="""\b
Examples:
  python -m clients.python execute query -p sql='SELECT * FROM t WHERE id = ?' -p params='[1]'
  python -m clients.python execute --task 'SELECT 1'
  python -m clients.python execute execute -p sql='DELETE FROM t' --idempotency-key new
"""
)
@_operation_options
@click.pass_obj
def execute(call: _Call, operation: str, param: tuple[str, ...], task: str, session: str, idempotency_key: str) -> None:
    """Run one operation and print its result."""
    parameters, key = _parameters(param), _key(idempotency_key)

    async def work(client: AgentClient) -> None:
        result = await client.execute(operation, parameters, task=task, session_id=session, idempotency_key=key)
        call.show(_shown(result))

    call.run(work)


@main.command(
    epilog="""\b
Example:
  python -m clients.python stream query -p sql='SELECT * FROM t' -p page_size=100
"""
)
@_operation_options
@click.pass_obj
def stream(call: _Call, operation: str, param: tuple[str, ...], task: str, session: str, idempotency_key: str) -> None:
    """Run one operation and print each event on a line, the result last."""
    parameters, key = _parameters(param), _key(idempotency_key)

    async def work(client: AgentClient) -> None:
        events = client.stream(operation, parameters, task=task, session_id=session, idempotency_key=key)
        async for event in events:
            name = type(event).__name__.lower()
            call.show_line({name: _shown(event) if isinstance(event, Result) else asdict(event)})

    call.run(work)


@main.command(
    epilog="""\b
Examples:
  python -m clients.python ingest -p table=people -p columns='{"id": "INTEGER", "name": "TEXT"}' records.jsonl
  seq 3 | jq -c '{id: .}' | python -m clients.python ingest -p table=people
"""
)
@click.option(
    "-p", "--param", multiple=True, metavar="NAME=VALUE", help="Input; the value is JSON if it parses, else text."
)
@click.option("--operation", default="", help="May be left out where the agent has only one that takes records.")
@click.option("--id-field", default="", help="Field that names a record in the list of rejected ones.")
@click.argument("file", type=click.File("r"), default="-")
@click.pass_obj
def ingest(call: _Call, param: tuple[str, ...], operation: str, id_field: str, file: Any) -> None:
    """Send the records of FILE (JSON, one object per line; default stdin) and print what became of them."""
    parameters = _parameters(param)

    async def work(client: AgentClient) -> None:
        summary = await client.ingest(_lines(file), parameters, operation=operation, id_field=id_field)
        call.show(asdict(summary))

    call.run(work)


@main.command(
    epilog="""\b
Example:
  printf 'SELECT 1\\n{"operation": "recall"}\\n' | python -m clients.python converse
"""
)
@click.option("--session", default="", help="Session; left out, the server makes one.")
@click.argument("file", type=click.File("r"), default="-")
@click.pass_obj
def converse(call: _Call, session: str, file: Any) -> None:
    """Take one turn per line of FILE (default stdin) and print each answer on a line.

    A line is text, or a JSON object with text, operation, parameters, agent, session_id, turn_id.
    """

    async def work(client: AgentClient) -> None:
        async with aclosing(client.converse(_turns(file, session))) as answers:  # type: ignore[type-var]
            async for answer in answers:
                call.show_line(
                    {
                        "session_id": answer.session_id,
                        "turn_id": answer.turn_id,
                        "turn": answer.turn,
                        **({"result": _shown(answer.result)} if answer.result else {}),
                        **({"error": answer.failure.as_dict()} if answer.failure else {}),
                    }
                )

    call.run(work)


@main.command(
    epilog="""\b
Example:
  python -m clients.python describe | jq '.agents[].operations[].name'
"""
)
@click.argument("agent", default="")
@click.pass_obj
def describe(call: _Call, agent: str) -> None:
    """Print what the server can do."""

    async def work(client: AgentClient) -> None:
        call.show(await client.describe(agent))

    call.run(work)


def _pair(text: str, separator: str) -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not found or not name:
        msg = f"{text!r}: expected NAME{separator}VALUE"
        raise click.UsageError(msg)
    return name.strip(), value.strip() if separator == ":" else value


def _parameters(given: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in given:
        name, value = _pair(each, "=")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def _key(text: str) -> str:
    if text != "new":
        return text
    key = new_idempotency_key()
    click.echo(f"idempotency-key: {key}", err=True)
    return key


async def _numbered(file: Any) -> AsyncIterator[tuple[int, str]]:
    # In a thread: a terminal that waits for its user must not keep answers from being printed.
    loop = asyncio.get_running_loop()
    number = 0
    while line := await loop.run_in_executor(None, file.readline):
        number += 1
        if line.strip():
            yield number, line.strip()


async def _lines(file: Any) -> AsyncIterator[dict[str, Any]]:
    async for number, line in _numbered(file):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            msg = f"line {number}: {error}"
            raise click.ClickException(msg) from error
        if not isinstance(record, dict):
            msg = f"line {number}: expected a JSON object"
            raise click.ClickException(msg)
        yield record


async def _turns(file: Any, session: str) -> AsyncIterator[Turn]:
    async for number, text in _numbered(file):
        if not text.startswith("{"):
            yield Turn(text=text, session_id=session)
            continue
        try:
            yield Turn(**{"session_id": session, **json.loads(text)})
        except (json.JSONDecodeError, TypeError) as error:
            msg = f"line {number}: {error}"
            raise click.ClickException(msg) from error


def _shown(result: Result) -> dict[str, Any]:
    shown = asdict(result)
    shown["table"] = None if result.table is None else result.table.as_dicts()
    return shown


def _encoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(type(value).__name__)


add_to(main, _operation_options, _shown, _parameters, _key)


if __name__ == "__main__":
    main(prog_name="python -m clients.python")
