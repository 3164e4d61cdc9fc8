"""Response headers that wait, while another attempt may still be made, for the first message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.proxy.dispatch import commit

if TYPE_CHECKING:
    from sidecar.clock import Clock
    from sidecar.proxy.attempt import Attempt


class Holding:
    """Releases what `dispatch.answered` has held, after 1 ms at most; one timer for all of them."""

    LONGEST = 0.001

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._attempts: list[Attempt] = []

    def add(self, attempt: Attempt) -> None:
        if not self._attempts:
            self._clock.call_later(self.LONGEST, self._release)
        self._attempts.append(attempt)

    def _release(self) -> None:
        attempts, self._attempts = self._attempts, []
        for attempt in attempts:
            if attempt.held is not None and not attempt.over:
                commit(attempt)
