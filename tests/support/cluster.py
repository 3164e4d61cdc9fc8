"""A scene with a real cluster: endpoints, connections, breakers, health; only the dialling is scripted. No loop, no sockets."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sidecar.clusters import upstream
from sidecar.clusters.cluster import Cluster
from sidecar.clusters.endpoint import Endpoint
from sidecar.clusters.upstream import UpstreamOptions
from sidecar.config.clusters import ClusterConfig
from sidecar.control.generation import cluster_rules
from sidecar.http2.connection import Connection, Limits
from sidecar.runtime import Runtime, Tasks
from sidecar.transport.socket import Flusher, Socket
from tests.support.scene import Scene
from tests.support.wire import RESPONSE, ScriptedStream, block, message, server_connection, take

Act = Callable[[ScriptedStream, str], None]


class Loop(Tasks):
    """What a Flusher asks of a loop, and tasks that end in the turn in which they begin: with a scripted network nothing waits."""

    def __init__(self) -> None:
        super().__init__()
        self._soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> Any:
        def run() -> None:
            try:
                coroutine.send(None)
            except StopIteration:
                return
            raise AssertionError(f"{name} waits")

        self._soon.append(run)

    def turn(self) -> bool:
        soon, self._soon = self._soon, []
        for callback in soon:
            callback()
        return bool(soon)


class Transport:
    """One end of a link, as a Socket sees it."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def write(self, data: bytes) -> None:
        self._link.to_agent += data

    def is_closing(self) -> bool:
        return self._link.cut

    def close(self) -> None:
        self._link.cut = True

    abort = close

    def get_extra_info(self, name: str) -> None:
        return None

    def set_write_buffer_limits(self, **limits: int) -> None:
        """Nothing is buffered here."""

    def get_write_buffer_size(self) -> int:
        return 0


class Link:
    """A connection to an agent."""

    def __init__(self, agent: Agent, socket: Socket) -> None:
        self.agent = agent
        self.socket = socket
        self.server: Connection = server_connection(agent.accept, agent.limits)
        self.to_agent = bytearray()
        self.cut = False
        self._told = False
        self.server.start()

    def step(self) -> bool:
        if self._told:
            return False
        now = self.agent.net.scene.clock.monotonic()
        back = take(self.server)
        out = bytes(self.to_agent)
        self.to_agent.clear()
        if out and not self.agent.is_frozen:
            self.server.receive(out, now)
        if back and not self.cut:
            self.socket.data_received(back)
        if self.cut:
            self._told = True
            self.server.lost()
            self.socket.connection_lost(None)
            return True
        return bool(back or out)

    def lose(self) -> None:
        self.cut = True


class Agent:
    """One endpoint of the network: `act` is what it does; `calls` counts RPCs, health checks apart."""

    def __init__(self, net: Net, address: str) -> None:
        self.net = net
        self.address = address
        self.is_up = True
        self.is_frozen = False
        self.act: Act = serves
        self.health: Act = no_health
        self.limits = Limits()
        self.links: list[Link] = []
        self.streams: list[ScriptedStream] = []
        self.checks: list[ScriptedStream] = []

    def accept(self, connection: Connection) -> ScriptedStream:
        return ScriptedStream(self._event)

    def _event(self, stream: ScriptedStream, event: str) -> None:
        is_check = stream.seen.value(":path").startswith("/grpc.health.v1.")  # type: ignore[union-attr]
        if event == "headers":
            (self.checks if is_check else self.streams).append(stream)
        (self.health if is_check else self.act)(stream, event)

    @property
    def calls(self) -> int:
        return len(self.streams)

    def lose(self) -> None:
        """Its connections break; it can be reached again at once."""
        for link in self.links:
            link.lose()

    def kill(self) -> None:
        self.is_up = False
        self.lose()


class Net:
    """Addresses, and who answers there."""

    def __init__(self, scene: ClusterScene) -> None:
        self.scene = scene
        self.agents: dict[str, Agent] = {}

    async def dial(self, address: str, protocol: Callable[[], Socket], **_: object) -> Socket:
        agent = self.agents[address]
        if not agent.is_up:
            raise ConnectionRefusedError
        socket = protocol()
        link = Link(agent, socket)
        agent.links.append(link)
        socket.connection_made(Transport(link))  # type: ignore[arg-type]  # as much of one as a Socket uses
        return socket


class ClusterScene(Scene):
    """A scene whose route leads to a real cluster of `count` agents, configured as the file would (`options`)."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        count: int = 3,
        *,
        policies: Callable[[Runtime], Any] = lambda _: (),
        agents: Act | None = None,
        health: Act | None = None,
        **options: Any,
    ) -> None:
        super().__init__(policies=policies, connect=False, idempotent=True)
        self.net = Net(self)
        monkeypatch.setattr(upstream, "dial", self.net.dial)
        addresses = tuple(f"10.0.0.{i + 1}:50051" for i in range(count))
        for address in addresses:
            agent = self.net.agents[address] = Agent(self.net, address)
            agent.act = agents or serves
            agent.health = health or no_health
        self.loop = Loop()
        self.options: dict[str, Any] = {"endpoints": addresses, **options}
        config = ClusterConfig.model_validate(self.options)
        self.real = Cluster(
            "local",
            addresses,
            runtime=dataclasses.replace(self.runtime, tasks=self.loop),
            flusher=Flusher(self.loop),  # type: ignore[arg-type]  # as much of a loop as it uses
            options=UpstreamOptions(),
            rules=cluster_rules(config),
        )
        self.plan.cluster = self.real
        self.real.start()
        self.run()

    def run(self) -> None:
        for _ in range(100_000):
            turned = self.loop.turn()
            links = [link for agent in self.net.agents.values() for link in agent.links]
            moved = [self.caller.step(), *[link.step() for link in links]]
            # What is to be done "at once" is a timer of no length.
            due = [timer for timer in self.clock.timers if timer.when <= self.clock.monotonic()]
            if due:
                self.clock.advance(0)
            if not turned and not any(moved) and not due:
                return
        raise AssertionError("the scene never falls silent")

    def advance(self, seconds: float) -> None:
        """Move time; what timers make is carried at once."""
        until = self.clock.monotonic() + seconds
        while (timers := self.clock.timers) and timers[0].when <= until:
            self.clock.advance(max(0.0, timers[0].when - self.clock.monotonic()) + 1e-9)
            self.run()
        self.clock.advance(max(0.0, until - self.clock.monotonic()))
        self.run()

    @property
    def agents(self) -> list[Agent]:
        return list(self.net.agents.values())

    def at(self, agent: Agent) -> Endpoint:
        return next(each for each in self.real.endpoints if each.address == agent.address)

    def codes(self, count: int, every: float = 0.0) -> Counter[int | None]:
        """Make so many unary RPCs, one after the other; their status codes."""
        found: Counter[int | None] = Counter()
        for _ in range(count):
            stream = self.call()
            found[stream.seen.status] += 1
            if every:
                self.advance(every)
        return found

    def shares(self) -> list[int]:
        """RPCs of each agent since the last time this was asked."""
        counts = [agent.calls for agent in self.agents]
        for agent in self.agents:
            agent.streams.clear()
        return counts

    def close(self) -> list[str]:
        """End the cluster; what is left of it, which must be nothing."""
        self.real.close()
        self.run()
        # The timer of coarse deadlines may stay for a while, with nothing in its buckets.
        own = self.deadlines._fire
        left = [timer for timer in self.clock.timers if timer._callback != own]
        return [f"a timer in {timer.when - self.clock.monotonic():g} s" for timer in left] + self.leaks()


# ── what agents do ──


def serves(stream: ScriptedStream, event: str) -> None:
    """OK, with what came."""
    if event == "end":
        stream.send_headers(block(*RESPONSE))
        stream.send_data(bytes(stream.seen.data), False)
        stream.send_trailers(block(("grpc-status", "0")))


def fails(code: int = 14, *extra: tuple[str, str]) -> Act:
    """Trailers-Only at once."""

    def act(stream: ScriptedStream, event: str) -> None:
        if event == "end":
            stream.send_headers(block(*RESPONSE, ("grpc-status", str(code)), *extra), True)

    return act


def stalls(stream: ScriptedStream, event: str) -> None:
    """Never answers."""


def no_health(stream: ScriptedStream, event: str) -> None:
    """An agent without a health service."""
    fails(12)(stream, event)


def says(*statuses: int) -> Act:
    """Health: each status in a message of one Watch; a Check gets the last one."""

    def act(stream: ScriptedStream, event: str) -> None:
        if event != "end":
            return
        stream.send_headers(block(*RESPONSE))
        watch = stream.seen.value(":path") == "/grpc.health.v1.Health/Watch"
        for status in statuses if watch else statuses[-1:]:
            stream.send_data(message(health_message(status)), False)
        if not watch:
            stream.send_trailers(block(("grpc-status", "0")))

    return act


def health_message(status: int) -> bytes:
    return b"\x08" + bytes([status]) if status else b""
