"""The circuit breaker of one endpoint: pybreaker keeps the count, our clock keeps the time, and few may probe.

Why not pybreaker alone? It takes its time from the wall clock, notices that its time is over only inside a call, lets any
number of calls through when half-open, and sees calls as functions that run to their end. So it is asked one thing only:
given how the last attempt ended, is the circuit open? While nothing fails it is not even asked.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import Field

from sidecar.clusters.judgement import FAILURE_CODES
from sidecar.config.model import Model
from sidecar.config.units import Duration, FailureCode

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from sidecar.clock import Clock, Timer

BreakerState: TypeAlias = Literal["closed", "half-open", "open"]

CLOSED: BreakerState = "closed"
HALF_OPEN: BreakerState = "half-open"
OPEN: BreakerState = "open"

_LONGEST = 10
"""An open circuit is probed at least after so many times `open_for`."""


class CircuitBreakerConfig(Model):
    """When an endpoint that fails gets no RPCs for a while."""

    failure_threshold: int = Field(default=5, ge=1, le=10_000, description="failures in a row that open the circuit")
    success_threshold: int = Field(default=2, ge=1, le=10_000, description="successes in a row that close it again")
    open_for: Duration = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="until the first probe; doubles with each probe that fails, up to 10 times",
    )
    half_open_max: int = Field(default=1, ge=1, le=1000, description="probes at a time")
    failure_codes: tuple[FailureCode, ...] = Field(
        default=FAILURE_CODES, min_length=1, description="what counts as a failure of the endpoint"
    )


class _Failed(Exception):
    """How pybreaker learns of a failure."""


def _succeed() -> None:
    """How pybreaker learns of a success."""


def _fail() -> None:
    raise _Failed


class Breaker:
    """`admits` says whether an attempt may start; `started` and `record` tell what became of it. `changed` hears of each change.

    `changed(before)` is called after the state has changed, and, with `before` equal to the state, when a place for a probe
    was taken or became free.
    """

    __slots__ = (
        "_changed",
        "_clock",
        "_config",
        "_machine",
        "_opened",
        "_probes",
        "_timer",
        "is_troubled",
        "probes_at",
        "state",
    )

    def __init__(self, config: CircuitBreakerConfig, clock: Clock, changed: Callable[[BreakerState], None]) -> None:
        # Not above: with redis installed pybreaker imports it, and only a configured breaker is worth that.
        from pybreaker import CircuitBreaker

        self._config = config
        self._clock = clock
        self._changed = changed
        self._machine = CircuitBreaker(
            fail_max=config.failure_threshold,
            success_threshold=config.success_threshold,
            throw_new_error_on_trip=False,
        )
        self.state: BreakerState = CLOSED
        # Closed, and not without failures: successes need to be told.
        self.is_troubled = False
        # Attempts that probe, with when they began.
        self._probes: dict[Hashable, float] = {}
        # How often it has opened in a row without having closed.
        self._opened = 0
        # When an open circuit is probed, in monotonic seconds.
        self.probes_at: float | None = None
        self._timer: Timer | None = None

    @property
    def admits(self) -> bool:
        """May an attempt start now?"""
        if self.state is HALF_OPEN:
            return len(self._probes) < self._config.half_open_max
        return self.state is CLOSED

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return int(self._machine.fail_counter)

    def retry_after(self, now: float) -> float:
        """Seconds until there is something to be hoped for."""
        return max(0.1, self.probes_at - now) if self.probes_at is not None else 0.1

    def started(self, attempt: Hashable) -> None:
        """`attempt` has been sent. While half-open it is a probe, and takes a place."""
        if self.state is HALF_OPEN:
            self._probes[attempt] = self._clock.monotonic()
            if self._timer is None:
                self._timer = self._clock.call_later(self._config.open_for, self._forget_slow_probes)
            self._changed(self.state)

    def record(self, attempt: Hashable, failed: bool | None) -> None:
        """`attempt` has ended: well, in failure, or (None) in a way that says nothing of the endpoint."""
        if self.state is CLOSED:
            if failed:
                self.is_troubled = True
                self._tell(_fail)
            elif self.is_troubled and failed is not None:
                self.is_troubled = False
                self._tell(_succeed)
        elif attempt in self._probes:
            del self._probes[attempt]
            if failed is not None:
                self._tell(_fail if failed else _succeed)
            if self.state is HALF_OPEN:
                self._changed(self.state)
        # What ends now and began before the circuit opened is no news.

    def close(self) -> None:
        """It is no longer wanted."""
        self._stop_timer()

    def _tell(self, outcome: Callable[[], None]) -> None:
        with suppress(_Failed):
            self._machine.call(outcome)
        state = self._machine.current_state
        if state == self.state:
            return
        if state == OPEN:
            self._open()
        else:
            self._enter(CLOSED)

    def _open(self) -> None:
        self._opened += 1
        seconds = self._config.open_for * min(2 ** min(self._opened - 1, 10), _LONGEST)
        self.probes_at = self._clock.monotonic() + seconds
        self._enter(OPEN)
        self._timer = self._clock.call_later(seconds, self._half_open)

    def _half_open(self) -> None:
        self._machine.half_open()
        self.probes_at = None
        self._enter(HALF_OPEN)

    def _enter(self, state: BreakerState) -> None:
        before, self.state = self.state, state
        self._stop_timer()
        self._probes.clear()
        self.is_troubled = False
        if state is CLOSED:
            self._opened = 0
        self._changed(before)

    def _forget_slow_probes(self) -> None:
        """A probe may be a stream that runs for hours: after `open_for` it no longer keeps others from probing."""
        now = self._clock.monotonic()
        self._timer = None
        slow = [each for each, began in self._probes.items() if now - began >= self._config.open_for]
        for each in slow:
            del self._probes[each]
        if self._probes:
            oldest = min(self._probes.values())
            self._timer = self._clock.call_later(oldest + self._config.open_for - now, self._forget_slow_probes)
        if slow:
            self._changed(self.state)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
