"""A named set of endpoints: follows DNS, publishes pickers, outlives reloads that do not change it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from sidecar.clusters.balancing import Balancing, make_picker, points_of
from sidecar.clusters.concurrency import Load
from sidecar.clusters.endpoint import Endpoint
from sidecar.clusters.picker import RoundRobin
from sidecar.clusters.resolve import is_name, resolve
from sidecar.clusters.vitals import EndpointRules
from sidecar.proxy.rejection import Reason, Rejection
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.clock import Timer
    from sidecar.clusters.breaker import BreakerState
    from sidecar.clusters.picker import Picker
    from sidecar.clusters.upstream import UpstreamOptions
    from sidecar.http2.connection import Connection
    from sidecar.proxy.call import Call
    from sidecar.runtime import Runtime
    from sidecar.telemetry.metrics import Sample
    from sidecar.transport.socket import Flusher

_RESOLVE_EVERY = 30.0
_RESOLVE_AGAIN = 1.0


# A slow start goes up in so many steps; the first one is what Envoy gives at least.
_STEPS = 10


@dataclass(frozen=True, slots=True)
class ClusterRules:
    """How a cluster chooses among its endpoints. Times in seconds."""

    balancing: Balancing = Balancing()
    slow_start: float = 0.0
    panic_below: float = 50.0
    """Percent of the connected endpoints: when fewer are fit, health and ejection are ignored; 0 = never."""
    max_ejected_percent: float = 50.0
    max_in_flight: int | None = None
    max_pending: int = 1024
    endpoint: EndpointRules = EndpointRules()


class Cluster:
    """Where routes lead. `pick` reads a snapshot; everything else replaces it."""

    def __init__(
        self,
        name: str,
        addresses: tuple[str, ...],
        *,
        runtime: Runtime,
        flusher: Flusher,
        options: UpstreamOptions,
        connections: int = 1,
        rules: ClusterRules = ClusterRules(),
        endpoint: Callable[..., Endpoint] = Endpoint,
    ) -> None:
        """`endpoint`: what makes endpoints; those of a version count what becomes of their attempts."""
        self.name = name
        self._make_endpoint = endpoint
        self.rules = rules
        self._addresses = addresses
        self._runtime = runtime
        self._flusher = flusher
        self._options = options
        self._connections = connections
        self._endpoints: dict[str, Endpoint] = {}
        self._resolved: dict[str, tuple[str, ...]] = {each: (each,) for each in addresses if not is_name(each)}
        self._unresolved: dict[str, str] = {}
        self._timer: Timer | None = None
        self._closed = False
        self.load = Load(rules.max_pending)
        self._most = sys.maxsize if rules.max_in_flight is None else rules.max_in_flight
        # The deliberate fast path of most sidecars: one endpoint, and it is ready.
        self._only: Endpoint | None = None
        self._picker: Picker = RoundRobin(())
        self._hopeful = RoundRobin(())
        # Fewer endpoints are fit than `panic_below`.
        self.is_panicking = False
        # Why it gets nothing at all for now: what is behind it is being started or repaired.
        self.held: Rejection | None = None
        # What was said last of why it gets nothing, and until when (monotonic seconds) that is said again.
        self._refused: tuple[Rejection | None, float] = None, 0.0
        # Since when each endpoint of the picker has been in it; the timer is that of the next step of a slow start.
        self._since: dict[Endpoint, float] = {}
        self._ramp: Timer | None = None
        self._points = lru_cache(maxsize=4096)(points_of)

    # ── the data path ──

    def pick(self, call: Call, avoid: Sequence[object] = ()) -> Endpoint | Rejection:
        if self.load.in_flight >= self._most:
            return self._overloaded()
        picked = self._only or self._picker.pick(call, avoid) or self._hopeful.pick(call, avoid)
        return picked if picked is not None else self._refusal()

    def connection(self) -> Connection | None:
        """A connection that takes a stream now, for what is no call (reflection)."""
        connections = (each.connection() for each in self._endpoints.values())
        return next((each for each in connections if each is not None), None)

    def _overloaded(self) -> Rejection:
        return Reason.OVERLOADED.reject(
            f"{self._most} RPCs of cluster {self.name} are running",
            retry_after=0.1,
            cluster=self.name,
            limit=self._most,
        )

    def _refusal(self) -> Rejection:
        """The same one for a millisecond, unless something changes: callers of a cluster that is away come in floods."""
        if self.held is not None:
            return self.held
        now = self._runtime.clock.monotonic()
        known, until = self._refused
        if known is None or now >= until:
            known = self._explained(now)
            self._refused = known, now + 0.001
        return known

    def _explained(self, now: float) -> Rejection:
        endpoints = self._endpoints.values()
        if len(endpoints) == 1:
            return next(iter(endpoints)).refusal(now)
        open_circuits = [each.vitals.breaker for each in endpoints if each.is_ready and not each.vitals.admits]
        if open_circuits:
            return Reason.CIRCUIT_OPEN.reject(
                f"cluster {self.name}: circuit breakers are open ({self._census()})",
                retry_after=min(each.retry_after(now) for each in open_circuits if each is not None),
                cluster=self.name,
                endpoints=len(endpoints),
            )
        times = [each.retry_at - now for each in endpoints if each.retry_at is not None]
        if any(each.is_ready for each in endpoints):
            why = self._census()
        else:
            causes = sorted({each.last_error for each in endpoints if each.last_error} | set(self._unresolved.values()))
            why = "; ".join(causes) or "no endpoint is known yet"
        return Reason.NO_HEALTHY_ENDPOINT.reject(
            f"cluster {self.name}: none of {len(endpoints)} endpoints can take RPCs: {why}",
            retry_after=max(0.0, min(times)) if times else 1.0,
            cluster=self.name,
            endpoints=len(endpoints),
        )

    def _census(self) -> str:
        """What keeps the endpoints from getting RPCs, counted."""
        found: dict[str, int] = {}
        for each in self._endpoints.values():
            vitals = each.vitals
            state = (
                "not connected"
                if not each.is_ready
                else "unhealthy"
                if not vitals.is_healthy
                else "ejected"
                if vitals.is_ejected
                else "circuit open"
            )
            found[state] = found.get(state, 0) + 1
        return ", ".join(f"{count} {state}" for state, count in sorted(found.items()))

    # ── the set of endpoints ──

    def start(self) -> None:
        """Connect to what is known, look up the rest; both go on in the background."""
        self._show()
        self._apply()
        if any(map(is_name, self._addresses)):
            self._runtime.spawn(self._resolve(), f"resolve {self.name}")

    async def _resolve(self) -> None:
        failed = False
        for address in self._addresses:
            if not is_name(address):
                continue
            try:
                self._resolved[address] = await resolve(address)
                self._unresolved.pop(address, None)
            except OSError as error:
                # What was known before stays: a name server that is down must not take us down.
                failed = True
                reason = f"the name {address.rpartition(':')[0]} is not known"
                if self._unresolved.get(address) != reason:
                    self._runtime.log.warning(
                        "name not resolved", extra={"cluster": self.name, "address": address, "cause": str(error)}
                    )
                self._unresolved[address] = reason
        if self._closed:
            return
        self._apply()
        self._timer = self._runtime.clock.call_later(_RESOLVE_AGAIN if failed else _RESOLVE_EVERY, self._resolve_again)

    def _resolve_again(self) -> None:
        self._runtime.spawn(self._resolve(), f"resolve {self.name}")

    def _apply(self) -> None:
        wanted = {each for address in self._addresses for each in self._resolved.get(address, ())}
        for address in list(self._endpoints.keys() - wanted):
            self._endpoints.pop(address).drain()
        for address in sorted(wanted - self._endpoints.keys()):
            endpoint = self._make_endpoint(
                address,
                cluster=self.name,
                runtime=self._runtime,
                flusher=self._flusher,
                options=self._options,
                connections=self._connections,
                rules=self.rules.endpoint,
                load=self.load,
                may_eject=self._may_eject,
                changed=self._publish,
            )
            self._endpoints[address] = endpoint
            endpoint.connect()
        self._publish()

    def _publish(self) -> None:
        """Something about an endpoint has changed: a new snapshot of those that get RPCs."""
        if self._closed:
            return
        self._refused = None, 0.0
        endpoints = tuple(self._endpoints.values())
        ready = [each for each in endpoints if each.is_ready]
        fit = [each for each in ready if each.vitals.is_fit]
        # Not of all endpoints: that others are unreachable is a fact, and no reason to distrust what is known of these.
        panic = len(fit) * 100 < self.rules.panic_below * len(ready)
        if panic != self.is_panicking:
            self.is_panicking = panic
            self._runtime.log.warning(
                "health and ejection are ignored: too few endpoints are fit"
                if panic
                else "enough endpoints are fit again",
                extra={"cluster": self.name, "fit": len(fit), "connected": len(ready)},
            )
        if self.held is not None:
            endpoints, ready, fit = (), [], []
        chosen = tuple(each for each in (ready if panic else fit) if each.vitals.admits)
        self._only = chosen[0] if len(chosen) == 1 else None
        self._picker = make_picker(
            self.rules.balancing, chosen, self._runtime.random, self._weights(chosen), self._points
        )
        start = self._runtime.random.randrange(1 << 16)
        self._hopeful = RoundRobin(tuple(each for each in endpoints if each.is_hopeful), start)

    def _weights(self, chosen: tuple[Endpoint, ...]) -> tuple[float, ...] | None:
        """What share each endpoint gets while some have only just come; None = all the same."""
        slow_start = self.rules.slow_start
        if slow_start <= 0:
            return None
        now = self._runtime.clock.monotonic()
        self._since = {each: self._since.get(each, now) for each in chosen}
        if self._ramp is not None:
            self._ramp.cancel()
            self._ramp = None
        weights = tuple(
            min(1.0, max(1, int((now - since) * _STEPS / slow_start + 1e-6)) / _STEPS) for since in self._since.values()
        )
        is_level = len(set(weights)) < 2
        # Equally new, or all of them old; those that came at different times part again with a later step.
        if is_level and (not weights or weights[0] == 1.0 or len(set(self._since.values())) == 1):
            return None
        self._ramp = self._runtime.clock.call_later(slow_start / _STEPS, self._publish)
        return weights

    def _may_eject(self, endpoint: Endpoint) -> bool:
        """Can the others do without `endpoint`?"""
        ejected = sum(each.vitals.is_ejected for each in self._endpoints.values())
        if (ejected + 1) * 100 > self.rules.max_ejected_percent * len(self._endpoints):
            return False
        return any(
            each is not endpoint and each.is_ready and each.vitals.is_fit and each.vitals.admits
            for each in self._endpoints.values()
        )

    # ── what is shown ──

    def _show(self) -> None:
        """Gauges that are read at each scrape; a cluster of the same name that comes later takes their place."""
        read = self._runtime.metrics.read
        key = ("cluster", self.name)
        rules = self.rules.endpoint
        if rules.breaker is not None:
            read(names.BREAKER_STATE, lambda: self._each(_breaker_state), key)
        if rules.ejection is not None:
            read(names.ENDPOINT_EJECTED, lambda: self._each(lambda each: each.vitals.is_ejected), key)
        if rules.health is not None:
            read(names.ENDPOINT_HEALTHY, lambda: self._each(_health), key)
        read(names.CLUSTER_ACTIVE, lambda: [((self.name,), self.load.in_flight)] if not self._closed else [], key)
        read(names.CLUSTER_PENDING, lambda: [((self.name,), self.load.pending)] if not self._closed else [], key)
        read(names.CLUSTER_PANIC, lambda: [((self.name,), self.is_panicking)] if not self._closed else [], key)

    def _each(self, value: Callable[[Endpoint], float]) -> list[Sample]:
        if self._closed:
            return []
        return [((self.name, each.address), value(each)) for each in self._endpoints.values()]

    @property
    def scheme(self) -> str:
        return "http" if self._options.context() is None else "https"

    @property
    def parts(self) -> tuple[Cluster, ...]:
        """A cluster of versions has several; this is one."""
        return (self,)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(self._endpoints.values())

    @property
    def unresolved(self) -> dict[str, str]:
        """Names that are not known, and why."""
        return dict(self._unresolved)

    def hold(self, why: Rejection | None) -> None:
        """Refuse every RPC with `why`; None = no longer. What runs goes on."""
        if why != self.held:
            self.held = why
            self._publish()

    def reset(self) -> None:
        """Nobody is reached: dial anew now, not when the backoff is over, and look names up again."""
        for endpoint in self._endpoints.values():
            endpoint.hurry()
        if any(map(is_name, self._addresses)):
            self._resolve_again()

    def renew(self) -> None:
        """Certificates or trust have changed: connections are replaced, their streams finish."""
        for endpoint in self._endpoints.values():
            endpoint.renew()

    def drain(self) -> None:
        """No longer configured: what runs may finish."""
        self._retire()
        for endpoint in self._endpoints.values():
            endpoint.drain()

    def close(self) -> None:
        self._retire()
        for endpoint in self._endpoints.values():
            endpoint.close()

    def _retire(self) -> None:
        self._closed = True
        for timer in (self._timer, self._ramp):
            if timer is not None:
                timer.cancel()


_BREAKER_STATES: dict[BreakerState, int] = {"closed": 0, "half-open": 1, "open": 2}


def _breaker_state(endpoint: Endpoint) -> float:
    breaker = endpoint.vitals.breaker
    return 0 if breaker is None else _BREAKER_STATES[breaker.state]


def _health(endpoint: Endpoint) -> float:
    """1 healthy, 0 unhealthy or not asked yet."""
    return float(endpoint.vitals.is_healthy and not endpoint.vitals.is_unknown)
