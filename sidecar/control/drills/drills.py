"""Runs one drill at a time. It ends by itself, whoever began it may be gone by then; so does it at a reload and at a drain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.control.drills.disturbances import KINDS, CannotDrill
from sidecar.policies.audit.notes import note

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clock import Timer
    from sidecar.control.drills.disturbances import Disturbance
    from sidecar.control.drills.order import Order
    from sidecar.control.process import Process


class _Running:
    """A drill from its beginning; `why` it ended is empty until then."""

    def __init__(self, number: int, order: Order, disturbance: Disturbance, process: Process) -> None:
        self.number = number
        self.order = order
        self.disturbance = disturbance
        self.what = ""
        self.why = ""
        self._clock = process.runtime.clock
        self.began = self._clock.wall()
        self.until = self._clock.monotonic() + order.length
        self.timer: Timer | None = None

    def view(self) -> dict[str, Any]:
        left = 0.0 if self.why else max(0.0, self.until - self._clock.monotonic())
        return {
            "number": self.number,
            "name": self.order.name,
            "what": self.what,
            "by": self.order.by,
            "began": self.began,
            "for_seconds": self.order.length,
            "left_seconds": round(left, 3),
            "hits": self.disturbance.hits,
            "ended": self.why,
        }


class Drills:
    """The drills of one process; `start` and `end` are called on its loop."""

    def __init__(self, process: Process, kinds: dict[str, Callable[[Process, Order], Disturbance]] = KINDS) -> None:
        self._process = process
        self._kinds = kinds
        self._count = 0
        self._current: _Running | None = None
        self._last: _Running | None = None

    def start(self, order: Order) -> dict[str, Any]:
        """Begin; the view of what runs now. Raises CannotDrill, also while another one runs."""
        if self._current is not None:
            raise CannotDrill(f"the drill {self._current.order.name} runs; one at a time")
        if self._process.state.value != "ready":
            raise CannotDrill(f"the sidecar is {self._process.state.value}")
        running = _Running(self._count + 1, order, self._kinds[order.name](self._process, order), self._process)
        running.what = running.disturbance.begin()
        self._count += 1
        self._current = running
        running.timer = self._process.runtime.clock.call_later(order.length, lambda: self.end("its time is over"))
        self._tell("drill begins", running)
        return self.view()

    def end(self, why: str) -> None:
        """Undo it, if one runs."""
        running = self._current
        if running is None:
            return
        self._current, self._last = None, running
        running.why = why
        if running.timer is not None:
            running.timer.cancel()
        running.disturbance.end()
        self._tell("drill ends", running)

    def view(self) -> dict[str, Any]:
        return {
            "running": self._current.view() if self._current is not None else None,
            "last": self._last.view() if self._last is not None else None,
        }

    def _tell(self, event: str, running: _Running) -> None:
        shown = running.view()
        facts = {key: shown[key] for key in ("what", "by", "for_seconds")}
        facts |= {"drill": running.order.name, "ended": running.why}
        self._process.runtime.log.warning(event, extra=facts)
        note(self._process.policies, "drill", facts, self._process.runtime.clock.wall())
