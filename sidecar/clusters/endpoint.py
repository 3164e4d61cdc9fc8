"""One address: its connections, the attempts that wait for one, and whether it should get any.

What keeps an endpoint from getting RPCs is decided when something changes, never when one is picked: the cluster then publishes a
new picker without it. Streams that run are left alone by all of it.
"""

from __future__ import annotations

import ssl
from collections import deque
from typing import TYPE_CHECKING

from sidecar.clusters.upstream import UntrustedPeer, Upstream, plain_reason
from sidecar.clusters.vitals import Vitals
from sidecar.grpc_wire.status import SERVER_FAULTS
from sidecar.proxy import dispatch
from sidecar.proxy.attempt import OK_BY_AGENT, Attempt
from sidecar.proxy.rejection import Reason, Rejection

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clock import Timer
    from sidecar.clusters.concurrency import Load
    from sidecar.clusters.upstream import UpstreamOptions
    from sidecar.clusters.vitals import EndpointRules
    from sidecar.http2.connection import Connection
    from sidecar.http2.stream import Stream
    from sidecar.proxy.policy import Outcome
    from sidecar.runtime import Runtime
    from sidecar.transport.socket import Flusher

_FIRST_BACKOFF = 0.1
_BACKOFF_FACTOR = 1.6
_LONGEST_BACKOFF = 5.0
_JITTER = 0.2
_PROVEN = _FIRST_BACKOFF
"""Seconds that a connection must live; one that ends sooner, after another such one, is as good as none.

Those that live longer bound the rate by themselves: an agent may well replace its connections by their age.
"""


class Endpoint:
    """One address of a cluster. It connects at once and reconnects by itself, with backoff, until it is closed."""

    __slots__ = (
        "_backoff",
        "_changed",
        "_closed",
        "_connecting",
        "_current",
        "_flusher",
        "_load",
        "_options",
        "_runtime",
        "_severed",
        "_short_lived",
        "_timer",
        "_upstreams",
        "_waiting",
        "_wanted",
        "address",
        "cluster",
        "ended",
        "failed",
        "in_flight",
        "last_error",
        "load",
        "retry_at",
        "severed",
        "vitals",
    )

    attempt_type: type[Attempt] = Attempt

    def __init__(
        self,
        address: str,
        *,
        cluster: str,
        runtime: Runtime,
        flusher: Flusher,
        options: UpstreamOptions,
        connections: int,
        rules: EndpointRules,
        load: Load,
        may_eject: Callable[[Endpoint], bool],
        changed: Callable[[], None],
    ) -> None:
        self.address = address
        self.cluster = cluster
        # Attempts that run; `load` counts recent failures as well, where that matters.
        self.in_flight = 0
        self.load = 0
        # Attempts that have ended here, and those of them that ended with a code that is the server's fault.
        self.ended = 0
        self.failed = 0
        self.last_error: str | None = None
        self.retry_at: float | None = None
        self._runtime = runtime
        self._flusher = flusher
        self._options = options
        self._wanted = connections
        self._load = load
        self._changed = changed
        self._upstreams: list[Upstream] = []
        self._current: Connection | None = None
        self._connecting = 0
        self._waiting: deque[Attempt] = deque()
        self._backoff = 0.0
        # Connections in a row that ended as soon as they were made.
        self._short_lived = 0
        self._timer: Timer | None = None
        self._closed = False
        # A drill refuses its connections; `severed`: how many it has taken or refused since.
        self._severed = False
        self.severed = 0
        self.vitals = Vitals(self, rules, options, runtime, may_eject=may_eject, changed=self._fares_differently)

    # ── the data path ──

    @property
    def is_ready(self) -> bool:
        """Connected, and known to be healthy or not."""
        return self._current is not None

    @property
    def is_hopeful(self) -> bool:
        """Not ready, but on its way, and nothing has gone wrong: worth waiting for."""
        if self._closed or self._current is not None or self.last_error is not None:
            return False
        return self._connecting + self._alive() > 0

    def connection(self) -> Connection | None:
        current = self._current
        if current is not None and current.is_open:
            return current
        if self.vitals.is_unknown:
            return None
        for upstream in self._upstreams:
            candidate = upstream.connection
            if upstream.ready and candidate is not None and candidate.is_open:
                self._current = candidate
                return candidate
        return None

    def enqueue(self, attempt: Attempt) -> Rejection | None:
        """Wait for a connection, or for a stream to end where the peer's MAX_CONCURRENT_STREAMS is reached; bounded."""
        load = self._load
        if load.pending >= load.max_pending:
            # Those whose call has ended meanwhile take no place.
            self._forget_ended()
        if self._closed or not self.vitals.admits:
            return self.refusal(self._runtime.clock.monotonic())
        if load.pending >= load.max_pending:
            return Reason.OVERLOADED.reject(
                f"{load.max_pending} RPCs of cluster {self.cluster} wait for a connection already",
                retry_after=0.1,
                cluster=self.cluster,
                endpoint=self.address,
                limit=load.max_pending,
            )
        load.pending += 1
        self._waiting.append(attempt)
        return None

    def started(self, attempt: Attempt) -> None:
        self.in_flight += 1
        self.load += 1
        self._load.in_flight += 1
        if self.vitals.is_probing:
            self.vitals.started(attempt)

    def finished(self, attempt: Attempt, outcome: Outcome) -> None:
        self.in_flight -= 1
        self.load -= 1
        self._load.in_flight -= 1
        self.ended += 1
        if outcome is OK_BY_AGENT:
            # The deliberate fast path: an endpoint that serves well.
            if self.vitals.is_judged:
                self.vitals.served(attempt)
        else:
            if outcome.code in SERVER_FAULTS:
                self.failed += 1
            self.vitals.failed(attempt, outcome)
        if self._waiting:
            # Not now: the engine still counts the stream that is just ending.
            self._runtime.clock.call_later(0, self._launch_waiting)

    def _launch_waiting(self) -> None:
        while self._waiting and self.vitals.admits:
            connection = self.connection()
            if connection is None:
                return
            attempt = self._waiting.popleft()
            self._load.pending -= 1
            if not attempt.over:
                attempt.launch(connection, self._runtime.clock.monotonic())

    def _forget_ended(self) -> None:
        waiting = deque(each for each in self._waiting if not each.over)
        self._load.pending -= len(self._waiting) - len(waiting)
        self._waiting = waiting

    def _refuse_waiting(self) -> None:
        """Nothing can be sent here for now: who waits goes where others go, or is told that there is no such place."""
        waiting, self._waiting = self._waiting, deque()
        self._load.pending -= len(waiting)
        for attempt in waiting:
            if not attempt.over:
                attempt.leave()
                attempt.call.attempts -= 1
                dispatch.repeat_after(attempt.call, 0)

    def _fares_differently(self) -> None:
        """Its breaker, its ejection or its health has changed."""
        if self._current is None and not self.vitals.is_unknown:
            self._current = next((each.connection for each in self._upstreams if each.ready), None)
        self._changed()
        if not self.vitals.is_healthy:
            self._refuse_waiting()
        elif self._waiting:
            self._launch_waiting()

    def refusal(self, now: float) -> Rejection:
        """Why nothing can be sent here now."""
        if self._current is not None:
            refused = self.vitals.refusal(now)
            if refused is not None:
                return refused
        retry_after = None if self.retry_at is None else max(0.0, self.retry_at - now)
        return Reason.UPSTREAM_LOST.reject(
            f"cannot connect to {self.address}: {self.last_error or 'not connected yet'}",
            retry_after=retry_after,
            endpoint=self.address,
            cause=self.last_error or "",
        )

    # ── connecting ──

    def connect(self) -> None:
        """See to it that as many connections as wanted exist or are on their way."""
        self._timer = None
        while not self._closed and self._connecting + self._alive() < self._wanted:
            self._connecting += 1
            self._runtime.spawn(self._connect(), f"connect {self.address}")

    def hurry(self) -> None:
        """There is reason to believe that it is back: connect now, not when the backoff is over."""
        if self._timer is not None:
            self._timer.cancel()
        self._backoff = 0.0
        self.connect()

    def streams(self) -> list[Stream]:
        """What is open here now, whoever opened it."""
        found = (each.connection for each in self._upstreams)
        return [stream for each in found if each is not None for stream in each.streams.values()]

    def _alive(self) -> int:
        return sum(1 for each in self._upstreams if each.connection is not None and not each.connection.is_spent)

    async def _connect(self) -> None:
        if self._severed:
            self._connecting -= 1
            self.severed += 1
            self._failed("cut off by a drill")
            return
        upstream = Upstream(
            self._runtime,
            self._flusher,
            self._options,
            on_ready=self._ready,
            on_spent=self._spent,
            on_gone=self._gone,
        )
        self._upstreams.append(upstream)
        try:
            await upstream.connect(self.address)
        except (OSError, ssl.SSLError, UntrustedPeer) as error:
            self._connecting -= 1
            if upstream in self._upstreams:
                self._upstreams.remove(upstream)
            self._failed(plain_reason(error))
        else:
            self._connecting -= 1
            if self._closed or self._severed:
                upstream.close()

    def _failed(self, reason: str) -> None:
        if self._closed:
            return
        if reason != self.last_error:
            self._runtime.log.warning(
                "upstream unreachable", extra={"cluster": self.cluster, "endpoint": self.address, "cause": reason}
            )
        self.last_error = reason
        self._backoff = min(max(self._backoff * _BACKOFF_FACTOR, _FIRST_BACKOFF), _LONGEST_BACKOFF)
        delay = self._backoff * self._runtime.random.uniform(1 - _JITTER, 1 + _JITTER)
        self.retry_at = self._runtime.clock.monotonic() + delay
        if self._timer is None:
            self._timer = self._runtime.clock.call_later(delay, self._retry)
        self._changed()
        if not self.is_ready:
            self._refuse_waiting()

    def _retry(self) -> None:
        self._timer = None
        self.connect()

    def _ready(self, upstream: Upstream) -> None:
        if self.last_error is not None:
            self._runtime.log.info("upstream reachable", extra={"cluster": self.cluster, "endpoint": self.address})
        self.last_error = None
        self.retry_at = None
        self.vitals.follow(upstream.connection)
        if not self.vitals.is_unknown:
            self._current = upstream.connection
        self._changed()
        self._launch_waiting()

    def _spent(self, upstream: Upstream) -> None:
        """GOAWAY: streams there go on, new ones wait for another connection."""
        self._reconnect(upstream)
        self._forget_current(upstream)

    def _reconnect(self, upstream: Upstream) -> None:
        """`upstream` was ready and takes no more: another one at once, unless they all end as soon as they are made."""
        if self._closed or self._connecting + self._alive() >= self._wanted:
            return
        if self._runtime.clock.monotonic() - upstream.ready_at >= _PROVEN:
            self._short_lived = 0
            self._backoff = 0.0
        else:
            self._short_lived += 1
        if self._short_lived < 2:
            self.connect()
        else:
            # What waits must learn of it, so this one must not count as ready.
            self._forget_current(upstream)
            self._failed("connections end as soon as they are made")

    def _gone(self, upstream: Upstream) -> None:
        was_ready = upstream.connection is not None and upstream.connection.got_settings
        if upstream in self._upstreams:
            self._upstreams.remove(upstream)
        if was_ready:
            self._reconnect(upstream)
        self._forget_current(upstream)
        if not was_ready:
            self._failed("the connection was closed before it was ready")

    def _forget_current(self, upstream: Upstream) -> None:
        other = next((each for each in reversed(self._upstreams) if each.ready and each is not upstream), None)
        # A watch that went on would keep the connection from ending.
        self.vitals.follow(None if other is None else other.connection)
        if self._current is upstream.connection:
            self._current = None if other is None else other.connection
            self._changed()

    def renew(self) -> None:
        """New certificates or trust: dial anew, let the streams of the old connections finish once the new one is ready."""
        old = [each for each in self._upstreams if each.ready]
        if old:
            self._runtime.spawn(self._replace(old), f"renew {self.address}")

    def sever(self) -> None:
        """As if the network to it were gone: connections are lost at once, new ones refused, until `mend`."""
        self._severed = True
        self.severed = len(self._upstreams)
        for upstream in list(self._upstreams):
            upstream.close()

    def mend(self) -> None:
        if self._severed:
            self._severed = False
            self.hurry()

    async def _replace(self, old: list[Upstream]) -> None:
        def ready(upstream: Upstream) -> None:
            self._ready(upstream)
            self._current = upstream.connection
            while old:
                # Taken out: this one must not keep its predecessor, and so on back to the first.
                old.pop().drain()

        upstream = Upstream(
            self._runtime, self._flusher, self._options, on_ready=ready, on_spent=self._spent, on_gone=self._gone
        )
        self._upstreams.append(upstream)
        try:
            await upstream.connect(self.address)
        except (OSError, ssl.SSLError, UntrustedPeer) as error:
            if upstream in self._upstreams:
                self._upstreams.remove(upstream)
            self._runtime.log.warning(
                "upstream connection not renewed, the old one stays",
                extra={"cluster": self.cluster, "endpoint": self.address, "cause": plain_reason(error)},
            )

    def drain(self) -> None:
        """No longer part of the cluster: finish what runs, connect no more."""
        self._retire()
        self._refuse_waiting()
        for upstream in list(self._upstreams):
            upstream.drain()

    def close(self) -> None:
        """End at once."""
        self._retire()
        for upstream in list(self._upstreams):
            upstream.close()

    def _retire(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.vitals.close()
