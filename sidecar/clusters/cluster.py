"""A named set of endpoints: follows DNS, publishes pickers, outlives reloads that do not change it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.clusters.endpoint import Endpoint
from sidecar.clusters.picker import RoundRobin
from sidecar.clusters.resolve import is_name, resolve
from sidecar.proxy.rejection import Reason, Rejection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.clock import Timer
    from sidecar.clusters.upstream import UpstreamOptions
    from sidecar.http2.connection import Connection
    from sidecar.proxy.call import Call
    from sidecar.runtime import Runtime
    from sidecar.transport.socket import Flusher

_RESOLVE_EVERY = 30.0
_RESOLVE_AGAIN = 1.0


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
        max_pending: int = 1024,
    ) -> None:
        self.name = name
        self._addresses = addresses
        self._runtime = runtime
        self._flusher = flusher
        self._options = options
        self._connections = connections
        self._max_pending = max_pending
        self._endpoints: dict[str, Endpoint] = {}
        self._resolved: dict[str, tuple[str, ...]] = {each: (each,) for each in addresses if not is_name(each)}
        self._unresolved: dict[str, str] = {}
        self._timer: Timer | None = None
        self._closed = False
        # The deliberate fast path of most sidecars: one endpoint, and it is ready.
        self._only: Endpoint | None = None
        self._picker = RoundRobin(())
        self._hopeful = RoundRobin(())

    # ── the data path ──

    def pick(self, call: Call, avoid: Sequence[object] = ()) -> Endpoint | Rejection:
        for _ in avoid:
            picked = self._picker.pick(call)
            if picked is not None and picked not in avoid:
                return picked
        picked = self._only or self._picker.pick(call) or self._hopeful.pick(call)
        return picked if picked is not None else self._refusal()

    def connection(self) -> Connection | None:
        """A connection that takes a stream now, for what is no call (reflection)."""
        connections = (each.connection() for each in self._endpoints.values())
        return next((each for each in connections if each is not None), None)

    def _refusal(self) -> Rejection:
        now = self._runtime.clock.monotonic()
        endpoints = self._endpoints.values()
        if len(endpoints) == 1:
            return next(iter(endpoints)).refusal(now)
        times = [each.retry_at - now for each in endpoints if each.retry_at is not None]
        causes = sorted({each.last_error for each in endpoints if each.last_error} | set(self._unresolved.values()))
        cause = "; ".join(causes) or "no endpoint is known yet"
        return Reason.NO_HEALTHY_ENDPOINT.reject(
            f"cluster {self.name}: none of {len(endpoints)} endpoints can be reached: {cause}",
            retry_after=max(0.0, min(times)) if times else 1.0,
            cluster=self.name,
            endpoints=len(endpoints),
        )

    # ── the set of endpoints ──

    def start(self) -> None:
        """Connect to what is known, look up the rest; both go on in the background."""
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
            endpoint = Endpoint(
                address,
                cluster=self.name,
                runtime=self._runtime,
                flusher=self._flusher,
                options=self._options,
                connections=self._connections,
                max_pending=self._max_pending,
                changed=self._publish,
            )
            self._endpoints[address] = endpoint
            endpoint.connect()
        self._publish()

    def _publish(self) -> None:
        endpoints = self._endpoints.values()
        start = self._runtime.random.randrange(1 << 16)
        ready = tuple(each for each in endpoints if each.is_ready)
        self._only = ready[0] if len(ready) == 1 else None
        self._picker = RoundRobin(ready, start)
        self._hopeful = RoundRobin(tuple(each for each in endpoints if each.is_hopeful), start)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(self._endpoints.values())

    @property
    def unresolved(self) -> dict[str, str]:
        """Names that are not known, and why."""
        return dict(self._unresolved)

    def renew(self) -> None:
        """Certificates or trust have changed: connections are replaced, their streams finish."""
        for endpoint in self._endpoints.values():
            endpoint.renew()

    def drain(self) -> None:
        """No longer configured: what runs may finish."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for endpoint in self._endpoints.values():
            endpoint.drain()

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for endpoint in self._endpoints.values():
            endpoint.close()
