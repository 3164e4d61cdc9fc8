"""Certificates for tests: a CA, and leaves as good or as odd as a test wants them.

Keys and certificates are made once per process and written to the folder of each test, so that hundreds of tests stay
fast. They are valid on the machine's clock, because OpenSSL judges by that one.
"""

from __future__ import annotations

import functools
import ipaddress
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

TRUST_DOMAIN = "mesh.local"
DAY = 86400.0
STARTED = float(int(time.time()))


@dataclass(frozen=True, slots=True)
class Leaf:
    """One certificate on disk, and as DER. `ca` is the file of whoever issued it."""

    certificate: Path
    private_key: Path
    ca: Path
    der: bytes


@dataclass(frozen=True, slots=True)
class _Made:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Pki:
    """A folder of certificates issued by the CA `name`; the same name is the same CA in every test of the process."""

    def __init__(self, folder: Path, name: str = "mesh") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.name = name
        self.ca = folder / f"{name}-ca.crt"
        self.ca.write_bytes(_authority(name).pem)

    def leaf(
        self,
        name: str,
        *,
        uris: tuple[str, ...] | None = None,
        dns: tuple[str, ...] | None = None,
        ips: tuple[str, ...] | None = None,
        begins: float = -1,
        ends: float = 30,
        is_ca: bool = False,
        may_sign: bool = False,
        generation: int = 1,
        intermediate: str | None = None,
    ) -> Leaf:
        """A leaf `name`; files `name.crt` and `name.key`, replaced if they exist.

        Without `uris`, `dns`, `ips`: the SPIFFE id `/agent/<name>`, the names `name` and localhost, 127.0.0.1 and ::1.
        `begins`, `ends`: days from now. Another `generation` is another key and serial. `intermediate`: issued by a
        CA of that name below ours, and the file holds both.
        """
        uris = (f"spiffe://{TRUST_DOMAIN}/agent/{name}",) if uris is None else uris
        dns = (name, "localhost") if dns is None else dns
        ips = ("127.0.0.1", "::1") if ips is None else ips
        made = _leaf(
            self.name,
            intermediate,
            name,
            uris,
            dns,
            ips,
            begins,
            ends,
            is_ca=is_ca,
            may_sign=may_sign,
            generation=generation,
        )
        pem = made.pem if intermediate is None else made.pem + _intermediate(self.name, intermediate).pem
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        certificate.write_bytes(pem)
        key.write_bytes(made.key_pem)
        key.chmod(0o600)
        return Leaf(certificate, key, self.ca, made.certificate.public_bytes(Encoding.DER))

    def two_uris(self, name: str) -> Leaf:
        """Two SPIFFE ids in one certificate."""
        return self.leaf(name, uris=tuple(f"spiffe://{TRUST_DOMAIN}/agent/{name}{end}" for end in ("", "-too")))

    def malformed(self, name: str, uri: str = "spiffe://Mesh.Local/agent/../admin") -> Leaf:
        """A URI that is no SPIFFE id."""
        return self.leaf(name, uris=(uri,))

    def foreign(self, name: str, trust_domain: str = "elsewhere.example") -> Leaf:
        """An id of another trust domain, issued by our CA all the same."""
        return self.leaf(name, uris=(f"spiffe://{trust_domain}/agent/{name}",))

    def expired(self, name: str) -> Leaf:
        """Ended yesterday."""
        return self.leaf(name, begins=-30, ends=-1)

    def not_yet_valid(self, name: str) -> Leaf:
        """Begins tomorrow."""
        return self.leaf(name, begins=1, ends=30)

    def no_san(self, name: str) -> Leaf:
        """No alternative name at all."""
        return self.leaf(name, uris=(), dns=(), ips=())

    def dns_only(self, name: str, *names: str) -> Leaf:
        """DNS names, no URI."""
        return self.leaf(name, uris=(), dns=names or (name,), ips=())

    def uri_only(self, name: str) -> Leaf:
        """As some Kubernetes drivers issue them: a SPIFFE id and nothing that a host name could match."""
        return self.leaf(name, dns=(), ips=())

    def ca_leaf(self, name: str) -> Leaf:
        """A CA certificate that poses as a workload."""
        return self.leaf(name, is_ca=True, may_sign=True)


def shake_hands(
    client: ssl.SSLContext,
    server: ssl.SSLContext,
    server_hostname: str | None = "localhost",
    session: ssl.SSLSession | None = None,
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A whole handshake in memory; the client and the server end. Raises ssl.SSLError as either end does."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=server_hostname, session=session),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    done = [False, False]
    for _ in range(20):
        for place, end in enumerate(ends):
            if not done[place]:
                try:
                    end.do_handshake()
                    done[place] = True
                except ssl.SSLWantReadError:
                    continue
        if all(done):
            # In TLS 1.3 the client is done before the server has judged its certificate: hear what it says.
            talk(*ends)
            return ends
    raise AssertionError("the handshake does not come to an end")


def talk(client: ssl.SSLObject, server: ssl.SSLObject) -> None:
    """One byte each way. Raises ssl.SSLError if the connection does not stand."""
    server.write(b"s")
    if client.read(1) != b"s":
        raise AssertionError("the client did not get what the server sent")
    client.write(b"c")
    if server.read(1) != b"c":
        raise AssertionError("the server did not get what the client sent")


@functools.cache
def _authority(name: str) -> _Made:
    return _sign_authority(name, None, path_length=None)


@functools.cache
def _intermediate(root: str, name: str) -> _Made:
    return _sign_authority(name, _authority(root), path_length=0)


def _sign_authority(name: str, issuer: _Made | None, path_length: int | None) -> _Made:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(f"{name} CA", issuer, key, -365, 3650)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
    )
    return _Made(builder.sign(key if issuer is None else issuer.key, SHA256()), key)


@functools.cache
def _leaf(  # noqa: PLR0917  # all of it is the cache's key
    root: str,
    intermediate: str | None,
    name: str,
    uris: tuple[str, ...],
    dns: tuple[str, ...],
    ips: tuple[str, ...],
    begins: float,
    ends: float,
    *,
    is_ca: bool,
    may_sign: bool,
    generation: int,  # noqa: ARG001  # another number is another key and serial
) -> _Made:
    issuer = _authority(root) if intermediate is None else _intermediate(root, intermediate)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(name, issuer, key, begins, ends)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(_key_usage(signs=may_sign), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
    )
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(one) for one in dns]
    names += [x509.IPAddress(ipaddress.ip_address(one)) for one in ips]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _Made(builder.sign(issuer.key, SHA256()), key)


def _builder(
    name: str, issuer: _Made | None, key: ec.EllipticCurvePrivateKey, begins: float, ends: float
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    moment = datetime.fromtimestamp(STARTED, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment + timedelta(days=begins))
        .not_valid_after(moment + timedelta(days=ends))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key((key if issuer is None else issuer.key).public_key()),
            critical=False,
        )
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
