"""`sidecar check`: is everything that a configuration names really there, and does it work, now?"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.cli.ask import AdminError, ask_text
from sidecar.cli.load import file_loaders
from sidecar.cli.progress import Progress
from sidecar.config.units import parse_duration

if TYPE_CHECKING:
    from sidecar.config.clusters import ClusterTlsConfig
    from sidecar.config.listeners import ListenerTlsConfig
    from sidecar.config.load import Loaded
    from sidecar.config.root import ClusterConfig

_MARKS = {"ok": ("√", "green"), "warning": ("‼", "yellow"), "failed": ("×", "red")}
_SOON_DAYS = 7.0
_DIAL_TIMEOUT = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its group, what was looked at, how it came out (ok, warning, failed), and what to do."""

    group: str
    name: str
    result: str
    hint: str = ""


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  sidecar check -c sidecar.yaml\n"
        "  sidecar check -c sidecar.yaml --admin http://127.0.0.1:9901 --wait 1m\n"
        "  sidecar check -c sidecar.yaml -o json | jq '.[] | select(.result != \"ok\")'\n\n"
        "Exit codes: 0 nothing failed (warnings allowed), 1 something failed, 2 wrong usage."
    ),
)
@click.option("-c", "--config", "path", type=click.Path(path_type=Path), help="The configuration file.")
@click.option("--admin", metavar="URL", help="Ask this running sidecar, too.")
@click.option("--wait", metavar="DURATION", default="0s", show_default=True, help="Keep trying until nothing fails.")
@click.option("-o", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def check(path: Path | None, admin: str | None, wait: str, output: str) -> None:
    """Check a configuration and what it names: files, certificates, upstreams, a running sidecar, the clock."""
    if path is None and admin is None:
        raise click.UsageError("give -c FILE, --admin URL, or both")
    try:
        deadline = time.monotonic() + parse_duration(wait)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--wait") from None
    while True:
        with Progress("checking") as progress:
            findings = list(_findings(path, admin, progress))
        failed = sum(each.result == "failed" for each in findings)
        if not failed or time.monotonic() >= deadline:
            break
        click.echo(f"{failed} failed, trying again", err=True)
        time.sleep(1)
    if output == "json":
        click.echo(json.dumps([asdict(each) for each in findings], indent=2))
    else:
        _print(findings)
    sys.exit(1 if failed else 0)


def _print(findings: list[Finding]) -> None:
    group = ""
    for each in findings:
        if each.group != group:
            group = each.group
            click.secho(f"{group}\n{'-' * len(group)}", bold=True)
        mark, colour = _MARKS[each.result]
        click.echo(f"{click.style(mark, fg=colour)} {each.name}")
        if each.result != "ok":
            click.echo(f"    {each.hint}")
    failed = sum(each.result == "failed" for each in findings)
    click.echo(f"\nStatus: {failed} of {len(findings)} checks failed" if failed else "\nStatus: all is well")


def _findings(path: Path | None, admin: str | None, progress: Progress) -> Iterator[Finding]:
    if path is not None:
        progress.step(str(path))
        loaded = yield from _configuration(path)
        if loaded is not None:
            yield from _certificates(loaded)
            yield from _receivers(loaded)
            yield from _upstreams(loaded, progress)
    if admin is not None:
        progress.step(admin)
        yield from _running(admin)
    yield from _clock()


def _configuration(path: Path) -> Generator[Finding, None, Loaded | None]:
    from sidecar.config.files import check_files
    from sidecar.config.load import load
    from sidecar.config.problems import ConfigError

    try:
        loaded = load(path, environ=os.environ)
    except ConfigError as error:
        for problem in error.problems:
            yield Finding("configuration", str(path), "failed", str(problem))
        return None
    problems = check_files(loaded, file_loaders())
    yield Finding("configuration", f"{path} parses", "ok")
    for problem in problems:
        yield Finding("configuration", "files", "failed", str(problem))
    for warning in loaded.warnings:
        yield Finding("configuration", "advice", "warning", str(warning))
    return None if problems else loaded


def _certificates(loaded: Loaded) -> Iterator[Finding]:
    from sidecar.identity.load import read_certificates

    now = time.time()
    sections: list[tuple[str, ListenerTlsConfig | ClusterTlsConfig | None]] = [
        *((f"listener {each.name}", each.tls) for each in loaded.root.listeners),
        *((f"cluster {name}", each.tls) for name, each in loaded.root.clusters.items()),
    ]
    for name, tls in sections:
        if tls is None:
            continue
        for kind, file in (("certificate", tls.certificate), ("trusted_ca", tls.trusted_ca)):
            if file is None:
                continue
            for certificate in read_certificates(file):
                days = (certificate.not_valid_after_utc.timestamp() - now) / 86_400
                begun = certificate.not_valid_before_utc.timestamp() <= now
                shown = f"{name}: {kind} {file.name}, {days:.1f} days left"
                if days <= 0 or not begun:
                    hint = f"{file} is not valid now; issue a new one (sidecar certs issue)"
                    yield Finding("certificates", shown, "failed", hint)
                elif days < _SOON_DAYS:
                    yield Finding("certificates", shown, "warning", "ends soon; renew it")
                else:
                    yield Finding("certificates", shown, "ok")
        if tls.certificate is not None:
            yield from _names(name, tls.certificate)


def _names(name: str, file: Path) -> Iterator[Finding]:
    from cryptography.hazmat.primitives.serialization import Encoding

    from sidecar.identity.certificate import facts
    from sidecar.identity.load import read_certificates

    found = facts(read_certificates(file)[0].public_bytes(Encoding.DER))
    if found.identity is None:
        yield Finding("certificates", f"{name}: identity", "failed", f"{file}: {found.problem}")
    else:
        yield Finding("certificates", f"{name}: identity {found.identity}", "ok")
    if not found.dns_sans and not found.ip_sans:
        hint = (
            f"{file} has only a URI name: grpcio clients check the host name and cannot dial it; add a DNS or IP name"
        )
        yield Finding("certificates", f"{name}: names", "warning", hint)


def _receivers(loaded: Loaded) -> Iterator[Finding]:
    """Whom alerts go to; whether they arrive is for `sidecar alerts test` to say."""
    from sidecar.alerts.config import files_of

    for name, receiver in loaded.root.alerts.receivers().items():
        problem = None
        for file in files_of(receiver):
            try:
                problem = problem or (None if file.read_bytes().strip() else f"{file} is empty")
            except OSError as error:
                problem = f"{file} cannot be read: {error.strerror}"
        shown = f"receiver {name}"
        yield Finding("alerts", shown, "ok") if problem is None else Finding("alerts", shown, "failed", problem)


def _upstreams(loaded: Loaded, progress: Progress) -> Iterator[Finding]:
    for name, config in loaded.root.clusters.items():
        for address in config.endpoints:
            progress.step(f"cluster {name}: {address}")
            problem = asyncio.run(_dial(loaded, config, address))
            shown = f"cluster {name}: {address}"
            if problem is None:
                yield Finding("upstreams", shown, "ok")
            else:
                yield Finding("upstreams", shown, "failed", f"{problem}; is it running, and is the address right?")


async def _dial(loaded: Loaded, config: ClusterConfig, address: str) -> str | None:
    """What keeps a connection to `address` from being made, or None."""
    from sidecar.cli.run import make_runtime
    from sidecar.clusters.upstream import UntrustedPeer, Upstream, UpstreamOptions, plain_reason
    from sidecar.control.certificates import Certificates
    from sidecar.transport.socket import Flusher

    runtime = make_runtime(loaded)
    certificates = Certificates(runtime.clock.wall)
    ready = asyncio.Event()
    gone = asyncio.Event()

    def on(event: asyncio.Event) -> Callable[[Any], None]:
        return lambda _: event.set()

    try:
        options = UpstreamOptions(
            connect_timeout=_DIAL_TIMEOUT,
            context=certificates.for_cluster(config),
            server_name=config.tls.server_name if config.tls else None,
            verify=certificates.verifier(config),
        )
        upstream = Upstream(
            runtime,
            Flusher(asyncio.get_running_loop()),
            options,
            on_ready=on(ready),
            on_spent=on(gone),
            on_gone=on(gone),
        )
        await upstream.connect(address)
        async with asyncio.timeout(_DIAL_TIMEOUT):
            waiting = {asyncio.ensure_future(ready.wait()), asyncio.ensure_future(gone.wait())}
            _, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for each in pending:
                each.cancel()
        upstream.close()
    except TimeoutError:
        return "it does not speak HTTP/2: no SETTINGS came"
    except (OSError, ssl.SSLError, UntrustedPeer, ValueError) as error:
        return plain_reason(error) if not isinstance(error, ValueError) else str(error)
    return None if ready.is_set() else "the connection was closed at once"


def _running(admin: str) -> Iterator[Finding]:
    try:
        # For everybody, with or without a token; 503 says what is missing.
        text = ask_text(admin, "/readyz?verbose", timeout=_DIAL_TIMEOUT, statuses={200, 503})
    except AdminError as error:
        yield Finding("running sidecar", admin, "failed", str(error))
        return
    for line in text.splitlines():
        if line.startswith("["):
            holds, name = line[1] == "+", line[4:]
            yield Finding("running sidecar", name, "ok" if holds else "failed", "see its log")


def _clock() -> Iterator[Finding]:
    # A machine whose clock stands before this code was written refuses every certificate.
    if time.time() < 1_760_000_000:
        yield Finding(
            "clock", "wall clock", "failed", "the clock is years behind; certificates will seem not yet valid"
        )
    else:
        yield Finding("clock", "wall clock is plausible", "ok")
