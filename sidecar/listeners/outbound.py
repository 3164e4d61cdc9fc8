"""Outbound: calls from our own app into the mesh. The caller is this node; the other side learns that by our certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.identity.certificate import CertificateFacts


def identify(certificate: CertificateFacts | None, node: str) -> tuple[str | None, str | None]:
    """(identity, problem): the app's own certificate if it shows one, else this node's name."""
    if certificate is None:
        return node, None
    return certificate.identity, certificate.problem


def told_agent(identity: str | None) -> bytes:
    """Nothing: over there, our certificate speaks for us."""
    return b""
