"""A scene: the whole data path in memory. A scripted caller, our proxy, a scripted agent; a clock that stands still until moved."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from typing import Any

from sidecar.clock import Deadlines
from sidecar.http2.connection import Connection, Limits
from sidecar.listeners import inbound
from sidecar.listeners.peer import Peer
from sidecar.proxy.attempt import Attempt
from sidecar.proxy.call import Call
from sidecar.proxy.edge import Edge
from sidecar.proxy.holding import Holding
from sidecar.proxy.plan import Plan
from sidecar.proxy.policy import Outcome, Policy
from sidecar.proxy.rejection import Reason, Rejection
from sidecar.proxy.routing import Match, RouteTable
from sidecar.runtime import Runtime
from sidecar.telemetry.metrics import Metrics
from tests.support.clock import FakeClock
from tests.support.wire import (
    ScriptedStream,
    Wire,
    client_connection,
    message,
    nothing,
    request_block,
    server_connection,
)


class Ends(Policy[None]):
    """An observer that keeps every outcome."""

    name = "ends"

    def __init__(self, outcomes: list[Outcome]) -> None:
        self._outcomes = outcomes

    def on_end(self, call: Call, outcome: Outcome) -> None:
        self._outcomes.append(outcome)


class SceneEndpoint:
    """An endpoint that is one in-memory connection; `attempts` are those that have started."""

    attempt_type = Attempt

    def __init__(self, scene: Scene, address: str = "agent-1") -> None:
        self.scene = scene
        self.address = address
        self.outcomes: list[Outcome] = []
        self.attempts: list[Any] = []
        self.waiting: list[Any] = []
        self.wire: Wire | None = None

    def connection(self) -> Connection | None:
        if self.wire is None or not self.wire.client.is_open:
            return None
        return self.wire.client

    def enqueue(self, attempt: Any) -> Rejection | None:
        self.waiting.append(attempt)
        return None

    def started(self, attempt: Any) -> None:
        self.attempts.append(attempt)

    def finished(self, attempt: Any, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def connect(self, limits: Limits | None = None) -> None:
        """A fresh connection to the agent; whoever waited is launched."""
        self.wire = Wire(
            client_connection(limits), server_connection(self.scene.accept_at_agent), now=self.scene.clock.monotonic
        )
        self.wire.start()
        waiting, self.waiting = self.waiting, []
        for attempt in waiting:
            if not attempt.over:
                attempt.launch(self.wire.client, self.scene.clock.monotonic())


class SceneCluster:
    """Picks from its endpoints in turn, or refuses with `refusal`."""

    name = "local"

    def __init__(self, endpoints: list[SceneEndpoint]) -> None:
        self.members = endpoints
        self.refusal: Rejection | None = None
        self._next = 0

    def pick(self, call: Call, avoid: Any = ()) -> SceneEndpoint | Rejection:
        if self.refusal is not None:
            return self.refusal
        for _ in self.members:
            picked = self.members[self._next % len(self.members)]
            self._next += 1
            if picked not in avoid:
                break
        return picked


class Scene:
    """One listener with one route to one scripted agent. `on_agent` scripts what the agent does at each event."""

    def __init__(
        self,
        *,
        policies: Callable[[Runtime], Iterable[Policy[Any]]] = lambda _: (),
        on_agent: Callable[[ScriptedStream, str], None] | None = None,
        identity: str | None = "spiffe://mesh.local/agent/caller",
        max_message: int = 4 * 1024 * 1024,
        caller_limits: Limits | None = None,
        listener_limits: Limits | None = None,
        direction: str = "inbound",
        connect: bool = True,
        endpoints: int = 1,
        methods: tuple[str, ...] = ("/*",),
        idempotent: bool = False,
    ) -> None:
        self.clock = FakeClock()
        self.deadlines = Deadlines(self.clock)
        self.metrics = Metrics()
        self.runtime = Runtime(
            clock=self.clock,
            deadlines=self.deadlines,
            holding=Holding(self.clock),
            random=random.Random(7),
            metrics=self.metrics,
            log=logging.getLogger("scene"),
            listener="inbound",
            route="all",
            direction=direction,
        )
        self.outcomes: list[Outcome] = []
        self.on_agent = on_agent
        self.agent_streams: list[ScriptedStream] = []
        self.agent_consumes = True
        self.endpoints = [SceneEndpoint(self, f"agent-{i + 1}") for i in range(endpoints)]
        self.endpoint = self.endpoints[0]
        self.cluster = SceneCluster(self.endpoints)
        self.plan = Plan(
            listener="inbound",
            route="all",
            policies=[*policies(self.runtime), Ends(self.outcomes)],
            cluster=self.cluster,
            runtime=self.runtime,
            max_message=max_message,
            idempotent=idempotent,
        )
        unrouted = Plan(
            listener="inbound", route="", policies=[Ends(self.outcomes)], cluster=None, runtime=self.runtime
        )
        self.edge = Edge(
            name="inbound",
            direction=direction,
            routes=RouteTable([(Match(methods=methods), self.plan)], unrouted),
            runtime=self.runtime,
        )
        self.peer = Peer(
            self.edge,
            identity=identity,
            address="10.0.0.9:5000",
            certificate=None,
            to_agent=inbound.told_agent(identity) if direction == "inbound" else b"",
            ends=float("inf"),
            refused=None,
        )
        self.calls: list[Call] = []
        self.listener = Connection(accept=self._accept, wake=nothing, limits=listener_limits)
        self.caller = Wire(client_connection(caller_limits), self.listener, now=self.clock.monotonic)
        if connect:
            for endpoint in self.endpoints:
                endpoint.connect()
        self.caller.start()

    def _accept(self, connection: Connection) -> Call:
        call = Call(self.peer)
        self.calls.append(call)
        return call

    def accept_at_agent(self, connection: Connection) -> ScriptedStream:
        stream = ScriptedStream(self.on_agent, consumes=self.agent_consumes)
        self.agent_streams.append(stream)
        return stream

    # ── the conversation ──

    def call(
        self,
        *extra: tuple[str | bytes, str | bytes],
        path: str = "/test.Service/Method",
        body: bytes | None = b"hello",
        end: bool = True,
        consumes: bool = True,
        block: bytes | None = None,
    ) -> ScriptedStream:
        """The caller starts an RPC, sends one message (None = none yet) and half-closes unless `end` is false."""
        stream = ScriptedStream(consumes=consumes)
        self.caller.client.open(stream)
        stream.send_headers(block or request_block(path, *extra), body is None and end)
        if body is not None:
            stream.send_data(message(body), end)
        self.run()
        return stream

    def run(self) -> None:
        """Carry bytes everywhere until all is silent."""
        wires = [self.caller, *(each.wire for each in self.endpoints if each.wire is not None)]
        for _ in range(100_000):
            if not any([wire.step() for wire in wires]):
                return
        raise AssertionError("the scene never falls silent")

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.run()

    @property
    def agent(self) -> ScriptedStream:
        """The newest stream that reached the agent."""
        return self.agent_streams[-1]

    def leaks(self) -> list[str]:
        """What is left of finished calls: must be nothing."""
        left = []
        if len(self.deadlines):
            left.append(f"{len(self.deadlines)} timers")
        if self.listener.streams:
            left.append(f"{len(self.listener.streams)} streams of callers")
        for endpoint in self.endpoints:
            if endpoint.wire is not None and endpoint.wire.client.streams:
                left.append(f"{len(endpoint.wire.client.streams)} streams to {endpoint.address}")
        if self.plan.active or self.edge.routes.unrouted.active:
            left.append("active counts")
        return left


def refuse(text: str = "no") -> Rejection:
    return Reason.OVERLOADED.reject(text, retry_after=1.5)
