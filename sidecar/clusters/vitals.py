"""How one endpoint fares: circuit breaker, ejection, health, and what its failures cost it. All of it is optional.

Here meet the parts that each know one thing; what they decide is logged, counted, and told to the cluster, which publishes a new
picker.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.clusters.breaker import CLOSED, HALF_OPEN, OPEN, Breaker
from sidecar.clusters.ejection import Ejection
from sidecar.clusters.health import Health
from sidecar.clusters.judgement import FAILURE_CODES, judged
from sidecar.grpc_wire.status import StatusCode
from sidecar.proxy.dispatch import REFUSED
from sidecar.proxy.rejection import Reason
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clock import Timer
    from sidecar.clusters.breaker import BreakerState, CircuitBreakerConfig
    from sidecar.clusters.ejection import OutlierEjectionConfig
    from sidecar.clusters.endpoint import Endpoint
    from sidecar.clusters.health import HealthCheckConfig
    from sidecar.clusters.upstream import UpstreamOptions
    from sidecar.http2.connection import Connection
    from sidecar.proxy.attempt import Attempt
    from sidecar.proxy.policy import Outcome
    from sidecar.proxy.rejection import Rejection
    from sidecar.runtime import Runtime

_PENALTY = 5.0
"""Seconds for which a failed attempt counts as load, where the least loaded endpoint is chosen (Linkerd's figure)."""
_PENALTY_STEP = 0.5
_FAILURES = frozenset(StatusCode[name] for name in FAILURE_CODES)


@dataclass(frozen=True, slots=True)
class EndpointRules:
    """What a cluster demands of its endpoints."""

    breaker: CircuitBreakerConfig | None = None
    ejection: OutlierEjectionConfig | None = None
    health: HealthCheckConfig | None = None
    penalises: bool = False
    """Failures count as load (`Endpoint.load`) for a while."""


class Vitals:
    """Of one endpoint. `changed` is called when it may now get RPCs and could not before, or the other way round."""

    __slots__ = (
        "_breaker_codes",
        "_cause",
        "_changed",
        "_ejection_codes",
        "_endpoint",
        "_lost",
        "_penalises",
        "_penalties",
        "_penalty_timer",
        "_runtime",
        "breaker",
        "ejection",
        "health",
        "is_judged",
        "tripped_by",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        rules: EndpointRules,
        options: UpstreamOptions,
        runtime: Runtime,
        *,
        may_eject: Callable[[Endpoint], bool],
        changed: Callable[[], None],
    ) -> None:
        clock = runtime.clock
        self._endpoint = endpoint
        self._runtime = runtime
        self._changed = changed
        self.breaker: Breaker | None = None
        self.ejection: Ejection | None = None
        self.health: Health | None = None
        if rules.breaker is not None:
            self.breaker = Breaker(rules.breaker, clock, self._breaker_changed)
        if rules.ejection is not None:
            self.ejection = Ejection(
                rules.ejection, clock, may_eject=lambda: may_eject(endpoint), changed=self._ejection_changed
            )
        if rules.health is not None and rules.health.mode != "off":
            is_unix = endpoint.address.startswith("unix:")
            self.health = Health(
                rules.health,
                authority=options.server_name or ("localhost" if is_unix else endpoint.address),
                scheme="http" if options.context() is None else "https",
                clock=clock,
                rng=runtime.random,
                changed=self._health_changed,
                passed=self._health_passed,
                warn=lambda text: self._tell(text, {}, is_bad=True),
            )
        self._breaker_codes = _codes(rules.breaker)
        self._ejection_codes = _codes(rules.ejection)
        self.is_judged = rules.breaker is not None or rules.ejection is not None
        self._penalises = rules.penalises
        # (when it ends, how many), oldest first.
        self._penalties: deque[tuple[float, int]] = deque()
        self._penalty_timer: Timer | None = None
        # The RPC whose end is being judged, the one that tripped the breaker, and the connection that was lost last.
        self._cause: tuple[Attempt, StatusCode | None] | None = None
        self.tripped_by: dict[str, str] | None = None
        self._lost: Connection | None = None

    # ── may it get RPCs? ──

    @property
    def is_unknown(self) -> bool:
        """Is its health checked, and the first answer still to come? Then it is still connecting (gRFC A17)."""
        return self.health is not None and self.health.verdict is None

    @property
    def is_healthy(self) -> bool:
        return self.health is None or self.health.verdict is not False

    @property
    def is_ejected(self) -> bool:
        return self.ejection is not None and self.ejection.is_ejected

    @property
    def is_fit(self) -> bool:
        """Neither unhealthy nor ejected."""
        return self.is_healthy and not self.is_ejected

    @property
    def admits(self) -> bool:
        """Does its circuit breaker let an attempt through?"""
        return self.breaker is None or self.breaker.admits

    @property
    def is_probing(self) -> bool:
        return self.breaker is not None and self.breaker.state is HALF_OPEN

    def refusal(self, now: float) -> Rejection | None:
        """Why it gets no RPC although it is connected; None = it may have one."""
        address, cluster = self._endpoint.address, self._endpoint.cluster
        breaker, health = self.breaker, self.health
        if breaker is not None and not breaker.admits:
            return Reason.CIRCUIT_OPEN.reject(
                f"the circuit breaker of {address} is {breaker.state}",
                retry_after=breaker.retry_after(now),
                cluster=cluster,
                endpoint=address,
                state=breaker.state,
            )
        if health is not None and not self.is_healthy:
            return Reason.NO_HEALTHY_ENDPOINT.reject(
                f"{address} is not healthy: {health.why}",
                retry_after=1.0,
                cluster=cluster,
                endpoint=address,
                cause=health.why,
            )
        return None

    def follow(self, connection: Connection | None) -> None:
        """RPCs go over `connection` now: what is asked of the endpoint's health is asked there."""
        if self.health is not None:
            self.health.follow(connection)

    def close(self) -> None:
        """It is no longer wanted: no timer stays."""
        for each in (self.breaker, self.ejection, self.health):
            if each is not None:
                each.close()
        if self._penalty_timer is not None:
            self._penalty_timer.cancel()
            self._penalty_timer = None

    # ── what becomes of attempts ──

    def started(self, attempt: Attempt) -> None:
        """Only while the breaker is half-open: `attempt` is a probe."""
        if self.breaker is not None:
            self.breaker.started(attempt)

    def served(self, attempt: Attempt) -> None:
        """`attempt` has ended with OK."""
        if self.ejection is not None:
            self.ejection.succeeded(attempt.connection.now)
        breaker = self.breaker
        if breaker is not None and (breaker.is_troubled or breaker.state is not CLOSED):
            self._record(breaker, attempt, StatusCode.OK)

    def failed(self, attempt: Attempt, outcome: Outcome) -> None:
        """`attempt` has ended with anything but OK."""
        if not self.is_judged and not self._penalises:
            return
        now = self._runtime.clock.monotonic()
        code = judged(attempt, outcome, now)
        if code is not None and outcome.reason is Reason.UPSTREAM_LOST:
            # A connection that is lost is one failure, however many streams it carried.
            if attempt.connection is self._lost:
                code = None
            self._lost = attempt.connection
        if self._penalises and (code in _FAILURES or outcome is REFUSED):
            self._penalise(now)
        if self.ejection is not None and code is not None:
            if code in self._ejection_codes:
                self._cause = (attempt, code)
                self.ejection.failed(now)
                self._cause = None
            else:
                self.ejection.succeeded(now)
        if self.breaker is not None:
            self._record(self.breaker, attempt, code)

    def _record(self, breaker: Breaker, attempt: Attempt, code: StatusCode | None) -> None:
        self._cause = (attempt, code)
        breaker.record(attempt, None if code is None else code in self._breaker_codes)
        self._cause = None

    def _penalise(self, now: float) -> None:
        self._endpoint.load += 1
        penalties = self._penalties
        if penalties and penalties[-1][0] > now + _PENALTY - _PENALTY_STEP:
            penalties[-1] = (penalties[-1][0], penalties[-1][1] + 1)
        else:
            penalties.append((now + _PENALTY, 1))
        if self._penalty_timer is None:
            self._penalty_timer = self._runtime.clock.call_later(_PENALTY, self._forgive)

    def _forgive(self) -> None:
        now = self._runtime.clock.monotonic()
        penalties = self._penalties
        while penalties and penalties[0][0] <= now:
            self._endpoint.load -= penalties.popleft()[1]
        self._penalty_timer = None
        if penalties:
            self._penalty_timer = self._runtime.clock.call_later(penalties[0][0] - now, self._forgive)

    # ── what has changed ──

    def _breaker_changed(self, before: BreakerState) -> None:
        breaker = self.breaker
        assert breaker is not None
        if breaker.state != before:
            extra: dict[str, object] = {"from": before, "to": breaker.state, **self._rpc()}
            if breaker.probes_at is not None:
                extra["seconds"] = round(breaker.probes_at - self._runtime.clock.monotonic(), 3)
            if breaker.state is OPEN:
                self.tripped_by = self._rpc()
            self._tell("circuit breaker", extra, is_bad=breaker.state is OPEN)
            self._count(names.BREAKER_CHANGES, state=breaker.state)
        self._changed()

    def _ejection_changed(self) -> None:
        ejection = self.ejection
        assert ejection is not None
        if ejection.until is not None:
            seconds = round(ejection.until - self._runtime.clock.monotonic(), 3)
            self._tell("endpoint ejected", {"cause": ejection.why, "seconds": seconds, **self._rpc()}, is_bad=True)
            self._count(names.EJECTIONS)
        else:
            self._tell("endpoint no longer ejected", {})
        self._changed()

    def _health_changed(self, why: str) -> None:
        is_bad = not self.is_healthy
        self._tell("endpoint unhealthy" if is_bad else "endpoint healthy", {"cause": why}, is_bad=is_bad)
        self._count(names.HEALTH_CHANGES, state="unhealthy" if is_bad else "healthy")
        self._changed()

    def _health_passed(self) -> None:
        # As Envoy does: a passing health check ends an ejection, and what led to it is forgotten.
        if self.ejection is not None and self.ejection.is_ejected:
            self.ejection.release()

    def _rpc(self) -> dict[str, str]:
        """What is said of the RPC whose end is being judged."""
        if self._cause is None:
            return {}
        attempt, code = self._cause
        call = attempt.call
        return {"method": call.path, "request_id": call.request_id_text, "code": "" if code is None else code.name}

    def _count(self, name: names.MetricName, **labels: str) -> None:
        self._runtime.metrics.counter(name, cluster=self._endpoint.cluster, **labels).inc()

    def _tell(self, event: str, extra: dict[str, object], *, is_bad: bool = False) -> None:
        write = self._runtime.log.warning if is_bad else self._runtime.log.info
        write(event, extra={"cluster": self._endpoint.cluster, "endpoint": self._endpoint.address, **extra})


def _codes(config: CircuitBreakerConfig | OutlierEjectionConfig | None) -> frozenset[StatusCode]:
    return frozenset() if config is None else frozenset(StatusCode[name] for name in config.failure_codes)
