"""A development CA: one root, leaves of SPIFFE ids, files on disk.

Not for production: the root key lies beside the certificates, nothing is logged or revoked centrally.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sidecar.identity import spiffe
from sidecar.identity.load import read_certificates, read_private_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

AUTHORITY = "ca"
BACKDATE = timedelta(minutes=5)
"""Machines whose clock is behind accept a new certificate at once."""
ALWAYS_DNS = ("localhost",)
ALWAYS_IP = ("127.0.0.1", "::1")

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
_DNS_SAN = re.compile(r"(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key in PEM. `repr` does not show the key."""

    certificate: bytes
    private_key: bytes

    def __repr__(self) -> str:
        return f"Issued(certificate={self.certificate!r})"


class Authority:
    """A CA that can issue: certificate and key belong together, and it was valid at `now` of its making."""

    __slots__ = ("_key", "certificate")

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, trust_domain: str, *, now: float, days: int) -> tuple[Authority, Issued]:
        """A new self-signed root for `trust_domain`, valid for `days` from `now` (epoch seconds). Raises ValueError."""
        spiffe.check_trust_domain(trust_domain)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _subject(f"{trust_domain} development CA")
        begin, end = _validity(now, days)
        certificate = (
            _builder(name, name, key.public_key(), begin, end)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            # X509-SVID §3.2: a signing certificate names its trust domain, without a path.
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"{spiffe.SCHEME}{trust_domain}")]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, SHA256())
        )
        return cls(certificate, key), _issued(certificate, key)

    @classmethod
    def load(cls, folder: Path, *, now: float) -> Authority:
        """Read `ca.crt` and `ca.key` of `folder`. Raises ValueError: unreadable, no CA, not valid, key of another."""
        files = files_of(folder, AUTHORITY)
        certificate = read_certificates(files.certificate)[0]
        key = read_private_key(files.private_key)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{files.private_key}: is not an EC key, as `sidecar certs ca` makes them")  # noqa: TRY004
        if key.public_key() != certificate.public_key():
            raise ValueError(f"{files.private_key}: the key does not match the CA certificate in {files.certificate}")
        try:
            is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            is_authority = False
        if not is_authority:
            raise ValueError(f"{files.certificate}: is not a CA certificate")
        moment = _moment(now)
        if moment > certificate.not_valid_after_utc:
            raise ValueError(
                f"{files.certificate}: the CA expired on {certificate.not_valid_after_utc:%Y-%m-%d}; make a new one"
            )
        if moment < certificate.not_valid_before_utc:
            raise ValueError(
                f"{files.certificate}: the CA is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
            )
        return cls(certificate, key)

    @property
    def trust_domain(self) -> str | None:
        """The trust domain that the CA certificate names; None if it names none."""
        try:
            names = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            return spiffe.parse(names.get_values_for_type(x509.UniformResourceIdentifier)[0]).trust_domain
        except (x509.ExtensionNotFound, IndexError, ValueError):
            return None

    def issue(
        self, name: str, identity: str, *, dns: Iterable[str] = (), ips: Iterable[str] = (), now: float, days: int
    ) -> Issued:
        """A leaf for `identity` with the DNS and IP SANs given, valid for `days` but never longer than the CA.

        Raises ValueError: a malformed id, an id without a path or of another trust domain, a bad DNS name or address.
        """
        check_name(name)
        found = spiffe.parse(identity)
        if not found.path:
            raise ValueError(f"{identity}: the SPIFFE id of a workload has a path")
        if self.trust_domain not in {None, found.trust_domain}:
            raise ValueError(f"{identity}: this CA issues for the trust domain {self.trust_domain}")
        key = ec.generate_private_key(ec.SECP256R1())
        begin, end = _validity(now, days)
        certificate = (
            _builder(
                _subject(name),
                self.certificate.subject,
                key.public_key(),
                begin,
                min(end, self.certificate.not_valid_after_utc),
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(_names(identity, dns, ips), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, SHA256())
        )
        return _issued(certificate, key)


@dataclass(frozen=True, slots=True)
class Files:
    """Where a certificate and its key lie."""

    certificate: Path
    private_key: Path


def files_of(folder: Path, name: str) -> Files:
    """`name.crt` and `name.key` in `folder`."""
    return Files(folder / f"{name}.crt", folder / f"{name}.key")


def check_name(name: str) -> None:
    """Raises ValueError unless `name` can be a file, a common name and a host name."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a usable name: letters, digits, dots, dashes and underscores, at most 63")
    if name.lower() == AUTHORITY:
        raise ValueError(f"{name!r} is the name of the CA's own files")


def write(issued: Issued, files: Files, *, force: bool = False) -> None:
    """Write both files, each all or nothing: the key 0600, the certificate 0644; the folder is made if absent.

    Raises FileExistsError, naming the file, if either exists and not `force`; then neither is touched. Raises OSError.
    """
    files.certificate.parent.mkdir(parents=True, exist_ok=True)
    parts = ((files.private_key, issued.private_key, 0o600), (files.certificate, issued.certificate, 0o644))
    with contextlib.ExitStack() as undo:
        if not force:
            for path, _, _ in parts:
                _claim(path)
                undo.callback(path.unlink, missing_ok=True)
        staged: list[tuple[Path, Path]] = []
        for path, content, mode in parts:
            staged.append((_stage(path, content, mode), path))
            undo.callback(staged[-1][0].unlink, missing_ok=True)
        # Everything that can fail for want of space is behind us: a pair is replaced whole, or not at all.
        for temporary, path in staged:
            temporary.replace(path)
        undo.pop_all()


def _claim(path: Path) -> None:
    # O_EXCL decides between two who write at once, and does not follow a link that somebody left there.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise FileExistsError(f"{path}: exists already; it is not overwritten without force") from None


def _stage(path: Path, content: bytes, mode: int) -> Path:
    # mkstemp makes the file 0600 and exclusively; a reader sees the former content or the new one, never a part.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return Path(temporary)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _subject(name: str) -> x509.Name:
    # RFC 5280: at most 64 characters in a common name; a trust domain may be longer.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _names(identity: str, dns: Iterable[str], ips: Iterable[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity)]
    for name in dict.fromkeys(dns):
        if not _DNS_SAN.fullmatch(name) or ".." in name:
            raise ValueError(f"{name!r} is not a DNS name")
        names.append(x509.DNSName(name))
    for text in dict.fromkeys(ips):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(text)))
        except ValueError:
            raise ValueError(f"{text!r} is not an IP address") from None
    return x509.SubjectAlternativeName(names)


def names_of(certificate: x509.Certificate) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """URI, DNS and IP SANs of a certificate. Raises ValueError if it has none."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ValueError("the certificate has no subject alternative names") from None
    return (
        names.get_values_for_type(x509.UniformResourceIdentifier),
        names.get_values_for_type(x509.DNSName),
        [str(address) for address in names.get_values_for_type(x509.IPAddress)],
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _validity(now: float, days: int) -> tuple[datetime, datetime]:
    if days < 1:
        raise ValueError("a certificate is valid for at least one day")
    moment = _moment(now)
    return moment - BACKDATE, moment + timedelta(days=days)


def _moment(now: float) -> datetime:
    return datetime.fromtimestamp(int(now), UTC)


def _issued(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Issued:
    return Issued(
        certificate.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
