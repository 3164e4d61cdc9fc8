"""Fault injection (gRFC A33): delays and aborts of a share of the RPCs, to see what callers make of them.

Both are drawn with numbers of their own, before anything goes to the agent. A caller may ask for faults by metadata only where the
configuration says so, and never for a larger share than configured. `max_active` bounds how many calls are held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from sidecar.clock import sleep
from sidecar.config.model import Model
from sidecar.config.units import Duration, FailureCode, Percent
from sidecar.grpc_wire.status import StatusCode
from sidecar.proxy.policy import Policy
from sidecar.proxy.rejection import Reason, Rejection
from sidecar.telemetry import names

if TYPE_CHECKING:
    from sidecar.proxy.call import Call
    from sidecar.proxy.policy import Verdict
    from sidecar.runtime import Runtime

_DELAY = b"x-fault-delay-ms"
_ABORT = b"x-fault-abort"


class DelayConfig(Model):
    """Calls that wait."""

    percent: Percent = Field(description="share of the RPCs")
    length: Duration = Field(alias="for", gt=0, le=600, description="how long they wait")


class AbortConfig(Model):
    """Calls that fail."""

    percent: Percent = Field(description="share of the RPCs")
    status: FailureCode = Field(default="UNAVAILABLE", description="with which code")


class FaultConfig(Model):
    """Faults to inject."""

    delay: DelayConfig | None = Field(default=None, description="hold a share of the RPCs")
    abort: AbortConfig | None = Field(default=None, description="fail a share of the RPCs")
    by_metadata: bool = Field(
        default=False,
        description="only RPCs that ask for it, by x-fault-delay-ms and x-fault-abort; of those the configured shares, and no longer delays",
    )
    max_active: int = Field(default=100, ge=1, description="RPCs that are held at a time; more pass at once")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.delay is None and self.abort is None:
            yield "delay", "is missing, and so is abort; give at least one"


class _Active:
    """How many calls are held now."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class Fault(Policy[FaultConfig]):
    """Draws for each call whether it waits, and whether it fails."""

    name = "fault"
    config_model = FaultConfig

    def __init__(self, config: FaultConfig, runtime: Runtime) -> None:
        self._delay = config.delay
        self._abort = config.abort
        self._by_metadata = config.by_metadata
        self._max_active = config.max_active
        self._runtime = runtime
        self._active = runtime.keep(("fault", runtime.listener, runtime.route), _Active)
        labels = {"listener": runtime.listener, "route": runtime.route}
        self._delayed = runtime.metrics.counter(names.FAULTS, kind="delay", **labels)
        self._aborted = runtime.metrics.counter(names.FAULTS, kind="abort", **labels)

    def on_request(self, call: Call) -> Verdict:
        if call.peek:
            return None
        seconds = self._draw_delay(call)
        rejection = self._draw_abort(call)
        if seconds > 0 and self._active.value < self._max_active:
            self._delayed.inc()
            return self._later(seconds, rejection)
        return rejection

    async def _later(self, seconds: float, rejection: Rejection | None) -> Rejection | None:
        self._active.value += 1
        try:
            await sleep(self._runtime.clock, seconds)
        finally:
            self._active.value -= 1
        return rejection

    def _draw_delay(self, call: Call) -> float:
        config = self._delay
        if config is None or self._runtime.random.random() * 100 >= config.percent:
            return 0.0
        if not self._by_metadata:
            return config.length
        asked = call.metadata(_DELAY)
        # gRFC A33: what does not parse is ignored.
        return (
            min(int(asked) / 1000, config.length) if asked is not None and asked.isdigit() and len(asked) < 8 else 0.0
        )

    def _draw_abort(self, call: Call) -> Rejection | None:
        config = self._abort
        if config is None or self._runtime.random.random() * 100 >= config.percent:
            return None
        name = config.status
        if self._by_metadata:
            asked = (call.metadata_text(_ABORT) or "").upper()
            if asked not in StatusCode.__members__ or asked == "OK":
                return None
            name = asked
        self._aborted.inc()
        return Reason.FAULT_INJECTED.reject(
            f"route {self._runtime.route} injects {name} into {config.percent:g} % of its RPCs",
            code=StatusCode[name],
            route=self._runtime.route,
        )
