"""What one certificate says, found once per connection.

Who is the peer? Exactly one URI SAN that is a usable SPIFFE id: that id. No URI SAN at all: the first DNS SAN, in
lower case and without a prefix (a DNS name cannot read as a SPIFFE id: colons and slashes are no part of one). All else
(several URI SANs, a malformed id, a CA certificate, no name) has no identity, and `problem` says why.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sidecar.identity import spiffe

if TYPE_CHECKING:
    from cryptography import x509

DAY = 86400.0

_DNS_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z){_DNS_LABEL}(?:\.{_DNS_LABEL})*\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """Facts of one certificate.

    Times are epoch seconds; `serial` is hex as `serial_text` writes it; `fingerprint` is SHA-256 of the DER, in hex.
    """

    identity: str | None
    problem: str | None
    """Why there is no identity; None where there is one."""
    uri_sans: tuple[str, ...] = ()
    dns_sans: tuple[str, ...] = ()
    ip_sans: tuple[str, ...] = ()
    serial: str = ""
    subject: str = ""
    issuer: str = ""
    not_before: float = 0.0
    not_after: float = 0.0
    fingerprint: str = ""
    is_authority: bool = False

    def validity_problem(self, now: float) -> str | None:
        """Why it is not valid at `now` (epoch seconds), or None."""
        if now > self.not_after:
            return f"expired {_ago(now - self.not_after)} ago"
        if now < self.not_before:
            return f"is valid only in {_ago(self.not_before - now)}"
        return None

    def days_left(self, now: float) -> float:
        """Days until it ends; negative after that."""
        return (self.not_after - now) / DAY

    def summary(self, now: float) -> dict[str, object]:
        """What may be shown of it (`/certs`, `sidecar certs show`); nothing in it is secret."""
        return {
            "subject": self.subject,
            "issuer": self.issuer,
            "identity": self.identity,
            "problem": self.problem,
            "uri_sans": list(self.uri_sans),
            "dns_sans": list(self.dns_sans),
            "ip_sans": list(self.ip_sans),
            "serial": self.serial,
            "fingerprint": self.fingerprint,
            "authority": self.is_authority,
            "not_before": self.not_before,
            "not_after": self.not_after,
            "days_left": round(self.days_left(now), 2),
        }


def facts(der: bytes, trust_domains: frozenset[str] = frozenset()) -> CertificateFacts:
    """The facts of one certificate in DER. Never raises: what cannot be read has no identity and a `problem`.

    `trust_domains`: if not empty, a SPIFFE id of any other trust domain is no identity here.
    """
    # A sidecar in clear never comes here, and never loads cryptography.
    from cryptography import x509

    fingerprint = hashlib.sha256(der).hexdigest()
    try:
        certificate = x509.load_der_x509_certificate(der)
        known = CertificateFacts(
            identity=None,
            problem="its extensions cannot be read",
            serial=serial_text(certificate.serial_number),
            subject=certificate.subject.rfc4514_string(),
            issuer=certificate.issuer.rfc4514_string(),
            not_before=certificate.not_valid_before_utc.timestamp(),
            not_after=certificate.not_valid_after_utc.timestamp(),
            fingerprint=fingerprint,
        )
    except Exception:  # bytes of a stranger: no kind of damage may end more than its own connection
        return CertificateFacts(identity=None, problem="the certificate cannot be read", fingerprint=fingerprint)
    try:
        return _with_names(known, certificate, trust_domains)
    except Exception:  # the same
        return known


def _with_names(
    known: CertificateFacts, certificate: x509.Certificate, trust_domains: frozenset[str]
) -> CertificateFacts:
    from cryptography import x509

    uris: list[str] = []
    names: list[str] = []
    addresses: list[str] = []
    is_authority = may_sign = False
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            uris = value.get_values_for_type(x509.UniformResourceIdentifier)
            names = value.get_values_for_type(x509.DNSName)
            addresses = [str(address) for address in value.get_values_for_type(x509.IPAddress)]
        elif isinstance(value, x509.BasicConstraints):
            is_authority = value.ca
        elif isinstance(value, x509.KeyUsage):
            may_sign = value.key_cert_sign or value.crl_sign
    identity: str | None = None
    problem: str | None = None
    # X509-SVID §5.2: not a CA, no keyCertSign, no cRLSign, one URI SAN, a path.
    if is_authority:
        problem = "it is a CA certificate; those do not identify a workload"
    elif may_sign:
        problem = "its key may sign certificates; such a certificate does not identify a workload"
    else:
        identity, problem = _identify(uris, names, trust_domains)
    return replace(
        known,
        identity=identity,
        problem=problem,
        uri_sans=tuple(uris),
        dns_sans=tuple(names),
        ip_sans=tuple(addresses),
        is_authority=is_authority,
    )


def _identify(  # one return per rule reads best
    uris: list[str], names: list[str], trust_domains: frozenset[str]
) -> tuple[str | None, str | None]:
    if len(uris) > 1:
        return None, f"it has {len(uris)} URI SANs; exactly one is allowed"
    if uris:
        try:
            found = spiffe.parse(uris[0])
        except ValueError as error:
            return None, f"its URI SAN is unusable: {error}"
        if not found.path:
            return None, "its SPIFFE id has no path; that is the id of a trust domain, not of a workload"
        if trust_domains and found.trust_domain not in trust_domains:
            return None, f"its trust domain {found.trust_domain} is not one of ours"
        return uris[0], None
    if not names:
        return None, "it has neither a URI SAN nor a DNS SAN"
    name = names[0].lower()
    if not is_dns_name(name):
        return None, "its first DNS SAN is not the name of one host"
    return name, None


def is_dns_name(text: str) -> bool:
    """Is it a host name in lower case? Wildcards are not: they name many."""
    return _DNS_NAME.match(text) is not None


def serial_text(number: int) -> str:
    """Serials as we write and compare them: lower-case hex, no separators, no leading zeros."""
    return format(number, "x")


def _ago(seconds: float) -> str:
    for size, word in ((DAY, "day"), (3600.0, "hour"), (60.0, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {word}{'s' if count > 1 else ''}"
    return "less than a minute"
