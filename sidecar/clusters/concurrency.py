"""How much a cluster has to do at a time, and how much it may have (Envoy's "circuit breaker thresholds")."""

from __future__ import annotations

from pydantic import Field

from sidecar.config.model import Model


class ConcurrencyConfig(Model):
    """How much a cluster may have to do at a time."""

    max_in_flight: int = Field(
        default=1024, ge=1, le=1_000_000, description="attempts that run at a time; more are refused at once"
    )
    max_pending: int = Field(default=1024, ge=0, le=1_000_000, description="RPCs that wait for a connection at a time")


class Load:
    """What a whole cluster has to do: attempts that run, and attempts that wait for a connection."""

    __slots__ = ("in_flight", "max_pending", "pending")

    def __init__(self, max_pending: int) -> None:
        self.in_flight = 0
        self.pending = 0
        self.max_pending = max_pending
