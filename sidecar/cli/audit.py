"""`sidecar audit`: is an audit log as it was written, and what does it say?"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from sidecar.cli.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.policies.audit.verify import Report

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_LOOK_AGAIN = 0.25


@click.group(
    epilog="""\b
Examples:
  sidecar audit verify /var/log/sidecar/audit.jsonl* --key audit.key.pub
  sidecar audit tail -f /var/log/sidecar/audit.jsonl
"""
)
def audit() -> None:
    """Check the hash chain and the signatures of an audit log; read it."""


@audit.command(
    epilog=(
        "\b\nExamples:\n"
        "  sidecar audit verify audit.jsonl                            # hashes, and the last checkpoint if there is one\n"
        "  sidecar audit verify audit.jsonl* --key audit.key.pub       # the rotated files, too; signed by this key\n"
        "  sidecar audit verify audit.jsonl --key sha256:5f1d… -o json # the same by the fingerprint of the key\n\n"
        "Exit codes: 0 intact (a torn last line is a warning), 1 broken, 2 wrong usage."
    )
)
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=_FILE)
@click.option(
    "--key", "keys", multiple=True, metavar="PUB", help="Who must have signed: a public key file, or sha256:…."
)
@click.option("--checkpoint", type=_FILE, help="The last checkpoint, if it does not lie beside FILE.")
@click.option("--expect-sequence", type=click.IntRange(1), help="A record that must be there, noted elsewhere.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def verify(
    files: tuple[Path, ...], keys: tuple[str, ...], checkpoint: Path | None, expect_sequence: int | None, output: str
) -> None:
    """Find every line that was edited, removed, swapped or inserted, and an end that was cut off.

    Files of one log are checked as one chain, in whatever order they are named; what lies beside them (.checkpoint, .lock)
    is left out.
    """
    from sidecar.policies.audit.hashes import read_pin
    from sidecar.policies.audit.verify import verify as check

    logs = [path for path in files if path.suffix not in {".checkpoint", ".lock"}]
    if not logs:
        raise click.UsageError("none of these is an audit log")
    try:
        pins = frozenset(map(read_pin, keys))
    except OSError as error:
        raise click.UsageError(f"--key: {error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise click.UsageError(f"--key: {error}") from None
    try:
        size = sum(path.stat().st_size for path in logs) / 1e6
        with Progress(f"verifying {size:.0f} MB"):
            report = check(logs, pins=pins, checkpoint=checkpoint, expect_sequence=expect_sequence)
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None
    if output == "json":
        click.echo(json.dumps(report.summary(), indent=2))
    else:
        _tell(report)
    sys.exit(0 if report.is_intact else 1)


def _tell(report: Report) -> None:
    for each in report.breaks:
        where = f"{each.file}:{each.line}" if each.line else each.file
        click.echo(f"{where}: {click.style(each.kind, fg='red')}: {each.text}")
    for warning in report.warnings:
        click.echo(f"warning: {warning}", err=True)
    span = f"{report.records} records ({report.first} to {report.last})" if report.records else "no records"
    signed = f", signed up to {report.signed_to}" if report.signed_to else ""
    state = click.style("intact", fg="green") if report.is_intact else click.style("BROKEN", fg="red")
    click.echo(f"{state}: {span}{signed}")


@audit.command()
@click.argument("file", type=_FILE)
@click.option(
    "-n", "--lines", type=click.IntRange(0), default=10, show_default=True, help="How many of the last lines."
)
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on with what is written, over rotations.")
def tail(file: Path, lines: int, follows: bool) -> None:
    """Print the last records, one readable line each. It does not check them: that is `verify`."""
    try:
        for line in read_lines(file, lines, (lambda: time.sleep(_LOOK_AGAIN)) if follows else None):
            click.echo(readable(line))
            if follows:
                sys.stdout.flush()
    except KeyboardInterrupt:
        return
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None


def read_lines(path: Path, last: int, wait: Callable[[], object] | None) -> Iterator[bytes]:
    """The `last` whole lines of `path`; then, with `wait`, all that come, also in the files that take its name.

    `wait` is called whenever there is nothing new. A line that has no end yet is not given, unless nothing will come.
    """
    file: BinaryIO = path.open("rb")
    try:
        ring: deque[bytes] = deque(file, maxlen=last)
        # A line that is still being written is not one of them yet.
        part = ring.pop() if ring and not ring[-1].endswith(b"\n") and wait is not None else b""
        yield from ring
        while wait is not None:
            for line in file:
                part += line
                if part.endswith(b"\n"):
                    yield part
                    part = b""
            following = _successor(path, file)
            if following is None:
                wait()
                continue
            # Whatever came between the last look and the renaming is still in the old file.
            yield from (part + line if i == 0 else line for i, line in enumerate(file))
            part = b""
            file.close()
            file = following
    finally:
        file.close()


def _successor(path: Path, file: BinaryIO) -> BinaryIO | None:
    """The file that has the name now, if it is another one."""
    try:
        if os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return None
        return path.open("rb")
    except FileNotFoundError:
        return None


def readable(line: bytes) -> str:
    """A record for people: when, what became of it, who called what, and how it went."""
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        return click.style(f"(no record: {len(line)} bytes)", fg="red")
    when = str(record.get("time", ""))[:23].replace("T", " ")
    beginning = f"{record.get('sequence', '?'):>6} {when}"
    kind = str(record.get("kind", ""))
    if kind not in {"call", "decision"}:
        more = {name: each for name, each in record.items() if name in {"cause", "dropped", "torn"}}
        return f"{beginning} {click.style(kind, fg='yellow')} {json.dumps(more) if more else ''}".rstrip()
    return " ".join(filter(None, (beginning, *_words(record))))


def _words(record: dict[str, Any]) -> Iterator[str]:
    status = str(record.get("status", ""))
    yield click.style(f"{status:<18}", fg="green" if status == "OK" else "red")
    yield str(record.get("identity") or f"({record.get('remote', 'nobody')})")
    yield str(record.get("method", "-"))
    decision = record.get("decision")
    if decision != "allow" or "rule" in record:
        yield f"{decision} by {record['rule']}" if "rule" in record else str(decision)
    if "reason" in record:
        yield str(record["reason"])
    if "duration_ms" in record:
        yield f"{record['duration_ms']} ms"
    if "endpoint" in record:
        yield f"at {record['endpoint']}"
    if record.get("attempts", 1) > 1:
        yield f"{record['attempts']} attempts"
    if "request_id" in record:
        yield f"id={record['request_id']}"
