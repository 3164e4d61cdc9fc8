"""Deadlines: the caller's is only ever shortened, one is given to callers without, and a silent RPC ends (gRFC A31)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from sidecar.config.model import Model
from sidecar.config.units import Duration
from sidecar.proxy.policy import Policy

if TYPE_CHECKING:
    from sidecar.proxy.call import Call
    from sidecar.runtime import Runtime


class DeadlineConfig(Model):
    """How long an RPC may take."""

    default: Duration = Field(default=30.0, description="the deadline of a caller that sets none", gt=0)
    max: Duration = Field(default=600.0, description="no RPC runs longer, whatever its caller says", gt=0)
    idle: Duration = Field(
        default=300.0, description="an RPC without a message in either direction for so long is ended", gt=0
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.default > self.max:
            yield "default", "is longer than max; lower it, or raise max"


class Deadline(Policy[DeadlineConfig]):
    """Sets `call.deadline` and `call.idle`; the call itself keeps the time."""

    name = "deadline"
    config_model = DeadlineConfig

    def __init__(self, config: DeadlineConfig, runtime: Runtime) -> None:
        self._default = config.default
        self._max = config.max
        self._idle = config.idle

    def on_request(self, call: Call) -> None:
        latest = call.started + self._max
        if call.deadline is None or call.deadline > latest:
            call.limit_deadline(call.started + self._default if call.deadline is None else latest)
        call.idle = self._idle
