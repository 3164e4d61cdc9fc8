"""One sidecar process: ordered start, reload, drain. Everything that lives as long as the process hangs here."""

from __future__ import annotations

import asyncio
import enum
import functools
import hashlib
from typing import TYPE_CHECKING, Any, Literal

from sidecar.alerts.alerts import Alerts
from sidecar.config.load import load
from sidecar.config.problems import ConfigError
from sidecar.control.certificates import Certificates
from sidecar.control.drills.drills import Drills
from sidecar.control.generation import Builder, Generation, direction_of, listener_options
from sidecar.control.long_calls import LongCalls
from sidecar.control.memory import Tidying
from sidecar.control.pulse import Pulse
from sidecar.control.revocations import RevocationLists
from sidecar.control.rpc_series import RpcSeries
from sidecar.control.wall_clock import WallClock
from sidecar.control.watch import INTERVAL, FileWatch
from sidecar.listeners.listener import Listener
from sidecar.policies.audit.notes import note
from sidecar.policies.idempotency.settling import Settling
from sidecar.policies.mask import Mask
from sidecar.rollout.rollouts import Rollouts
from sidecar.telemetry import names
from sidecar.transport.bind import bind, shown_address
from sidecar.transport.socket import Flusher

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from sidecar.clusters.endpoint import Endpoint
    from sidecar.config.load import Loaded
    from sidecar.config.root import Root
    from sidecar.proxy.call import Call
    from sidecar.proxy.plan import Plan
    from sidecar.proxy.policy import Policy
    from sidecar.runtime import Runtime
    from sidecar.supervision.supervisor import Supervisor
    from sidecar.telemetry.metrics import Sample


class State(enum.Enum):
    """Where the process stands in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


class Process:
    """The sidecar itself. `start` binds and serves, `reload` replaces the generation, `drain` ends it without losing a call."""

    def __init__(self, path: Path, runtime: Runtime, environ: Mapping[str, str]) -> None:
        self.path = path
        self.runtime = runtime
        self.state = State.STARTING
        self.listeners: dict[str, Listener] = {}
        self.addresses: dict[str, str] = {}
        self.generation: Generation | None = None
        self.warnings: tuple[str, ...] = ()
        self.loaded_at = 0.0
        self.last_reload_problem: str | None = None
        self.certificate_problems: list[str] = []
        self.stopped = asyncio.Event()
        self.agent: Supervisor | None = None
        self._environ = environ
        self._flusher = Flusher(asyncio.get_running_loop())
        self.certificates = Certificates(runtime.clock.wall)
        self._revocations = RevocationLists()
        self.settling = Settling(runtime.store, runtime.sealing, runtime.clock)
        self.rollouts = Rollouts(runtime, self._rollout_moved)
        self.alerts = Alerts(runtime)
        self.long_calls = LongCalls(runtime.clock, self.calls)
        self.drills = Drills(self)
        self._builder = Builder(runtime, self._flusher, self.certificates, self.rollouts)
        self.launches = self._builder.launches
        self._watch = FileWatch(runtime.clock, self._files_changed)
        self.pulse = Pulse(runtime, WallClock(runtime.clock, self._clock_was_set).look)
        self._tidying = Tidying(runtime)
        self._reloads = {
            result: runtime.metrics.counter(names.CONFIG_RELOADS, result=result) for result in ("accepted", "rejected")
        }
        runtime.readiness.holds = lambda: self.is_ready
        self._register_metrics()
        RpcSeries(runtime.metrics, self._plans, self.calls)

    # ── start ──

    def start(self, loaded: Loaded, given: Mapping[str, socket.socket] | None = None) -> None:
        """Bind every listener, or take the sockets `given` (by name), then serve. Raises BindError or ValueError; nothing
        stays bound then.
        """
        root: Root = loaded.root
        generation = self._builder.build(root, number=1, source_hash=loaded.source_hash)
        bound: dict[str, socket.socket] = {}
        try:
            for config in root.listeners:
                bound[config.name] = given[config.name] if given is not None else bind(config.bind)
            for config in root.listeners:
                self._open(generation, config.name, bound[config.name])
        except BaseException:
            for each in bound.values():
                each.close()
            raise
        self._enter(generation, loaded)
        for listener in self.listeners.values():
            listener.start()
        self.state = State.READY
        self.pulse.start()
        self._tidying.start()
        self.alerts.begin()
        self.long_calls.start()

    def _open(self, generation: Generation, name: str, listening: socket.socket) -> None:
        config = next(each for each in generation.root.listeners if each.name == name)
        self.addresses[name] = shown_address(listening)
        self.listeners[name] = Listener(
            name,
            listening,
            edge=generation.edges[name],
            direction=direction_of(config, generation.root.node.name),
            options=listener_options(config, self._revocations),
            context=self.certificates.for_listener(config),
            runtime=self.runtime,
            flusher=self._flusher,
        )

    def _enter(self, generation: Generation, loaded: Loaded) -> None:
        self._builder.adopt(generation)
        self.generation = generation
        self.warnings = tuple(map(str, loaded.warnings))
        self.alerts.adopt(loaded.root.alerts, loaded.root.node.name, workers=loaded.root.workers)
        self.loaded_at = self.runtime.clock.wall()
        if self.runtime.lines is not None:
            self.runtime.lines.hide(hidden_in_logs(generation))
        self._watch.watch({*loaded.files, *(path for each in self.policies for path in each.files)})

    def _rollout_moved(self, event: dict[str, Any]) -> None:
        """A transition that was decided here goes into every audit log, as what people do."""
        note(self.policies, "rollout", event, self.runtime.clock.wall())

    @property
    def policies(self) -> list[Policy[Any]]:
        """Those that are in force, of every route of every listener."""
        edges = self.generation.edges.values() if self.generation is not None else ()
        return [policy for edge in edges for plan in edge.routes.plans() for policy in plan.policies]

    async def settle(self, record: str, outcome: Literal["executed", "not_executed"], *, by: str) -> dict[str, Any]:
        """Settle a keyed RPC by hand. Raises NoSuchRecord, CannotSettle, StoreUnavailable."""
        settled = await self.settling.resolve(record, outcome, by=by)
        facts = {"record": record, "method": settled["method"], "identity": settled["identity"], "outcome": outcome}
        note(self.policies, "idempotency", facts | {"by": by}, self.runtime.clock.wall())
        self.runtime.log.info("a keyed RPC was settled by hand", extra=facts | {"by": by})
        return settled

    def clear_cache(self) -> int:
        """Forget the answers that policies keep; how many there were."""
        return sum(policy.forget() for policy in self.policies)

    def _recheck(self) -> None:
        """What callers may do has changed: open connections and running calls are judged again."""
        for listener in self.listeners.values():
            listener.recheck()

    # ── reload ──

    def reload(self) -> bool:
        """Read the file again. A generation that cannot be built changes nothing; the reason is logged and shown."""
        assert self.generation is not None
        try:
            loaded = load(self.path, environ=self._environ)
            generation = self._builder.build(
                loaded.root, number=self.generation.number + 1, source_hash=loaded.source_hash
            )
            self._check_fixed(loaded.root)
            options = {each.name: listener_options(each, self._revocations) for each in loaded.root.listeners}
        except (ConfigError, ValueError, OSError) as error:
            self.last_reload_problem = str(error)
            self._reloads["rejected"].inc()
            self.runtime.log.error("configuration rejected, the former one stays", extra={"cause": str(error)})
            return False
        self.drills.end("the configuration was reloaded")
        for config in loaded.root.listeners:
            self.listeners[config.name].adopt(
                generation.edges[config.name],
                options[config.name],
                direction_of(config, loaded.root.node.name),
                self.certificates.for_listener(config),
            )
        self._enter(generation, loaded)
        self._recheck()
        self.last_reload_problem = None
        self._reloads["accepted"].inc()
        self.runtime.log.info("configuration accepted", extra={"generation": generation.number})
        # Whoever asks for a reload means all of it; nobody should have to wait for the next look at the files.
        self.reload_certificates()
        return True

    def disturb(self, change: Callable[[Root], Root]) -> Callable[[], None]:
        """Serve by a changed configuration for a while, as a drill does; calling what is returned ends it.

        Listeners and clusters must stay the same. What is configured (and shown) does not change. Raises ValueError.
        """
        generation = self.generation
        assert generation is not None
        changed = self._builder.build(
            change(generation.root), number=generation.number, source_hash=generation.source_hash
        )
        for name, edge in changed.edges.items():
            self.listeners[name].follow(edge)
            for plan in edge.routes.plans():
                for policy in plan.policies:
                    policy.begin(plan.cluster)

        def undo() -> None:
            # The former plans as they are: nothing has to be built, so nothing can keep them from coming back.
            for name, edge in generation.edges.items():
                if self.listeners[name].edge is changed.edges[name]:
                    self.listeners[name].follow(edge)

        return undo

    def _check_fixed(self, root: Root) -> None:
        """What a reload cannot change: where we listen."""
        assert self.generation is not None
        before = {each.name: each.bind for each in self.generation.root.listeners}
        after = {each.name: each.bind for each in root.listeners}
        if before != after:
            changed = sorted({name for name in before.keys() | after.keys() if before.get(name) != after.get(name)})
            raise ValueError(
                f"listeners {', '.join(changed)}: adding, removing or re-binding a listener needs a restart"
            )
        if root.admin != self.generation.root.admin:
            raise ValueError("admin: a change needs a restart")
        if root.store != self.generation.root.store:
            raise ValueError("store: a change needs a restart")
        if root.agent != self.generation.root.agent:
            raise ValueError("agent: a change needs a restart")
        if root.workers != self.generation.root.workers:
            raise ValueError("workers: a change needs a restart")

    def _files_changed(self, files: set[Path]) -> None:
        if self.path in files:
            if not self._is_in_force():
                self.reload()
            files = files - {self.path}
        if files:
            self.reload_certificates()
            self._reload_lists(files)

    def _is_in_force(self) -> bool:
        """Has a signal been quicker than the look at the file?"""
        if self.generation is None or self.last_reload_problem is not None:
            return False
        return hashlib.sha256(self.path.read_bytes()).hexdigest() == self.generation.source_hash

    def _reload_lists(self, files: set[Path]) -> None:
        """Revocation lists, and the files that policies read."""
        changed, problems = self._revocations.reload(files)
        for policy in self.policies:
            if files.intersection(policy.files):
                try:
                    changed = policy.reload() or changed
                except ValueError as error:
                    problems.append(str(error))
        for problem in problems:
            self.runtime.log.error("file not reloaded, its former content stays in force", extra={"cause": problem})
        if changed:
            self.runtime.log.info("lists reloaded", extra={"files": sorted(map(str, files))})
            self._recheck()

    def reload_certificates(self) -> None:
        """Certificates, keys or CAs have changed: new handshakes use them, upstream connections are replaced, calls go on."""
        changed, problems = self.certificates.reload()
        if problems and problems != self.certificate_problems:
            self.runtime.log.warning("certificates not reloaded, the former ones stay", extra={"cause": problems})
        self.certificate_problems = problems
        if problems and self.state is not State.STOPPED:
            # Files that belong together are written one after the other; what does not fit now may fit in a moment.
            self.runtime.clock.call_later(INTERVAL, self.reload_certificates)
        if changed and self.generation is not None:
            self.runtime.log.info("certificates reloaded", extra={"contexts": changed})
            for name, config in self.generation.root.clusters.items():
                if config.tls is not None:
                    self.generation.clusters[name].renew()

    # ── the end ──

    def drain(self) -> None:
        """Stop without losing a call: GOAWAY, wait for what runs up to drain_timeout, then leave."""
        if self.state in {State.DRAINING, State.STOPPED}:
            return
        self.drills.end("the sidecar drains")
        self.state = State.DRAINING
        timeout = self.generation.root.drain_timeout if self.generation is not None else 0.0
        self.runtime.log.info("draining", extra={"active": self.active_calls, "timeout": timeout})
        waiting = set(self.listeners)
        timer = self.runtime.clock.call_later(timeout, self._drain_overdue)

        def emptied(name: str) -> None:
            waiting.discard(name)
            if not waiting:
                timer.cancel()
                # A moment for the last GOAWAY and answers to be written.
                self.runtime.clock.call_later(0.05, self.stop)

        for name, listener in self.listeners.items():
            listener.drain(functools.partial(emptied, name))
        if not self.listeners:
            self.stop()

    def _drain_overdue(self) -> None:
        self.runtime.log.warning("drain_timeout is over, calls are cut", extra={"active": self.active_calls})
        self.stop()

    def stop(self) -> None:
        """End at once."""
        if self.state is State.STOPPED:
            return
        self.drills.end("the sidecar stops")
        self.state = State.STOPPED
        self.pulse.stop()
        self._tidying.stop()
        self._watch.stop()
        self.alerts.stop()
        self.long_calls.stop()
        self.rollouts.close()
        for listener in self.listeners.values():
            listener.close()
        if self.generation is not None:
            for cluster in self.generation.clusters.values():
                cluster.close()
        self.runtime.clock.call_later(0.01, self.stopped.set)

    def _plans(self) -> Iterator[Plan]:
        for listener in self.listeners.values():
            yield from listener.edge.routes.plans()

    def calls(self) -> Iterator[Call]:
        """The calls that run now."""
        for listener in self.listeners.values():
            yield from listener.calls()

    @property
    def is_ready(self) -> bool:
        """May it be given RPCs?"""
        return self.state is State.READY and (self.agent is None or self.agent.is_serving)

    @property
    def active_calls(self) -> int:
        return sum(listener.active_calls for listener in self.listeners.values())

    # ── what is measured about the process ──

    def _clock_was_set(self, seconds: float) -> None:
        """When certificates of connected callers end was computed from the former time."""
        self.runtime.log.warning("the wall clock was set", extra={"seconds": round(seconds, 3)})
        for listener in self.listeners.values():
            listener.look_ahead(listener.ahead)

    def _register_metrics(self) -> None:
        metrics = self.runtime.metrics
        lines = self.runtime.lines
        metrics.read(names.LOG_LINES_DROPPED, lambda: [((), lines.dropped if lines is not None else 0)])
        metrics.read(names.CONFIG_GENERATION, lambda: [((), self.generation.number if self.generation else 0)])
        metrics.read(names.CONFIG_LAST_SUCCESS, lambda: [((), self.loaded_at)])
        metrics.read(names.CONNECTIONS, lambda: self._per_listener(lambda each: len(each.connections)))
        metrics.read(names.CONNECTIONS_ACCEPTED, lambda: self._per_listener(lambda each: each.accepted))
        metrics.read(names.CONNECTIONS_REFUSED, lambda: self._per_listener(lambda each: each.refused))
        metrics.read(names.HANDSHAKES_FAILED, lambda: self._per_listener(lambda each: each.handshakes_failed))
        metrics.read(
            names.RPCS_ACTIVE,
            lambda: [
                ((each.name, each.edge.direction, plan.route), plan.active)
                for each in self.listeners.values()
                for plan in each.edge.routes.plans()
            ],
        )
        metrics.read(names.ENDPOINT_READY, lambda: self._per_endpoint(lambda each: float(each.is_ready)))
        metrics.read(names.ENDPOINT_ACTIVE, lambda: self._per_endpoint(lambda each: each.in_flight))
        metrics.read(
            names.CERTIFICATE_EXPIRY,
            lambda: [
                ((str(each.files.certificate),), self.runtime.clock.wall() + days * 86_400)
                for each in self.certificates.contexts
                if (days := each.days_left()) is not None
            ],
        )

    def _per_listener(self, value: Callable[[Listener], float]) -> list[Sample]:
        return [((each.name, each.edge.direction), value(each)) for each in self.listeners.values()]

    def _per_endpoint(self, value: Callable[[Endpoint], float]) -> list[Sample]:
        clusters = self.generation.parts if self.generation is not None else ()
        return [
            ((cluster.name, endpoint.address), value(endpoint))
            for cluster in clusters
            for endpoint in cluster.endpoints
        ]


def hidden_in_logs(generation: Generation) -> set[str]:
    """The last part of each field that `mask` has to hide in logs: the name under which a value would stand there."""
    return {
        field.rpartition(".")[2]
        for edge in generation.edges.values()
        for plan in edge.routes.plans()
        for policy in plan.policies
        if isinstance(policy, Mask)
        for field in policy.fields_in("logs")
    }
