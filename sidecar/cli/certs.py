"""`sidecar certs`: a development CA, SPIFFE certificates, and what is in a file."""

from __future__ import annotations

import functools
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.identity.authority import Issued
    from sidecar.identity.certificate import CertificateFacts

P = ParamSpec("P")
R = TypeVar("R")

WARN_DAYS = 7

_FOLDER = click.Path(file_okay=False, path_type=Path)
_DAYS = click.IntRange(1, 36500)


def _now() -> float:
    return time.time()  # a command is an edge of the program: here its time begins


def _told(command: Callable[P, R]) -> Callable[P, R]:
    """What goes wrong with files or names is told in one line, exit 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except FileExistsError as error:
            raise click.ClickException(str(error).replace("without force", "without --force")) from None
        except OSError as error:
            raise click.ClickException(f"{error.filename}: {error.strerror}") from None
        except ValueError as error:
            raise click.ClickException(str(error)) from None

    return run


@click.group(
    epilog="""\b
Examples:
  sidecar certs ca --out certs/
  sidecar certs issue orders --ca certs/ --out certs/
  sidecar certs show certs/orders.crt certs/ca.crt
"""
)
def certs() -> None:
    """A development CA and SPIFFE certificates; what is in a file and when it ends.

    The CA is for development and tests: its key lies in a file.
    """


@certs.command(
    epilog="""\b
Examples:
  sidecar certs ca --out certs/
  sidecar certs ca --out certs/ --trust-domain prod.example --days 365
"""
)
@click.option("--out", type=_FOLDER, required=True, help="Folder for ca.crt and ca.key; made if absent.")
@click.option(
    "--trust-domain", default="mesh.local", show_default=True, help="SPIFFE trust domain that the CA issues for."
)
@click.option("--days", type=_DAYS, default=3650, show_default=True, help="How long it is valid.")
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@_told
def ca(out: Path, trust_domain: str, days: int, force: bool) -> None:
    """Make a development CA: ca.crt and ca.key (0600).

    Prints the files it wrote. Exit 0 done, 1 failed (an existing file is not overwritten), 2 usage.
    """
    from sidecar.identity.authority import AUTHORITY, Authority

    _, issued = Authority.create(trust_domain, now=_now(), days=days)
    _write(issued, out, AUTHORITY, force=force)
    click.echo(f"A development CA for {trust_domain}. Keep ca.key to yourself; others need only ca.crt.", err=True)


@certs.command(
    short_help="Issue a certificate for a workload.",
    epilog="""\b
Examples:
  sidecar certs issue orders --ca certs/ --out certs/
  sidecar certs issue orders --ca certs/ --id spiffe://mesh.local/ns/shop/sa/orders \\
      --dns orders.shop.svc --ip 10.0.0.5 --days 30 --out certs/
""",
)
@click.argument("name")
@click.option("--ca", "authority", type=_FOLDER, required=True, help="Folder of ca.crt and ca.key.")
@click.option("--out", type=_FOLDER, required=True, help="Folder for NAME.crt and NAME.key; made if absent.")
@click.option("--trust-domain", help="For the id, if --id is not given.  [default: the CA's]")
@click.option("--id", "identity", help="SPIFFE id.  [default: spiffe://TRUST-DOMAIN/agent/NAME]")
@click.option("--dns", multiple=True, help="DNS name besides NAME and localhost; may be repeated.")
@click.option("--ip", "ips", multiple=True, help="IP address besides 127.0.0.1 and ::1; may be repeated.")
@click.option(
    "--days", type=_DAYS, default=30, show_default=True, help="How long it is valid; never longer than the CA."
)
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@_told
def issue(  # click gives options by name
    name: str,
    authority: Path,
    out: Path,
    trust_domain: str | None,
    identity: str | None,
    dns: tuple[str, ...],
    ips: tuple[str, ...],
    days: int,
    force: bool,
) -> None:
    """Issue a certificate for the workload NAME: NAME.crt and NAME.key (0600).

    It serves both ends of a connection. It names the SPIFFE id, NAME, localhost, 127.0.0.1 and ::1, so that gRPC
    clients of every language can dial it. Prints the files it wrote. Exit 0 done, 1 failed, 2 usage.
    """
    from sidecar.identity.authority import ALWAYS_DNS, ALWAYS_IP, Authority, check_name

    check_name(name)
    now = _now()
    signer = Authority.load(authority, now=now)
    if identity is None:
        domain = trust_domain or signer.trust_domain
        if domain is None:
            raise ValueError("the CA names no trust domain; give --trust-domain or --id")
        identity = f"spiffe://{domain}/agent/{name}"
    issued = signer.issue(name, identity, dns=(name, *ALWAYS_DNS, *dns), ips=(*ALWAYS_IP, *ips), now=now, days=days)
    _write(issued, out, name, force=force)
    _tell(out / f"{name}.crt", now)


@certs.command(
    short_help="Renew a certificate in place.",
    epilog="""\b
Examples:
  sidecar certs rotate orders --ca certs/ --out certs/
  sidecar certs rotate orders --ca certs/ --out certs/ --days 7
""",
)
@click.argument("name")
@click.option("--ca", "authority", type=_FOLDER, required=True, help="Folder of ca.crt and ca.key.")
@click.option("--out", type=_FOLDER, required=True, help="Folder of NAME.crt and NAME.key, which are replaced.")
@click.option(
    "--days", type=_DAYS, default=30, show_default=True, help="How long it is valid; never longer than the CA."
)
@_told
def rotate(name: str, authority: Path, out: Path, days: int) -> None:
    """Replace NAME's certificate and key by new ones with the same names.

    A running sidecar that uses these files takes them by itself. Exit 0 done, 1 failed, 2 usage.
    """
    from sidecar.identity.authority import Authority, check_name, files_of, names_of
    from sidecar.identity.load import read_certificates

    check_name(name)
    now = _now()
    signer = Authority.load(authority, now=now)
    former = files_of(out, name).certificate
    uris, dns, ips = names_of(read_certificates(former)[0])
    if len(uris) != 1:
        raise ValueError(f"{former}: has {len(uris)} URI SANs; a SPIFFE certificate has exactly one")
    _write(signer.issue(name, uris[0], dns=dns, ips=ips, now=now, days=days), out, name, force=True)
    _tell(former, now)


@certs.command(
    epilog="""\b
Examples:
  sidecar certs key                                  # 32 bytes in URL-safe base64
  SIDECAR_KEY=$(sidecar certs key) sidecar run -c sidecar.yaml
"""
)
def key() -> None:
    """Make a key for `encryption.keys` (Fernet) and print it. It is kept nowhere. Exit 0."""
    from cryptography.fernet import Fernet

    click.echo(Fernet.generate_key())


@certs.command(
    epilog="""\b
Examples:
  sidecar certs show certs/*.crt
  sidecar certs show certs/orders.crt -o json
"""
)
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="FILE...")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="How to print it."
)
def show(files: tuple[Path, ...], output: str) -> None:
    """Show the certificates in PEM files: who, by whom, until when.

    Exit 0 done, 1 if a file cannot be read (the others are shown), 2 usage.
    """
    now = _now()
    rows: list[tuple[Path, CertificateFacts]] = []
    failed = False
    for path in files:
        try:
            rows += [(path, one) for one in _facts_in(path)]
        except ValueError as error:
            click.echo(f"Error: {error}", err=True)
            failed = True
    if output == "json":
        click.echo(json.dumps([{"file": str(path), **one.summary(now)} for path, one in rows], indent=2))
    else:
        click.echo("\n\n".join(_block(path, one, now) for path, one in rows), nl=bool(rows))
    if failed:
        raise click.exceptions.Exit(1)


def _facts_in(path: Path) -> list[CertificateFacts]:
    from cryptography.hazmat.primitives.serialization import Encoding

    from sidecar.identity.certificate import facts
    from sidecar.identity.load import read_certificates

    return [facts(one.public_bytes(Encoding.DER)) for one in read_certificates(path)]


def _write(issued: Issued, out: Path, name: str, *, force: bool) -> None:
    from sidecar.identity.authority import files_of, write

    files = files_of(out, name)
    write(issued, files, force=force)
    click.echo(files.certificate)
    click.echo(files.private_key)


def _tell(path: Path, now: float) -> None:
    one = _facts_in(path)[0]
    click.echo(f"{one.identity}, valid until {_date(one.not_after)} ({one.days_left(now):.0f} days)", err=True)


def _block(path: Path, one: CertificateFacts, now: float) -> str:
    left = one.days_left(now)
    colour = "red" if one.validity_problem(now) else "yellow" if left < WARN_DAYS else "green"
    state = one.validity_problem(now) or f"{left:.0f} days left"
    kind = "CA" if one.is_authority else one.identity or click.style(f"unusable: {one.problem}", fg="red")
    lines = [
        ("identity", kind),
        ("subject", one.subject),
        ("issuer", one.issuer),
        ("names", ", ".join((*one.uri_sans, *one.dns_sans, *one.ip_sans)) or "none"),
        ("serial", one.serial),
        ("sha256", one.fingerprint),
        ("valid", f"{_date(one.not_before)} to {_date(one.not_after)} ({click.style(state, fg=colour)})"),
    ]
    return "\n".join([str(path), *(f"  {label:<9} {value}" for label, value in lines)])


def _date(when: float) -> str:
    return f"{datetime.fromtimestamp(when, UTC):%Y-%m-%d %H:%M} UTC"
