"""Two sidecars with mTLS between them: a caller's, and an agent's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.pki import Pki
from tests.support.processes import Sidecar

INBOUND = """
node: {{name: agent-host}}
admin: {{bind: "127.0.0.1:0"}}
{top}
listeners:
  - name: inbound
    direction: inbound
    bind: "{bind}"
    tls: {{certificate: {server.certificate}, private_key: {server.private_key}, trusted_ca: {server.ca}, client_certificate: require}}
    limits: {{max_metadata: 64KiB, max_message: 64MiB{limits}}}
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
clusters:
  local: {{endpoints: ["{agent}"]}}
"""
OUTBOUND = """
node: {{name: app-host}}
admin: {{bind: "127.0.0.1:0"}}
{top}
listeners:
  - name: outbound
    direction: outbound
    bind: "{bind}"
    limits: {{max_metadata: 64KiB, max_message: 64MiB}}
    routes: [{{name: all, match: {{method: "/*"}}, to: mesh}}]
clusters:
  mesh:
    endpoints: ["{inbound}"]
    tls: {{certificate: {client.certificate}, private_key: {client.private_key}, trusted_ca: {client.ca}, peer_identities: ["spiffe://mesh.local/agent/server"]}}
"""


class Pair:
    """`async with Pair(folder, agent_address) as pair:` — caller → `pair.outbound` ══ mTLS ══ `pair.inbound` → agent."""

    def __init__(
        self,
        folder: Path,
        agent: str,
        *,
        inbound_bind: str = "127.0.0.1:0",
        outbound_bind: str = "127.0.0.1:0",
        top: str = "",
        limits: str = "",
    ) -> None:
        """`top`: lines for both files; `limits`: more of them for the inbound listener, as ", name: value"."""
        self.folder = folder
        self.agent = agent
        self.top = top
        self.limits = limits
        self.inbound_bind = inbound_bind
        self.outbound_bind = outbound_bind
        self.pki = Pki(folder / "certs")
        self.server = self.pki.leaf("server")
        self.client = self.pki.leaf("client")
        self.inbound = Sidecar(self.inbound_config(), folder, name="inbound")
        self.outbound: Sidecar

    def inbound_config(self, extra: str = "") -> str:
        listener = INBOUND.format(
            bind=self.inbound_bind, server=self.server, agent=self.agent, top=self.top, limits=self.limits
        )
        return listener + extra

    def outbound_config(self, extra: str = "") -> str:
        inbound = self.inbound.addresses["inbound"]
        return OUTBOUND.format(bind=self.outbound_bind, client=self.client, inbound=inbound, top=self.top) + extra

    @property
    def address(self) -> str:
        """Where callers call."""
        return self.outbound.addresses["outbound"]

    @property
    def direct(self) -> str:
        """The agent's sidecar itself, for callers with a certificate."""
        return self.inbound.addresses["inbound"]

    def start(self) -> None:
        self.inbound.start()
        self.outbound = Sidecar(self.outbound_config(), self.folder, name="outbound")
        self.outbound.start()

    def stop(self) -> None:
        if hasattr(self, "outbound"):
            self.outbound.stop()
        self.inbound.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)
