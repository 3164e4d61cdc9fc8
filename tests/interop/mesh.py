"""The mesh of the suite: a caller's sidecar ══ mTLS ══ an agent's sidecar, and behind it an agent server and the echo server."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.journeys.agent_process import AgentProcess
from tests.support.pki import Pki
from tests.support.processes import ROOT, Sidecar

ECHO = "/interop.v1.Echo/"
_LIMITS = "limits: {max_metadata: 64KiB, max_message: 16MiB}"
_CAP = "{name: capped, match: {method: /interop.v1.Echo/*, metadata: {x-cap: %s}}, to: %s, policies: {deadline: {default: 300ms, max: 300ms}}}"
INBOUND = """
node: {{name: agent-host}}
admin: {{bind: "127.0.0.1:0"}}
listeners:
  - name: inbound
    direction: inbound
    bind: "{bind}"
    tls: {{certificate: {leaf.certificate}, private_key: {leaf.private_key}, trusted_ca: {leaf.ca}, client_certificate: require}}
    {limits}
    routes:
      - {cap}
      - {{name: echo, match: {{method: "/interop.v1.Echo/*"}}, to: echo}}
      - name: limited
        match: {{method: "/agent.v1.AgentService/*", metadata: {{idempotency-key: "limited-*"}}}}
        to: agent
        policies: {{rate_limit: [{{name: once-an-hour, rate: 1/1h, burst: 1, per: [identity]}}]}}
      - {{name: rest, match: {{method: "/*"}}, to: agent}}
clusters:
  echo: {{endpoints: ["{echo}"], circuit_breaker: {{failure_threshold: 1000}}}}
  agent: {{endpoints: ["{agent}"]}}
"""
OUTBOUND = """
node: {{name: app-host}}
admin: {{bind: "127.0.0.1:0"}}
listeners:
  - name: outbound
    direction: outbound
    bind: "127.0.0.1:0"
    {limits}
    routes:
      - {cap}
      - {{name: all, match: {{method: "/*"}}, to: mesh}}
clusters:
  mesh:
    endpoints: ["{inbound}"]
    circuit_breaker: {{failure_threshold: 1000}}
    tls: {{certificate: {leaf.certificate}, private_key: {leaf.private_key}, trusted_ca: {leaf.ca}, peer_identities: ["spiffe://mesh.local/agent/server"]}}
"""


class EchoProcess:
    """The echo server, as a process of its own."""

    def __init__(self) -> None:
        self.address = "127.0.0.1:0"
        self._process: subprocess.Popen[str]

    def start(self) -> None:
        """Start it, at the address it had before if it had one."""
        command = [sys.executable, str(Path(__file__).with_name("echo_server.py")), "--bind", self.address]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("echo ready "), line
        self.address = line.split()[-1]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Mesh:
    """`with Mesh(folder) as mesh:` — `address` takes clear text, `direct` takes callers with the certificate `client`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pki = Pki(folder / "certs")
        self.server, self.client = self.pki.leaf("server"), self.pki.leaf("client")
        self.echo = EchoProcess()
        self.inbound: Sidecar
        self.outbound: Sidecar
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            agent = stack.enter_context(AgentProcess())
            stack.enter_context(self.echo)
            inbound = INBOUND.format(
                bind="127.0.0.1:0",
                leaf=self.server,
                limits=_LIMITS,
                cap=_CAP % ("inbound", "echo"),
                echo=self.echo.address,
                agent=agent.address,
            )
            self.inbound = stack.enter_context(Sidecar(inbound, self.folder, name="inbound"))
            self.direct = self.inbound.addresses["inbound"]
            outbound = OUTBOUND.format(
                leaf=self.client, limits=_LIMITS, cap=_CAP % ("outbound", "mesh"), inbound=self.direct
            )
            self.outbound = stack.enter_context(Sidecar(outbound, self.folder, name="outbound"))
            self.address = self.outbound.addresses["outbound"]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
