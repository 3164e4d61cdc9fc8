"""Retries, as gRFC A6 has them, decided on the status wherever it stands: in Trailers-Only, or in trailers after headers.

What must not be repeated is not: by default only RPCs with an idempotency key, or of routes marked `idempotent`, are. A budget
keeps a storm from growing: retries are at most a share of the RPCs of the last ten seconds (the idea of Finagle and tower).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from sidecar.config.model import Model
from sidecar.config.units import Duration, FailureCode, Percent, Size
from sidecar.grpc_wire.status import StatusCode
from sidecar.proxy import dispatch
from sidecar.proxy.policy import Policy
from sidecar.proxy.rejection import Reason
from sidecar.telemetry import names

if TYPE_CHECKING:
    from sidecar.proxy.attempt import Attempt
    from sidecar.proxy.call import Call
    from sidecar.proxy.policy import Outcome
    from sidecar.runtime import Runtime

_MOST_ATTEMPTS = 5
_JITTER = 0.2
_PUSHBACK = b"grpc-retry-pushback-ms"
IDEMPOTENCY_KEY = b"idempotency-key"


class RetryBudgetConfig(Model):
    """How much retries may add to the load."""

    percent: Percent = Field(default=20, description="of the RPCs of the last ten seconds")
    min_per_second: float = Field(default=10, ge=0, description="allowed even when there are few RPCs")


class RetryConfig(Model):
    """Repeating RPCs that failed."""

    max_attempts: int = Field(default=4, ge=2, le=_MOST_ATTEMPTS, description="the first one counts")
    on: tuple[FailureCode, ...] = Field(
        default=("UNAVAILABLE",), min_length=1, description="status codes that are worth repeating"
    )
    initial_backoff: Duration = Field(default=1.0, gt=0, description="before the second attempt, ±20 %")
    multiplier: float = Field(default=2.0, ge=1, le=100, description="of the backoff, for each further attempt")
    max_backoff: Duration = Field(default=10.0, gt=0, description="no backoff is longer")
    per_try_timeout: Duration | None = Field(default=None, gt=0, description="what one attempt may take")
    buffer: Size = Field(default=256 * 1024, ge=1024, description="a request that is larger is not repeated")
    budget: RetryBudgetConfig = Field(
        default_factory=RetryBudgetConfig, description="bounds what retries add to the load"
    )
    only_idempotent: bool = Field(
        default=True, description="repeat only RPCs with an idempotency-key, and those of routes marked idempotent"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.initial_backoff > self.max_backoff:
            yield "initial_backoff", "is longer than max_backoff; lower it, or raise max_backoff"


class RetryBudget:
    """Retries of the last ten seconds against RPCs of the last ten seconds, in two buckets of five. Times are monotonic."""

    __slots__ = ("_began", "_floor", "_former", "_now", "_ratio")

    WINDOW = 10.0
    HALF = 5.0

    def __init__(self, ratio: float, min_per_second: float) -> None:
        self._ratio = ratio
        self._floor = min_per_second * self.WINDOW
        # (RPCs, retries) of the bucket that fills and of the one before.
        self._now = [0, 0]
        self._former = [0, 0]
        self._began = 0.0

    def _turn(self, now: float) -> None:
        if now - self._began >= self.HALF:
            self._former = self._now if now - self._began < self.WINDOW else [0, 0]
            self._now = [0, 0]
            self._began = now

    def deposit(self, now: float) -> None:
        """An RPC was sent for the first time."""
        if now - self._began >= self.HALF:
            self._turn(now)
        self._now[0] += 1

    def withdraw(self, now: float) -> bool:
        """May there be one more retry? If so, it is counted."""
        self._turn(now)
        rpcs, retries = self._now[0] + self._former[0], self._now[1] + self._former[1]
        if retries + 1 > max(rpcs * self._ratio, self._floor):
            return False
        self._now[1] += 1
        return True


class Retry(Policy[RetryConfig]):
    """Starts another attempt when one has failed before anything reached the caller."""

    name = "retry"
    config_model = RetryConfig

    def __init__(self, config: RetryConfig, runtime: Runtime) -> None:
        self.replay = config.buffer
        self._runtime = runtime
        self._max_attempts = config.max_attempts
        self._on = frozenset(StatusCode[code] for code in config.on)
        self._initial = config.initial_backoff
        self._multiplier = config.multiplier
        self._longest = config.max_backoff
        self._per_try = config.per_try_timeout
        self._only_idempotent = config.only_idempotent
        budget = config.budget
        self._budget = runtime.keep(
            ("retry", runtime.listener, runtime.route, budget.percent, budget.min_per_second),
            lambda: RetryBudget(budget.percent / 100, budget.min_per_second),
        )
        labels = {"listener": runtime.listener, "route": runtime.route}
        self._started, self._out_of_budget, self._told_not_to = (
            runtime.metrics.counter(names.RETRIES, result=result, **labels)
            for result in ("started", "budget_exhausted", "pushback")
        )

    def on_attempt_start(self, call: Call, attempt: Attempt, now: float) -> None:
        if attempt.number == 0:
            self._budget.deposit(now)
        if self._per_try is not None:
            attempt.bucket = self._runtime.deadlines.add(now + self._per_try, now, attempt)

    def on_attempt_end(self, call: Call, attempt: Attempt, outcome: Outcome) -> bool:
        if outcome.code not in self._on and outcome.reason is not Reason.TRY_TIMEOUT:
            return False
        if call.attempts >= self._max_attempts or not self._may_repeat(call):
            return False
        # Other endpoints are as well as ever: there is nothing to wait for.
        delay = 0.0 if outcome.reason is Reason.VERSION_WITHDRAWN else self._delay(call, attempt)
        if delay is None:
            self._told_not_to.inc()
            return False
        now = self._runtime.clock.monotonic()
        if call.deadline is not None and now + delay >= call.deadline:
            return False
        if not self._budget.withdraw(now):
            self._out_of_budget.inc()
            return False
        self._started.inc()
        dispatch.repeat_after(call, delay)
        return True

    def _may_repeat(self, call: Call) -> bool:
        return (
            not self._only_idempotent
            or call.plan.idempotent
            or call.outlives
            or call.metadata(IDEMPOTENCY_KEY) is not None
        )

    def _delay(self, call: Call, attempt: Attempt) -> float | None:
        """Seconds until the next attempt; None = the agent said not to repeat (gRFC A6, "Pushback")."""
        pushback = attempt.facts.value(_PUSHBACK) if attempt.facts is not None else None
        if pushback is not None:
            # The next backoff after a pushback starts anew.
            call.note("retry", call.attempts)
            return int(pushback) / 1000 if pushback.isdigit() and len(pushback) < 11 else None
        anew = call.notes.get("retry", 0) if call.notes is not None else 0
        backoff = min(self._initial * self._multiplier ** (call.attempts - 1 - anew), self._longest)
        return backoff * self._runtime.random.uniform(1 - _JITTER, 1 + _JITTER)
