"""What was tried, against which symptom, and what came of it: kept for people, counted for alerts, told in the log."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sidecar.telemetry import names

if TYPE_CHECKING:
    from sidecar.runtime import Runtime

KEPT = 100
"""Recoveries that can still be looked at; all are counted."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """One attempt to repair something."""

    at: float
    """Wall time, seconds since the epoch."""
    symptom: str
    """crash, wedged, memory, store_lost, network, asked."""
    action: str
    """restart, drain, clear_cache, reconnect, reset_connections, give_up."""
    result: str
    """done, failed, given_up."""
    cause: str
    """What was seen, in words."""
    seconds: float
    """How long it took."""


class History:
    """Newest last; bounded."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._kept: deque[Recovery] = deque(maxlen=KEPT)

    def note(self, symptom: str, action: str, result: str, cause: str, *, began: float) -> None:
        """`began`: monotonic seconds."""
        runtime = self._runtime
        recovery = Recovery(
            at=runtime.clock.wall(),
            symptom=symptom,
            action=action,
            result=result,
            cause=cause,
            seconds=round(runtime.clock.monotonic() - began, 3),
        )
        self._kept.append(recovery)
        runtime.metrics.counter(names.RECOVERIES, symptom=symptom, action=action, result=result).inc()
        write = runtime.log.info if result == "done" else runtime.log.error
        write("recovery", extra={key: value for key, value in asdict(recovery).items() if key != "at"})

    def view(self) -> list[dict[str, Any]]:
        """Newest first."""
        return [asdict(each) for each in reversed(self._kept)]
