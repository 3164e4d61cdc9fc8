"""Facts of one caller's connection, found once: who it is, where it comes from, until when its certificate holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.proxy.rejection import Reason, Rejection

if TYPE_CHECKING:
    from sidecar.identity.certificate import CertificateFacts
    from sidecar.proxy.edge import Edge


class Peer:
    """A caller. `to_agent`: the encoded fields that tell the agent who it is."""

    __slots__ = ("address", "certificate", "edge", "ends", "identity", "refused", "to_agent")

    def __init__(
        self,
        edge: Edge,
        *,
        identity: str | None,
        address: str,
        certificate: CertificateFacts | None,
        to_agent: bytes,
        ends: float,
        refused: Rejection | None,
    ) -> None:
        """`ends`: when its certificate expires, in monotonic seconds."""
        self.edge = edge
        self.identity = identity
        self.address = address
        self.certificate = certificate
        self.to_agent = to_agent
        self.ends = ends
        self.refused = refused

    def refusal(self, now: float) -> Rejection | None:
        """Per RPC, not only at the handshake: a connection may outlive the validity of its certificate."""
        if now < self.ends:
            return self.refused
        return Reason.IDENTITY_UNUSABLE.reject(
            f"the certificate of {self.identity} has expired on this connection; connect again with a new one",
            identity=self.identity or "",
        )

    def refuse(self, rejection: Rejection | None) -> None:
        """From now on (a revocation list has changed), or no longer."""
        self.refused = rejection


def unusable(problem: str) -> Rejection:
    return Reason.IDENTITY_UNUSABLE.reject(f"the client certificate cannot be used: {problem}", problem=problem)
