"""A bulkhead: at most so many RPCs of a route at a time; a few more may wait for their turn, the rest is refused at once.

Refusing costs less than serving, and is done before anything is decided, taken or sent. Who waits does so no longer than its deadline,
in the order of arrival; a place that becomes free is handed to the first in the queue, not left to whoever comes next.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pydantic import Field

from sidecar.clock import Turn
from sidecar.config.model import Model
from sidecar.config.units import Duration
from sidecar.proxy.policy import Policy
from sidecar.proxy.rejection import Reason
from sidecar.telemetry import names

if TYPE_CHECKING:
    from sidecar.proxy.call import Call
    from sidecar.proxy.policy import Outcome, Verdict
    from sidecar.proxy.rejection import Rejection
    from sidecar.runtime import Runtime


class QueueConfig(Model):
    """RPCs that wait for a place."""

    max: int = Field(ge=1, le=100_000, description="how many wait at a time")
    wait: Duration = Field(default=1.0, gt=0, le=3600, description="how long each of them waits")


class ConcurrencyLimitConfig(Model):
    """How many RPCs of a route run at a time."""

    max_in_flight: int = Field(ge=1, le=1_000_000, description="RPCs that run at a time")
    queue: QueueConfig | None = Field(default=None, description="let some wait for a place; absent = refused at once")
    shed_above_lag: Duration | None = Field(
        default=None, gt=0, description="refuse new RPCs while the event loop is later than this; absent = never"
    )


class Places:
    """Who is inside, and who waits. Kept over reloads: RPCs of the former generation still have their places."""

    __slots__ = ("queue", "taken")

    def __init__(self) -> None:
        self.taken = 0
        self.queue: deque[Turn] = deque()

    def leave(self) -> None:
        """One goes; the first in the queue has its place."""
        while self.queue:
            turn = self.queue.popleft()
            if turn.give():
                return
        self.taken -= 1


class ConcurrencyLimit(Policy[ConcurrencyLimitConfig]):
    """Takes a place for each call, and gives it back when the call ends."""

    name = "concurrency_limit"
    config_model = ConcurrencyLimitConfig

    def __init__(self, config: ConcurrencyLimitConfig, runtime: Runtime) -> None:
        self._limit = config.max_in_flight
        self._queue = config.queue
        self._shed_above = config.shed_above_lag
        self._runtime = runtime
        self._places = runtime.keep(("concurrency_limit", runtime.listener, runtime.route), Places)
        labels = {"listener": runtime.listener, "route": runtime.route}
        self._refused = runtime.metrics.counter(names.OVERLOADED, cause="limit", **labels)
        self._shed = runtime.metrics.counter(names.OVERLOADED, cause="lag", **labels)
        runtime.metrics.read(
            names.QUEUED,
            lambda: [((runtime.listener, runtime.route), len(self._places.queue))],
            ("concurrency_limit", runtime.listener, runtime.route),
        )

    def on_request(self, call: Call) -> Verdict:
        places = self._places
        if self._shed_above is not None and self._runtime.lag.seconds > self._shed_above:
            return self._too_late(call)
        if places.taken < self._limit and not places.queue:
            if not call.peek:
                places.taken += 1
            return None
        queue = self._queue
        if queue is None or len(places.queue) >= queue.max:
            return self._full(call)
        # Explaining a call takes no place.
        return None if call.peek else self._wait(call, queue)

    def on_end(self, call: Call, outcome: Outcome) -> None:
        self._places.leave()

    async def _wait(self, call: Call, queue: QueueConfig) -> Rejection | None:
        # Not when the verdict was asked for: what is in the queue must run, or nobody would take it out again.
        places = self._places
        if places.taken < self._limit and not places.queue:
            places.taken += 1
            return None
        if len(places.queue) >= queue.max:
            return self._full(call)
        turn = Turn()
        places.queue.append(turn)
        has_it = False
        try:
            has_it = await turn.wait(self._runtime.clock, queue.wait)
        finally:
            if not has_it:
                if turn.is_given:
                    # Its caller went away in the very moment in which its turn came.
                    places.leave()
                elif turn in places.queue:
                    places.queue.remove(turn)
        return None if has_it else self._full(call, queue.wait)

    def _full(self, call: Call, waited: float | None = None) -> Rejection:
        if not call.peek:
            self._refused.inc()
        route = self._runtime.route
        after = "" if waited is None else f", and none ended within {waited:g} s"
        return Reason.OVERLOADED.reject(
            f"{self._limit} RPCs of route {route} are running{after}", retry_after=0.1, route=route, limit=self._limit
        )

    def _too_late(self, call: Call) -> Rejection:
        if not call.peek:
            self._shed.inc()
        route = self._runtime.route
        return Reason.OVERLOADED.reject(
            f"the sidecar is {self._runtime.lag.seconds * 1000:.0f} ms late; route {route} takes no more than "
            f"{(self._shed_above or 0) * 1000:g} ms",
            retry_after=1.0,
            route=route,
        )
