"""Loading a certificate, its key and the CAs that are trusted, with errors that say which file and what to do.

No message ever holds anything of a key, not even what the parser said about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from sidecar.identity.certificate import CertificateFacts, facts

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

MAX_FILE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Credentials:
    """What was loaded. `chain`: our certificate first, then its issuers; `authorities`: whom we trust."""

    certificate: Path | None
    trusted_ca: Path | None
    chain: tuple[CertificateFacts, ...]
    authorities: tuple[CertificateFacts, ...]

    def problems(self, now: float) -> list[str]:
        """What is not valid at `now` (epoch), with its file. CAs may overlap: one valid CA is enough."""
        found = [
            f"{self.certificate}: the certificate {one.subject or one.serial} {problem}"
            for one in self.chain
            if (problem := one.validity_problem(now)) is not None
        ]
        if self.authorities and all(one.validity_problem(now) is not None for one in self.authorities):
            first = self.authorities[0]
            found.append(f"{self.trusted_ca}: the CA {first.subject or first.serial} {first.validity_problem(now)}")
        return found

    def days_left(self, now: float) -> float | None:
        """Days until the first certificate of the chain ends; None without a chain."""
        return min((one.days_left(now) for one in self.chain), default=None)

    def summary(self, now: float) -> dict[str, object]:
        """For `/certs`: files and facts, no secret."""
        return {
            "certificate": None if self.certificate is None else str(self.certificate),
            "trusted_ca": None if self.trusted_ca is None else str(self.trusted_ca),
            "chain": [one.summary(now) for one in self.chain],
            "authorities": [one.summary(now) for one in self.authorities],
            "days_left": None if (left := self.days_left(now)) is None else round(left, 2),
            "problems": self.problems(now),
        }


def load(certificate: Path | None, private_key: Path | None, trusted_ca: Path | None) -> Credentials:
    """Read and check the three files; each may be absent (None), but a certificate needs its key.

    Raises ValueError, naming the file: missing, not PEM, no certificate in it, an encrypted key, a key of another
    certificate, a chain in the wrong order, no CA among the trusted ones. Validity in time is `Credentials.problems`.
    """
    if (certificate is None) != (private_key is None):
        present = certificate or private_key
        raise ValueError(f"{present}: a certificate and its private key come together; one of them is not named")
    chain: tuple[x509.Certificate, ...] = ()
    if certificate is not None and private_key is not None:
        chain = read_certificates(certificate)
        _check_pair(chain, read_private_key(private_key), certificate, private_key)
        _check_order(chain, certificate)
    authorities = read_certificates(trusted_ca) if trusted_ca is not None else ()
    known = tuple(map(_facts, authorities))
    if trusted_ca is not None and not any(one.is_authority or one.issuer == one.subject for one in known):
        raise ValueError(f"{trusted_ca}: holds no CA certificate ({known[0].subject or known[0].serial} is a leaf)")
    return Credentials(certificate, trusted_ca, tuple(map(_facts, chain)), known)


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """All certificates of a PEM file, in order, at least one. Raises ValueError."""
    from cryptography import x509

    content = _read(path)
    if b"-----BEGIN CERTIFICATE-----" not in content:
        what = "a private key, no certificate" if b"PRIVATE KEY-----" in content else "no certificate in PEM"
        raise ValueError(f"{path}: holds {what}")
    try:
        return tuple(x509.load_pem_x509_certificates(content))
    except ValueError:
        raise ValueError(f"{path}: a certificate in it cannot be read; the file is damaged or incomplete") from None


def read_private_key(path: Path) -> PrivateKeyTypes:
    """The key of a PEM file. Raises ValueError, without a word about the content."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _read(path)
    if b"PRIVATE KEY-----" not in content:
        raise ValueError(f"{path}: holds no private key in PEM")
    try:
        return load_pem_private_key(content, password=None)
    except TypeError:
        raise ValueError(
            f"{path}: the private key is encrypted; give it without a password, protected by file permissions"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(
            f"{path}: the private key cannot be read; the file is damaged, incomplete or of an unknown kind"
        ) from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE:
        raise ValueError(f"{path}: is larger than {MAX_FILE // 1024} KiB")
    return content


def _facts(certificate: x509.Certificate) -> CertificateFacts:
    from cryptography.hazmat.primitives.serialization import Encoding

    return facts(certificate.public_bytes(Encoding.DER))


def _check_pair(
    chain: tuple[x509.Certificate, ...], key: PrivateKeyTypes, certificate: Path, private_key: Path
) -> None:
    public = _public_bytes(key.public_key())
    if public == _public_bytes(chain[0].public_key()):
        return
    for place, one in enumerate(chain[1:], start=2):
        if public == _public_bytes(one.public_key()):
            raise ValueError(
                f"{certificate}: the key in {private_key} belongs to certificate {place} of the file, not the first"
            )
    raise ValueError(f"{private_key}: the key does not match the certificate in {certificate}")


def _check_order(chain: tuple[x509.Certificate, ...], path: Path) -> None:
    for place, (one, issuer) in enumerate(pairwise(chain), start=1):
        try:
            one.verify_directly_issued_by(issuer)
        except Exception:  # wrong name, wrong signature, unknown algorithm: one meaning
            raise ValueError(
                f"{path}: certificate {place + 1} did not issue certificate {place}; "
                "the order is leaf first, then each issuer"
            ) from None


def _public_bytes(key: object) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded
