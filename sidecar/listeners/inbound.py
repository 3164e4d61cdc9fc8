"""Inbound: calls from the mesh to our agent. The caller is whom its certificate names, and the agent is told so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.http2.hpack import encode_field

if TYPE_CHECKING:
    from sidecar.identity.certificate import CertificateFacts


def identify(certificate: CertificateFacts | None) -> tuple[str | None, str | None]:
    """(identity, problem): from the certificate alone; nobody, where there is none."""
    if certificate is None:
        return None, None
    return certificate.identity, certificate.problem


def told_agent(identity: str | None) -> bytes:
    """The encoded fields that only we can set; what a caller sent under these names was removed."""
    return b"" if identity is None else encode_field(b"x-sidecar-identity", identity.encode("ascii"))[2]
