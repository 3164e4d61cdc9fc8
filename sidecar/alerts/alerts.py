"""The alerts of one process: looks every few seconds, and tells the receivers.

    alerts = Alerts(runtime)
    alerts.adopt(config, node)       # at the start, and after each reload
    alerts.begin()                   # on the loop
    …
    alerts.stop()                    # what is still owed goes out while the process closes (`runtime.closers`)

Of several workers each judges what it sees itself, for its own page, and tells nobody; their parent judges all of it and tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from sidecar.alerts.alert import Alert, key_of
from sidecar.alerts.config import AlertsConfig
from sidecar.alerts.delivery import Delivery, NotDelivered, Pace
from sidecar.alerts.judge import Judge
from sidecar.alerts.machine import Machine
from sidecar.alerts.measures import Measures
from sidecar.alerts.presence import Presence
from sidecar.alerts.remembered import Remembered
from sidecar.alerts.senders import sender_of
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.alerts.delivery import Hand, Sender
    from sidecar.alerts.measures import Readings
    from sidecar.clock import Timer
    from sidecar.runtime import Runtime
    from sidecar.telemetry.metrics import Sample

INTERVAL = 5.0
"""Seconds between looks."""
_LAST_WORDS = 3.0
"""Seconds that the end of the process waits for messages that are still owed."""
_TEST_LIMIT = 12.0


class TestRuns(Exception):
    """A test is under way; one at a time."""

    __test__ = False


class Alerts:
    """See the module. All but `test` is called on the loop."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        readings: Readings | None = None,
        machine: Machine | None = None,
        hand_of: Callable[[str], Hand] | None = None,
    ) -> None:
        """`readings`: what is judged, if not the metrics of this process; whoever brings them calls `look`."""
        self._runtime = runtime
        self._tells = runtime.worker == 0
        self._is_driven = readings is not None
        self._judge = Judge(Measures(readings or runtime.metrics))
        # A parent serves nothing; its workers say how they fare.
        self._machine = None if self._is_driven else machine or Machine(runtime.metrics)
        self._presence = Presence(runtime.store, runtime, self._look) if runtime.store is not None else None
        self._remembered = Remembered(runtime.store, runtime) if runtime.store is not None and self._tells else None
        self._hand_of = hand_of or _threads(asyncio.get_running_loop())
        self._config = AlertsConfig()
        self._node: str | None = None
        self._deliveries: dict[str, Delivery] = {}
        self._timer: Timer | None = None
        self._has_begun = False
        self._is_stopped = False
        self._owed: list[Callable[[], None]] = []
        self._testing = threading.Lock()
        if self._tells:
            runtime.metrics.read(names.ALERTS_FIRING, self._count)
            runtime.closers.append(self._say_last_words)

    # ── life ──

    def adopt(self, config: AlertsConfig, node: str, *, workers: int = 1) -> None:
        """These rules and receivers are in force now; what fires by a rule that stays goes on. `workers`: processes like this."""
        if self._machine is not None:
            self._machine.shared_by(workers)
        ended = self._judge.adopt(config.effective(), node, self._runtime.clock.wall())
        if (config, node) != (self._config, self._node):
            self._config, self._node = config, node
            if self._tells:
                self._make_deliveries(node)
        self._tell(ended)

    def _make_deliveries(self, node: str) -> None:
        config, former = self._config, self._deliveries
        pace = Pace(config.group_wait, config.group_interval, config.repeat_interval)
        self._deliveries = {}
        for name, receiver in config.receivers().items():
            sender: Sender = sender_of(receiver, node)
            made = Delivery(name, sender, receiver.severities, pace, self._runtime, self._hand_of(name))
            if name in former:
                made.inherit(former.pop(name))
            self._deliveries[name] = made
        for each in former.values():
            each.close()

    def begin(self) -> None:
        """Look from now on."""
        self._has_begun = True
        if self._presence is not None:
            self._presence.begin()
        if self._remembered is not None:
            self._runtime.spawn(self._go_on(self._remembered), "alerts")
        elif not self._is_driven:
            self._again()

    async def _go_on(self, remembered: Remembered) -> None:
        """First what fired when we were last here, so that nobody is told of it twice, and of its end."""
        firing = await remembered.recall(self._judge.node)
        resumed = self._judge.resume(firing, self._runtime.clock.monotonic())
        for each in self._deliveries.values():
            each.resume(resumed)
        if not self._is_stopped:
            self._again()

    def _again(self) -> None:
        self._timer = self._runtime.clock.call_later(INTERVAL, self._again)
        self._look()

    def _look(self) -> None:
        try:
            self.look()
        except Exception as error:
            self._runtime.defect("alerts", error)

    def look(self) -> None:
        """Judge by the numbers of now, and tell what has changed."""
        clock = self._runtime.clock
        if self._machine is not None:
            self._machine.sample(clock.monotonic())
        self._tell(self._judge.look(clock.monotonic(), clock.wall()))
        firing = self._judge.firing()
        for each in self._deliveries.values():
            each.remind(firing)
        if self._remembered is not None and not self._is_stopped:
            self._remembered.keep(firing)

    def _tell(self, changes: list[Alert]) -> None:
        if not self._tells:
            return
        for alert in changes:
            write = self._runtime.log.warning if alert.is_firing else self._runtime.log.info
            write(
                "alert",
                extra={
                    "alert": alert.name,
                    "state": alert.state,
                    "severity": alert.severity,
                    "summary": alert.summary,
                    "rule": alert.rule,
                    **{f"of_{name}": value for name, value in alert.labels},
                },
            )
        if changes:
            for each in self._deliveries.values():
                each.tell(changes)

    def stop(self) -> None:
        """Look once more, and no more; what is owed then goes out by `_say_last_words`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._has_begun and not self._is_driven:
            self._look()
        self._is_stopped = True
        if self._presence is not None:
            self._presence.stop()
        self._owed = [job for each in self._deliveries.values() if (job := each.last_words()) is not None]

    def _say_last_words(self) -> None:
        """In a thread of the closing process: bounded, whoever does not answer."""
        _all_at_once([(f"{i}", job) for i, job in enumerate(self._owed)], _LAST_WORDS)
        self._owed = []

    # ── what can be asked ──

    def test(self, receiver: str | None = None) -> list[dict[str, Any]]:
        """Send one to every receiver, or to one of them, now, and say what came of it. Blocks; from any thread.

        Raises LookupError (there is no such receiver) and TestRuns.
        """
        config, node = self._config, self._judge.node
        known = config.receivers()
        if receiver is not None and receiver not in known:
            raise LookupError(f"no receiver is called {receiver!r}; known: {', '.join(sorted(known)) or 'none'}")
        if not self._testing.acquire(blocking=False):
            raise TestRuns("a test is under way; wait for its end")
        try:
            jobs = []
            for name, each in known.items():
                if receiver in {None, name}:
                    alert = self._test_alert(name, node)
                    jobs.append((name, _sending(sender_of(each, node), alert, self._runtime.clock.wall)))
            done = _all_at_once(jobs, _TEST_LIMIT)
        finally:
            self._testing.release()
        return [
            {
                "receiver": name,
                "kind": known[name].kind,
                "delivered": name in done and done[name] is None,
                "problem": _said(done[name]) if name in done else f"no answer within {_TEST_LIMIT:g} s",
            }
            for name, _ in jobs
        ]

    def _test_alert(self, receiver: str, node: str) -> Alert:
        return Alert(
            key=key_of(node, "test", (("receiver", receiver),)),
            name="test",
            severity="notice",
            summary="this is a test; nothing is wrong",
            rule="sidecar alerts test",
            labels=(("receiver", receiver),),
            value=0.0,
            node=node,
            began=self._runtime.clock.wall(),
            is_test=True,
        )

    # ── what is shown ──

    def _count(self) -> list[Sample]:
        counts: dict[tuple[str, ...], float] = {(each["name"], each["severity"]): 0.0 for each in self._judge.rules()}
        for alert in self._judge.firing():
            counts[alert.name, alert.severity] = counts.get((alert.name, alert.severity), 0.0) + 1
        return list(counts.items())

    def view(self) -> dict[str, Any]:
        """What fires, what has changed lately (newest first), the rules, and how the receivers fare; no secret."""
        return {
            "node": self._judge.node,
            "firing": [each.as_dict() for each in self._judge.firing()],
            "history": [each.as_dict() for each in reversed(self._judge.history)],
            "rules": self._judge.rules(),
            "receivers": [each.view() for each in self._deliveries.values()],
        }


def _sending(sender: Sender, alert: Alert, wall: Callable[[], float]) -> Callable[[], None]:
    def send() -> None:
        from dataclasses import replace

        sender.send([alert])
        if sender.batch == 1:
            # What opens an incident closes it again.
            sender.send([replace(alert, ended=wall())])

    return send


def _said(error: BaseException | None) -> str | None:
    if error is None:
        return None
    return error.cause if isinstance(error, NotDelivered) else getattr(error, "strerror", None) or type(error).__name__


def _threads(loop: asyncio.AbstractEventLoop) -> Callable[[str], Hand]:
    """Hands that are threads of their own: who does not answer keeps only itself waiting."""

    def hand_of(name: str) -> Hand:
        def hand(job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
            def run() -> None:
                error: BaseException | None = None
                try:
                    job()
                except BaseException as caught:
                    error = caught
                with contextlib.suppress(RuntimeError):  # The loop has ended meanwhile.
                    loop.call_soon_threadsafe(done, error)

            try:
                threading.Thread(target=run, name=f"alerts {name}", daemon=True).start()
            except RuntimeError as error:  # The system has no thread left.
                loop.call_soon(done, error)

        return hand

    return hand_of


def _all_at_once(jobs: Iterable[tuple[str, Callable[[], None]]], limit: float) -> dict[str, BaseException | None]:
    """Run each in a thread; what each came to (None = well), of those that ended within `limit` seconds."""
    done: dict[str, BaseException | None] = {}
    gate = threading.Condition()

    def run(name: str, job: Callable[[], None]) -> None:
        error: BaseException | None = None
        try:
            job()
        except BaseException as caught:
            error = caught
        with gate:
            done[name] = error
            gate.notify()

    count = 0
    for name, job in jobs:
        count += 1
        threading.Thread(target=run, args=(name, job), name=f"alerts {name}", daemon=True).start()
    with gate:
        gate.wait_for(lambda: len(done) == count, limit)
        return dict(done)
