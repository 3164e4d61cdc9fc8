"""Alerts without a process: numbers that a test sets, a clock that it moves, receivers that it reads."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Sequence

from sidecar.alerts.alert import Alert
from sidecar.alerts.config import AlertsConfig
from sidecar.clock import Deadlines
from sidecar.proxy.holding import Holding
from sidecar.runtime import Runtime
from sidecar.store.interface import Store
from sidecar.telemetry import names
from sidecar.telemetry.metrics import Histogram, Metrics
from tests.support.clock import FakeClock


def fake_runtime(clock: FakeClock, *, worker: int = 0, store: Store | None = None) -> Runtime:
    return Runtime(
        clock=clock,
        deadlines=Deadlines(clock),
        random=random.Random(7),
        metrics=Metrics(),
        log=logging.getLogger("sidecar.test"),
        holding=Holding(clock),
        worker=worker,
        store=store,
    )


def alerts_config(**fields: object) -> AlertsConfig:
    """As the file would give it."""
    return AlertsConfig.model_validate(fields, strict=False)


class Traffic:
    """RPCs of one route, counted as the metrics policy counts them."""

    def __init__(self, metrics: Metrics, listener: str = "inbound", route: str = "all") -> None:
        self.listener, self.route = listener, route
        self._ended: dict[tuple[str, str, str], float] = {}
        self.histogram: Histogram = metrics.histogram(
            names.RPC_SECONDS,
            names.RPC_BUCKETS,
            **{name: self._label(name) for name in names.RPC_SECONDS.labels},
        )
        metrics.read(names.RPCS, self._read, (listener, route))

    def _label(self, name: str) -> str:
        return {"listener": self.listener, "route": self.route, "direction": "inbound"}.get(name, "x")

    def _read(self) -> list[tuple[tuple[str, ...], float]]:
        known = {"grpc_code": 0, "origin": 1, "reason": 2}
        return [
            (tuple(key[known[name]] if name in known else self._label(name) for name in names.RPCS.labels), count)
            for key, count in self._ended.items()
        ]

    def end(
        self, count: float, code: str = "OK", *, origin: str = "agent", reason: str = "", seconds: float = 0.01
    ) -> None:
        """So many RPCs have ended so."""
        key = (code, origin, reason)
        self._ended[key] = self._ended.get(key, 0.0) + count
        for _ in range(int(count)):
            self.histogram.observe(seconds)


class Hands:
    """Instead of threads: what is to be sent waits until the test lets it."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Callable[[], None], Callable[[BaseException | None], None]]] = deque()
        self.is_held = False

    def of(self, name: str) -> Callable[[Callable[[], None], Callable[[BaseException | None], None]], None]:
        return self.take

    def take(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        if self.is_held:
            self.waiting.append((job, done))
            return
        error: BaseException | None = None
        try:
            job()
        except Exception as caught:
            error = caught
        done(error)

    def let_go(self) -> None:
        """What was held is sent."""
        self.is_held = False
        while self.waiting:
            self.take(*self.waiting.popleft())


class Inbox:
    """A sender that keeps what it is given, or fails as told."""

    kind = "inbox"

    def __init__(self, batch: int = 50) -> None:
        self.batch = batch
        self.messages: list[tuple[Alert, ...]] = []
        self.error: Exception | None = None
        self.tries = 0

    def send(self, alerts: Sequence[Alert]) -> None:
        self.tries += 1
        if self.error is not None:
            raise self.error
        self.messages.append(tuple(alerts))

    @property
    def said(self) -> list[list[str]]:
        """Each message as "state name"."""
        return [[f"{each.state} {each.name}" for each in message] for message in self.messages]
