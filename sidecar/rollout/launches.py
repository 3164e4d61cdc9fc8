"""Versions whose agents the sidecar starts by itself: each on a free port of this machine, for as long as it is needed.

Stable runs until a promotion's `keep_old_for` is over, the candidate while it is verified, on trial or promoted. One that is not needed
any more first loses its traffic (the split), then finishes what it runs, then gets TERM. One that ends by itself is started again.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from sidecar.clock import Turn, sleep
from sidecar.supervision.child import Child, Launch, NotServing
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.clusters.versions import VersionedCluster
    from sidecar.config.clusters import ClusterConfig
    from sidecar.rollout.config import VersionAgentConfig, VersionConfig
    from sidecar.rollout.rollouts import Rollouts
    from sidecar.runtime import Runtime

_LOOK = 0.1
_SETTLED_WITHIN = 60.0
"""Seconds that the sidecar's own start waits for the versions it needs."""
_AGAIN = 1.0
_AGAIN_MOST = 30.0


class Launched:
    """The agent of one version."""

    def __init__(self, name: str, version: str, config: VersionAgentConfig, address: str, runtime: Runtime) -> None:
        self.address = address
        self.child: Child | None = None
        self.is_closed = False
        self.settled = Turn()
        """Given when it serves for the first time, or is known not to."""
        self._name = name
        self._version = version
        self._config = config
        self._runtime = runtime
        self._again = _AGAIN
        self._where: tuple[ClusterConfig, VersionedCluster, Rollouts] | None = None

    def follow(self, config: ClusterConfig, cluster: VersionedCluster, rollouts: Rollouts) -> None:
        """What says from now on whether it is needed."""
        self._where = (config, cluster, rollouts)

    @property
    def is_needed(self) -> bool:
        if self.is_closed or self._where is None:
            return False
        config, _, rollouts = self._where
        return rollouts.needs(self._name, config, self._version)

    async def run(self) -> None:
        """Until `is_closed`, and its process has ended."""
        while not self.is_closed:
            if self.is_needed:
                if self.child is None or not self.child.is_running:
                    await self._start()
            else:
                await self._retire()
            await sleep(self._runtime.clock, _LOOK)
        await self._retire()

    async def _start(self) -> None:
        log = self._runtime.log
        facts = {"cluster": self._name, "version": self._version, "address": self.address}
        port = self.address.rpartition(":")[2]
        command = tuple(
            each.replace("{address}", self.address).replace("{port}", port) for each in self._config.command
        )
        if self.child is not None and self.child.ended is not None:
            log.warning("agent of a version has ended", extra=facts | {"how": str(self.child.ended)})
            await sleep(self._runtime.clock, self._again)
            self._again = min(self._again * 2, _AGAIN_MOST)
            if not self.is_needed:
                return
        child = self.child = Child(
            Launch(command, self.address, name=f"{self._name}/{self._version}", labels=facts), self._runtime
        )
        counter = self._runtime.metrics.counter(names.VERSION_STARTS, cluster=self._name, version=self._version)
        counter.inc()
        try:
            await child.start()
            await self._serving(child)
        except (OSError, NotServing) as error:
            log.warning("agent of a version does not serve", extra=facts | {"cause": str(error)})
            if child.pid is None:
                # No such command; it may be there later.
                await sleep(self._runtime.clock, self._again)
                self._again = min(self._again * 2, _AGAIN_MOST)
        else:
            self._again = _AGAIN
            log.info("agent of a version serves", extra=facts | {"pid": child.pid})
        self.settled.give()

    async def _serving(self, child: Child) -> None:
        """Wait for that; raises NotServing when it has ended, is not needed any more, or has had its time."""
        clock = self._runtime.clock
        ends = clock.monotonic() + _SETTLED_WITHIN
        while True:
            try:
                await child.serving(1.0)
            except NotServing:
                if not child.is_running or not self.is_needed or clock.monotonic() >= ends:
                    raise
            else:
                break
        # It was not there when its endpoint looked last; what is said to serve is to be connected as well.
        assert self._where is not None
        version = self._where[1].versions[self._version]
        for endpoint in version.cluster.endpoints:
            endpoint.hurry()
        while not version.is_serving and child.is_running and clock.monotonic() < ends and self.is_needed:
            await sleep(clock, _LOOK)

    async def stop(self) -> None:
        """End its process now; whatever it ran has ended, or is cut."""
        self.is_closed = True
        if self.child is not None and self.child.is_running:
            await self.child.stop(self._config.drain_timeout)

    async def _retire(self) -> None:
        """It gets nothing any more: let it finish what it runs, then end it."""
        self.settled.give()
        child, grace = self.child, self._config.drain_timeout
        if child is None or not child.is_running:
            return
        clock = self._runtime.clock
        ends = clock.monotonic() + grace
        while self._runs_something() and clock.monotonic() < ends and not self.is_needed:
            await sleep(clock, _LOOK)
        if self.is_needed:
            return
        ended = await child.stop(grace)
        self.child = None
        self._runtime.log.info(
            "agent of a version is retired",
            extra={"cluster": self._name, "version": self._version, "how": str(ended)},
        )

    def _runs_something(self) -> bool:
        return self._where is not None and bool(self._where[1].versions[self._version].tally.running)


class Launches:
    """All of them, over reloads: an agent whose command is still the same runs on, at the same address."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._agents: dict[tuple[str, str, tuple[str, ...]], Launched] = {}
        self._places: dict[tuple[str, str, tuple[str, ...]], str] = {}
        self._tasks: dict[Launched, asyncio.Task[None]] = {}

    def endpoints(self, cluster: str, version: str, config: VersionConfig) -> tuple[str, ...]:
        """Where a version runs: as configured, or where its agent is to be started."""
        if config.agent is None:
            return tuple(config.endpoints)
        key = (cluster, version, config.agent.command)
        if key not in self._places:
            self._places[key] = _free_address()
        return (self._places[key],)

    def adopt(self, clusters: Mapping[str, tuple[ClusterConfig, VersionedCluster]], rollouts: Rollouts) -> None:
        """These are in force now: start what is new, let go of what is gone."""
        former, self._agents = self._agents, {}
        for name, (config, cluster) in clusters.items():
            for version, each in config.versions.items():
                if each.agent is None:
                    continue
                key = (name, version, each.agent.command)
                agent = former.pop(key, None)
                if agent is None:
                    agent = Launched(name, version, each.agent, self._places[key], self._runtime)
                    self._tasks[agent] = self._runtime.spawn(agent.run(), f"version {name}/{version}")
                agent.follow(config, cluster, rollouts)
                self._agents[key] = agent
        for key, gone in former.items():
            gone.is_closed = True
            del self._places[key]

    async def settled(self) -> None:
        """Wait until each agent that is needed now serves, or is known not to."""
        for each in list(self._agents.values()):
            await each.settled.wait(self._runtime.clock, _SETTLED_WITHIN)

    async def close(self) -> None:
        """End them all; returns when they have ended."""
        await asyncio.gather(*(each.stop() for each in self._tasks))
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())


def _free_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"
