"""Hedging (gRFC A6): when an answer is slow, ask a second endpoint as well; the first good answer wins, the others are cancelled.

An RPC that may be executed twice is what hedging is for, so it works only where the route is marked `idempotent` or the caller
sent an idempotency key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sidecar.config.model import Model
from sidecar.config.units import Duration, FailureCode, Size
from sidecar.grpc_wire.status import StatusCode
from sidecar.proxy import dispatch
from sidecar.proxy.policy import Policy
from sidecar.telemetry import names

if TYPE_CHECKING:
    from sidecar.proxy.attempt import Attempt
    from sidecar.proxy.call import Call
    from sidecar.proxy.policy import Outcome
    from sidecar.runtime import Runtime

_PUSHBACK = b"grpc-retry-pushback-ms"
_KEY = b"idempotency-key"


class HedgeConfig(Model):
    """Further attempts beside a slow one."""

    max_attempts: int = Field(default=2, ge=2, le=5, description="the first one counts")
    delay: Duration = Field(default=0.2, ge=0, description="between the starts of attempts")
    non_fatal: tuple[FailureCode, ...] = Field(
        default=("UNAVAILABLE",), description="codes that do not end the RPC but start the next attempt at once"
    )
    buffer: Size = Field(default=256 * 1024, ge=1024, description="a request that is larger goes to one endpoint only")


class Hedge(Policy[HedgeConfig]):
    """Starts attempts by the clock, and at once when one fails in a way that another endpoint may not."""

    name = "hedge"
    config_model = HedgeConfig

    def __init__(self, config: HedgeConfig, runtime: Runtime) -> None:
        self.replay = config.buffer
        self._runtime = runtime
        self._max_attempts = config.max_attempts
        self._delay = config.delay
        self._non_fatal = frozenset(StatusCode[code] for code in config.non_fatal)
        self._started = runtime.metrics.counter(names.HEDGES, listener=runtime.listener, route=runtime.route)

    def on_attempt_start(self, call: Call, attempt: Attempt, now: float) -> None:
        if call.plan.idempotent or call.outlives or call.metadata(_KEY) is not None:
            self._arm(call, self._delay)

    def _arm(self, call: Call, delay: float) -> None:
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None
        if call.attempts < self._max_attempts:
            call.timer = self._runtime.clock.call_later(delay, lambda: self._next(call))

    def _next(self, call: Call) -> None:
        call.timer = None
        if call.ended or call.responded or call.replay is None or call.attempts >= self._max_attempts:
            return
        # An attempt that is being answered is about to win.
        if any(each.held is not None for each in (call.attempt, *(call.hedges or ())) if each is not None):
            return
        call.tried = [*(call.tried or ()), *(each.endpoint for each in (call.attempt, *(call.hedges or ())) if each)]
        if dispatch.hedge(call):
            self._started.inc()

    def on_attempt_end(self, call: Call, attempt: Attempt, outcome: Outcome) -> bool:
        if outcome.code not in self._non_fatal:
            return False
        if not (call.plan.idempotent or call.outlives or call.metadata(_KEY) is not None):
            return False
        pushback = attempt.facts.value(_PUSHBACK) if attempt.facts is not None else None
        if pushback is not None and not pushback.isdigit():
            # gRFC A6: no further hedges; those that run go on.
            if call.timer is not None:
                call.timer.cancel()
                call.timer = None
        elif pushback is not None:
            self._arm(call, int(pushback) / 1000)
        else:
            if call.timer is not None:
                call.timer.cancel()
            self._next(call)
        is_running = call.attempt is not None and not call.attempt.over
        return is_running or call.timer is not None
