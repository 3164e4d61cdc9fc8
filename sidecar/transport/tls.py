"""TLS contexts of listeners and upstreams, replaced when their files change.

Why no session resumption? A resumed session skips the certificates, so a peer whose CA was removed could come back
with it. gRPC connections live long; the saved handshake is not worth that question. Tickets are off on both ends. What
TLS 1.2 keeps by session id lives in the SSLContext, and a change of the CA makes a new one.
"""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sidecar.identity.certificate import facts
from sidecar.identity.load import Credentials, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

ClientCertificate = Literal["require", "optional", "none"]

ALPN = "h2"
# Mozilla "intermediate" for TLS 1.2, without its DHE suites: they need parameters of the server's own and are slow.
# TLS 1.3 suites are OpenSSL's defaults, which are Mozilla's.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)

_VERIFY: dict[str, ssl.VerifyMode] = {
    "require": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}


def server_context(
    certificate: Path, private_key: Path, trusted_ca: Path | None, client_certificate: ClientCertificate = "require"
) -> ssl.SSLContext:
    """What a listener shakes hands with. The caller checks that ALPN chose `h2`: OpenSSL goes on without any.

    `trusted_ca` may be None only where no client certificate is asked for. Raises ValueError, naming the file.
    """
    if client_certificate not in _VERIFY:
        raise ValueError(f"client_certificate is {client_certificate!r}; it is require, optional or none")
    if client_certificate != "none" and trusted_ca is None:
        raise ValueError(f"client_certificate: {client_certificate} needs trusted_ca, to verify what callers show")
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    _own(context, certificate, private_key)
    if client_certificate != "none" and trusted_ca is not None:
        _trust(context, trusted_ca)
    context.verify_mode = _VERIFY[client_certificate]
    # TLS 1.3 sends tickets unless told how many; OP_NO_TICKET alone leaves it the stateful kind.
    context.num_tickets = 0
    return context


def client_context(
    certificate: Path | None, private_key: Path | None, trusted_ca: Path | None, *, check_hostname: bool = True
) -> ssl.SSLContext:
    """What an upstream connection shakes hands with; the server's chain is always verified.

    `check_hostname`: the name given as `server_hostname` must be in the certificate. False only where the caller judges
    the certificate by `verify_peer_identity` afterwards. `trusted_ca` None = the machine's own CAs. Raises ValueError.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = check_hostname
    if certificate is not None and private_key is not None:
        _own(context, certificate, private_key)
    if trusted_ca is not None:
        _trust(context, trusted_ca)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def verify_peer_identity(der: bytes, peer_identities: Iterable[str]) -> str | None:
    """What is wrong with the peer's certificate (DER), or None if its identity is one of `peer_identities`.

    Each is an exact identity or `prefix*`. The chain was verified by the handshake; this only says who it is.
    """
    peer = facts(der)
    if peer.identity is None:
        return f"the peer's certificate is unusable: {peer.problem}"
    for pattern in peer_identities:
        if peer.identity == pattern or (pattern.endswith("*") and peer.identity.startswith(pattern[:-1])):
            return None
    return f"the peer is {peer.identity}, which is not one of peer_identities"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of one listener or cluster."""

    certificate: Path | None
    private_key: Path | None
    trusted_ca: Path | None

    def digest(self) -> bytes:
        """A hash of the contents, not of times or names, so that a swapped symlink shows. Raises ValueError."""
        total = hashlib.sha256()
        for path in (self.certificate, self.private_key, self.trusted_ca):
            if path is None:
                total.update(b"-")
                continue
            try:
                total.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError as error:
                raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
        return total.digest()


class ReloadingContext:
    """The context to use now, and how it follows its files. A poller calls `reload`; running connections go on."""

    __slots__ = ("_build", "_digest", "_wall", "credentials", "current", "files", "generation", "problem")

    def __init__(self, files: TlsFiles, build: Callable[[TlsFiles], ssl.SSLContext], wall: Callable[[], float]) -> None:
        """Load for the first time. Raises ValueError, naming the file, if anything is wrong or not valid now."""
        self.files = files
        self._build = build
        self._wall = wall
        self.generation = 1
        """How often contents were taken."""
        self.problem: str | None = None
        """Why the files as they are now are not in use; None = they are."""
        self.current, self.credentials, self._digest = self._load()

    @classmethod
    def server(
        cls, files: TlsFiles, client_certificate: ClientCertificate, wall: Callable[[], float]
    ) -> ReloadingContext:
        """For a listener. Raises ValueError."""

        def build(files: TlsFiles) -> ssl.SSLContext:
            if files.certificate is None or files.private_key is None:
                raise ValueError("a TLS listener needs certificate and private_key")
            return server_context(files.certificate, files.private_key, files.trusted_ca, client_certificate)

        return cls(files, build, wall)

    @classmethod
    def client(cls, files: TlsFiles, wall: Callable[[], float], *, check_hostname: bool = True) -> ReloadingContext:
        """For a cluster. Raises ValueError."""

        def build(files: TlsFiles) -> ssl.SSLContext:
            return client_context(files.certificate, files.private_key, files.trusted_ca, check_hostname=check_hostname)

        return cls(files, build, wall)

    def reload(self) -> bool:
        """Take the files if their contents changed, can be read, match and are valid; True if `current` was replaced.

        Certificate and key are two files: between the writing of one and of the other they do not match. Then, and
        whenever they cannot be used, the former context stays, `problem` says why, and the next call looks again.
        Reads files, so it blocks.
        """
        try:
            if self.files.digest() == self._digest:
                self.problem = None
                return False
            self.current, self.credentials, self._digest = self._load()
        except ValueError as error:
            self.problem = str(error)
            return False
        self.problem = None
        self.generation += 1
        return True

    def days_left(self) -> float | None:
        """Days until the first certificate of our chain in use ends; None without a certificate of ours."""
        return self.credentials.days_left(self._wall())

    def describe(self) -> dict[str, object]:
        """For `/certs`: what is in use, and what is wrong with newer files. No secret."""
        return {**self.credentials.summary(self._wall()), "generation": self.generation, "reload_problem": self.problem}

    def _load(self) -> tuple[ssl.SSLContext, Credentials, bytes]:
        files = self.files
        before = files.digest()
        credentials = load(files.certificate, files.private_key, files.trusted_ca)
        if problems := credentials.problems(self._wall()):
            raise ValueError("; ".join(problems))
        context = self._build(files)
        # OpenSSL reads the files by name once more: what it got is what was checked only if nothing changed meanwhile.
        if files.digest() != before:
            raise ValueError(f"{files.certificate or files.trusted_ca}: the files are being changed just now")
        return context, credentials, before


def _context(protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(CIPHERS))
    context.set_alpn_protocols([ALPN])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    # Whoever puts an intermediate into trusted_ca trusts that one, and not the whole root above it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _own(context: ssl.SSLContext, certificate: Path, private_key: Path) -> None:
    try:
        context.load_cert_chain(certificate, private_key, password=_no_password)
    except OSError as error:
        # ssl.SSLError is an OSError. Its text is OpenSSL's and says nothing about contents, but nothing useful either.
        raise ValueError(
            f"{certificate}: OpenSSL does not take this certificate with {private_key}: {_words(error)}"
        ) from None


def _trust(context: ssl.SSLContext, trusted_ca: Path) -> None:
    try:
        context.load_verify_locations(cafile=trusted_ca)
    except OSError as error:
        raise ValueError(f"{trusted_ca}: OpenSSL does not take it: {_words(error)}") from None


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "unknown reason").replace("_", " ").lower()
    return error.strerror or "cannot be read"


def _no_password() -> str:
    # Without this OpenSSL asks at the terminal, and a service that was restarted waits there for ever.
    raise ValueError("the private key is encrypted; give it without a password, protected by file permissions")
