"""What each drill does to the process, and how it is undone. Nothing of it costs an RPC anything while no drill runs."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Protocol

from sidecar.config.units import format_duration
from sidecar.policies.fault import AbortConfig, DelayConfig, FaultConfig
from sidecar.store.severable import Severable

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.config.root import ListenerConfig, Root, RouteConfig
    from sidecar.control.drills.order import Order
    from sidecar.control.process import Process


_FAR_AHEAD = 100 * 365 * 86_400.0


class CannotDrill(Exception):
    """This sidecar, as it is configured or as it stands now, has nothing that this drill could disturb."""


class Disturbance(Protocol):
    """One drill: `begin` says what it did, `end` undoes it. Both on the loop, at once."""

    def begin(self) -> str:
        """Raises CannotDrill; nothing was done then."""

    def end(self) -> None: ...

    @property
    def hits(self) -> int | None:
        """How often it was felt; None = the metrics say it."""


class Faults:
    """latency, errors: the fault policy on every route, or on those named."""

    hits = None

    def __init__(self, process: Process, order: Order) -> None:
        self._process = process
        self._order = order
        self._undo: Callable[[], None] | None = None
        delays = order.name == "latency"
        self._config = FaultConfig(
            delay=DelayConfig.model_validate({"percent": order.percent, "for": order.delay}) if delays else None,
            abort=None if delays else AbortConfig(percent=order.percent, status=order.status),
            max_active=10_000,
        )

    def begin(self) -> str:
        order = self._order
        self._touched: list[str] = []
        self._undo = self._process.disturb(self._changed)
        if not self._touched:
            self.end()
            raise CannotDrill(f"no listener and route is named {order.listener or '*'}/{order.route or '*'}")
        what = f"wait {format_duration(order.delay)}" if order.name == "latency" else f"fail with {order.status}"
        return f"{order.percent:g} % of the RPCs {what} on {', '.join(self._touched)}"

    def end(self) -> None:
        if self._undo is not None:
            self._undo()
            self._undo = None

    def _changed(self, root: Root) -> Root:
        return root.model_copy(update={"listeners": tuple(map(self._on_listener, root.listeners))})

    def _on_listener(self, listener: ListenerConfig) -> ListenerConfig:
        if self._order.listener not in {None, listener.name}:
            return listener
        return listener.model_copy(update={"routes": tuple(self._on_route(listener, each) for each in listener.routes)})

    def _on_route(self, listener: ListenerConfig, route: RouteConfig) -> RouteConfig:
        if self._order.route not in {None, route.name}:
            return route
        self._touched.append(f"{listener.name}/{route.name}")
        policies = route.policies.model_copy(update={"fault": self._config})
        return route.model_copy(update={"policies": policies})


class AgentCrash:
    """The supervised agent is killed, as a crash would end it. Recovery is the supervision's."""

    def __init__(self, process: Process, _: Order) -> None:
        self._process = process
        self.hits: int | None = 0

    def begin(self) -> str:
        agent = self._process.agent
        if agent is None:
            raise CannotDrill("no agent is supervised here; see `agent:` in the configuration")
        child = agent.child
        if child is None or not child.is_running or not agent.is_serving:
            raise CannotDrill(f"the agent does not serve now: it is {agent.state.value}")
        pid = child.pid
        child.signal(signal.SIGKILL)
        self.hits = 1
        return f"the agent (pid {pid}) was killed"

    def end(self) -> None:
        """Nothing: whoever supervises it starts it again."""


class StoreLoss:
    """The store gives no answer to this sidecar."""

    def __init__(self, process: Process, _: Order) -> None:
        self._store = process.runtime.store

    def begin(self) -> str:
        if not isinstance(self._store, Severable):
            raise CannotDrill("no store is configured; see `store:`")
        self._store.sever()
        return "the store gives no answer"

    def end(self) -> None:
        if isinstance(self._store, Severable):
            self._store.mend()

    @property
    def hits(self) -> int | None:
        return self._store.refused if isinstance(self._store, Severable) else 0


class CertExpiry:
    """Callers' certificates are judged as of a time at which those of all that are connected have expired."""

    def __init__(self, process: Process, order: Order) -> None:
        wanted = order.listener
        self._wall = process.runtime.clock.wall
        self._is_worker = process.runtime.worker > 0
        self._listeners = [each for name, each in process.listeners.items() if wanted in {None, name}]
        self.hits: int | None = None

    def begin(self) -> str:
        ends = [end for each in self._listeners for end in each.certificate_ends()]
        if not ends and not self._is_worker:
            raise CannotDrill("no caller with a certificate is connected, so none can be judged expired")
        # Another worker may have the callers; of those that come to this one none shall pass.
        ahead = max(0.0, max(ends) - self._wall()) + 1.0 if ends else _FAR_AHEAD
        for each in self._listeners:
            each.look_ahead(ahead)
        names = ", ".join(each.name for each in self._listeners)
        return f"certificates of callers of {names} are judged as of {ahead / 86_400:.1f} days from now"

    def end(self) -> None:
        for each in self._listeners:
            each.look_ahead(0.0)


class Partition:
    """A cluster, or one endpoint of it, cannot be reached: connections are lost, new ones refused."""

    def __init__(self, process: Process, order: Order) -> None:
        self._order = order
        self._parts = process.generation.parts if process.generation is not None else []
        self._cut: list[str] = []

    def begin(self) -> str:
        wanted = self._order.cluster
        if wanted is None and len(self._parts) != 1:
            raise CannotDrill(f"say which cluster: {', '.join(each.name for each in self._parts)}")
        # A version of a cluster is a part of its own: NAME/VERSION.
        parts = [each for each in self._parts if wanted is None or wanted in {each.name, each.name.partition("/")[0]}]
        endpoints = [
            endpoint
            for part in parts
            for endpoint in part.endpoints
            if self._order.endpoint in {None, endpoint.address}
        ]
        if not endpoints:
            raise CannotDrill(f"no endpoint {self._order.endpoint or ''} in cluster {wanted or ''}".replace("  ", " "))
        self._endpoints = endpoints
        for each in endpoints:
            each.sever()
        return f"{', '.join(each.address for each in endpoints)} cannot be reached"

    def end(self) -> None:
        for each in self._endpoints:
            each.mend()

    @property
    def hits(self) -> int | None:
        return sum(each.severed for each in self._endpoints)


KINDS: dict[str, Callable[[Process, Order], Disturbance]] = {
    "latency": Faults,
    "errors": Faults,
    "agent-crash": AgentCrash,
    "store-loss": StoreLoss,
    "cert-expiry": CertExpiry,
    "partition": Partition,
}
