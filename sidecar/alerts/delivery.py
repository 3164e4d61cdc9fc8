"""From alerts to the messages of one receiver: grouped, not too often, repeated while they last, tried again when they get lost.

What is owed is kept by alert, newest first in force: a receiver that was away for an hour gets the state of now and not the news of an
hour, and what waits is bounded by the number of alerts. The end of an alert that the receiver never heard of is no news.

Sending blocks, so it is done by a hand (a thread) of this receiver alone: `hand(job, done)` runs `job` somewhere and calls `done`
with the exception it raised, or None, on the loop. One message is under way at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sidecar.alerts.alert import Alert
    from sidecar.clock import Timer
    from sidecar.runtime import Runtime

    Hand: TypeAlias = Callable[[Callable[[], None], Callable[[BaseException | None], None]], None]

_FIRST_BACKOFF, _LONGEST_BACKOFF = 1.0, 300.0
_CHANCE = 0.2
_MOST_OWED = 500
_LONGEST_WORD = 3600.0
"""A receiver that says when to come again is believed up to so many seconds."""


class NotDelivered(Exception):
    """The receiver did not take it. The text holds no secret."""

    def __init__(self, cause: str, *, retry_after: float | None = None, is_final: bool = False) -> None:
        """`is_final`: the same message will never be taken. `retry_after`: seconds, the receiver's own word."""
        super().__init__(cause)
        self.cause = cause
        self.retry_after = retry_after
        self.is_final = is_final


class Sender(Protocol):
    """Knows how to tell one receiver. `batch`: alerts that go in one message."""

    kind: str
    batch: int

    def send(self, alerts: Sequence[Alert]) -> None:
        """Blocks, for a bounded time. Raises NotDelivered, OSError, ValueError."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a receiver is told; seconds."""

    wait: float = 10.0
    interval: float = 60.0
    repeat: float = 14_400.0


class Delivery:
    """One receiver. `tell` what has changed, `remind` what still fires; the rest goes by itself until `close`."""

    def __init__(
        self, name: str, sender: Sender, severities: Iterable[str], pace: Pace, runtime: Runtime, hand: Hand
    ) -> None:
        self.name = name
        self.sender = sender
        self._severities = frozenset(severities)
        self._pace = pace
        self._clock = runtime.clock
        self._chance = runtime.random
        self._log = runtime.log
        self._hand = hand
        self._counts = {
            result: runtime.metrics.counter(names.ALERT_NOTIFICATIONS, receiver=name, result=result)
            for result in ("sent", "failed", "refused", "dropped")
        }
        # What it is to be told next, by key.
        self._owed: dict[str, Alert] = {}
        # What it may have heard of and not the end of: when it was told last, by key (monotonic).
        self._told: dict[str, float] = {}
        # The message under way, and what is to follow it at once.
        self._under_way: list[Alert] = []
        self._following: list[Alert] = []
        self._timer: Timer | None = None
        self._not_before = float("-inf")
        self._backoff = 0.0
        self._closed = False
        self.last_sent: float | None = None
        """Wall seconds."""
        self.problem: str | None = None
        """Why the last message was not taken; None = it was."""

    # ── what it is told ──

    def tell(self, alerts: Iterable[Alert]) -> None:
        """These have begun or ended."""
        for alert in alerts:
            if alert.severity not in self._severities:
                continue
            if alert.is_firing or alert.key in self._told:
                self._owe(alert)
            else:
                self._owed.pop(alert.key, None)
        self._arm(self._pace.wait)

    def remind(self, firing: Iterable[Alert]) -> None:
        """These fire still; what was told long ago is told again."""
        due = self._clock.monotonic() - self._pace.repeat
        for alert in firing:
            if alert.key in self._told and self._told[alert.key] <= due and alert.key not in self._owed:
                self._owe(alert)
        self._arm(0.0)

    def resume(self, alerts: Iterable[Alert]) -> None:
        """Of these it was told before we were started again."""
        now = self._clock.monotonic()
        self._told.update((each.key, now) for each in alerts if each.severity in self._severities)

    def _owe(self, alert: Alert) -> None:
        if alert.key not in self._owed and len(self._owed) >= _MOST_OWED:
            self._owed.pop(next(iter(self._owed)))
            self._counts["dropped"].inc()
        self._owed[alert.key] = alert

    def forget(self) -> list[Alert]:
        """Take over what another one with the same name is to say: what is owed, and what it has heard of, end here."""
        self.close()
        return [*self._under_way, *self._following, *self._owed.values()]

    def inherit(self, former: Delivery) -> None:
        """A reload has made us anew; who has heard what stays known."""
        for alert in former.forget():
            self._owe(alert)
        self._told = dict(former._told)
        self._not_before, self.last_sent, self.problem = former._not_before, former.last_sent, former.problem
        self._arm(self._pace.wait)

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def last_words(self) -> Callable[[], None] | None:
        """For the end of the process: what is still owed, as one blocking job, or None. Nothing more goes by itself."""
        if not self._closed:
            self.close()
        owed = [*self._following, *self._owed.values()]
        if not owed:
            return None

        def say() -> None:
            for i in range(0, len(owed), self.sender.batch):
                self.sender.send(owed[i : i + self.sender.batch])

        return say

    # ── sending ──

    def _arm(self, wait: float) -> None:
        if not self._owed or self._timer is not None or self._under_way or self._closed:
            return
        now = self._clock.monotonic()
        self._timer = self._clock.call_later(max(wait, self._not_before - now), self._begin)

    def _begin(self) -> None:
        self._timer = None
        # Nothing is owed any more where all of it has ended before anybody was told.
        if self._closed or self._under_way or not self._owed:
            return
        self._following, self._owed = list(self._owed.values()), {}
        self._next()

    def _next(self) -> None:
        size = self.sender.batch
        self._under_way, self._following = self._following[:size], self._following[size:]
        now = self._clock.monotonic()
        for alert in self._under_way:
            # Now, and not when it was taken: one that was taken and not confirmed is known there, too.
            self._told[alert.key] = now
        alerts = tuple(self._under_way)
        self._hand(lambda: self.sender.send(alerts), self._done)

    def _done(self, error: BaseException | None) -> None:
        alerts, self._under_way = self._under_way, []
        now = self._clock.monotonic()
        if error is None:
            self._counts["sent"].inc()
            self.last_sent, self.problem, self._backoff = self._clock.wall(), None, 0.0
            self._heard(alerts)
            if self._following and not self._closed:
                self._next()
                return
            self._not_before = now + self._pace.interval
            self._arm(self._pace.wait)
            return
        cause = error.cause if isinstance(error, NotDelivered) else _plain(error)
        is_final = isinstance(error, NotDelivered) and error.is_final
        self.problem = cause
        self._counts["refused" if is_final else "failed"].inc()
        back, self._following = ([] if is_final else alerts) + self._following, []
        for alert in back:
            # What has changed meanwhile is newer.
            if alert.key not in self._owed:
                self._owe(alert)
        if is_final:
            self._heard(alerts)
        seconds = self._wait(error)
        self._not_before = now + seconds
        self._log.warning(
            "alerts not delivered",
            extra={"receiver": self.name, "cause": cause, "alerts": len(alerts), "again_in": round(seconds, 1)},
        )
        self._arm(0.0)

    def _heard(self, alerts: Iterable[Alert]) -> None:
        """An end was told: the next beginning is news again."""
        for alert in alerts:
            if not alert.is_firing and alert.key not in self._owed:
                self._told.pop(alert.key, None)

    def _wait(self, error: BaseException) -> float:
        """Seconds until the next try: doubled each time, with some chance; longer where the receiver says so."""
        self._backoff = min(max(self._backoff * 2, _FIRST_BACKOFF), _LONGEST_BACKOFF)
        seconds = self._backoff * self._chance.uniform(1 - _CHANCE, 1 + _CHANCE)
        asked = error.retry_after if isinstance(error, NotDelivered) else None
        return max(seconds, min(asked or 0.0, _LONGEST_WORD))

    # ── what is shown ──

    def view(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.sender.kind,
            "severities": sorted(self._severities),
            "owed": len(self._owed) + len(self._under_way) + len(self._following),
            "last_sent": self.last_sent,
            "problem": self.problem,
        }


def _plain(error: BaseException) -> str:
    """Without what the text of an unknown exception may hold, such as a URL."""
    reason = getattr(error, "strerror", None)
    return str(reason) if reason else type(error).__name__
