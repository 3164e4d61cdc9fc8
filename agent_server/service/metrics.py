"""What the agents do, for Prometheus: `digital_employee_*`, on an address of its own.

Labels are bounded: agents and operations that are served, `_OTHER` for what callers invent.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from grpc import StatusCode
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from agent_server.core.failure import Failure
from agent_server.service.binding import BindError, TcpAddress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

    from agent_server.agents.declare import AgentSpec

OTHER = "_OTHER"
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Seconds: from a query of a table to a workflow with a browser."""


class AgentMetrics:
    """Counts what is told to it (`Watch`); `serve` shows it."""

    def __init__(self, agents: Iterable[AgentSpec]) -> None:
        self._operations = {spec.name: frozenset(spec.operations) for spec in agents}
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "digital_employee_requests_total",
            "Operations that were asked for, by the status they ended with.",
            ("agent", "operation", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "digital_employee_request_duration_seconds",
            "From the beginning of an operation to its end.",
            ("agent", "operation"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._active = Gauge(
            "digital_employee_active_agents", "Agents at work now.", ("agent_type",), registry=self.registry
        )
        self._ratings = Gauge(
            "digital_employee_ratings",
            "Ratings by callers of tasks that have ended.",
            ("agent", "version"),
            registry=self.registry,
        )
        self._mean = Gauge(
            "digital_employee_rating_mean",
            "Mean of the ratings, 1 (useless) to 5 (perfect).",
            ("agent", "version"),
            registry=self.registry,
        )
        for name in self._operations:
            self._active.labels(name).set(0)
        self._server: tuple[WSGIServer, Thread] | None = None

    # ── Watch ──

    @contextmanager
    def working(self, agent: str, operation: str) -> Iterator[None]:
        agent, operation = self._labels(agent, operation)
        active = self._active.labels(agent)
        active.inc()
        began = time.monotonic()
        status = StatusCode.OK
        try:
            yield
        except BaseException as error:
            status = status_of(error)
            raise
        finally:
            active.dec()
            self._seconds.labels(agent, operation).observe(time.monotonic() - began)
            self._requests.labels(agent, operation, status.name).inc()

    def refused(self, agent: str, operation: str, code: StatusCode) -> None:
        self._requests.labels(*self._labels(agent, operation), code.name).inc()

    def rated(self, agent: str, version: str, count: int, mean: float) -> None:
        self._ratings.labels(agent, version).set(count)
        self._mean.labels(agent, version).set(mean)

    def _labels(self, agent: str, operation: str) -> tuple[str, str]:
        operations = self._operations.get(agent)
        if operations is None:
            return OTHER, OTHER
        return agent, operation if operation in operations else OTHER

    # ── the page ──

    def serve(self, address: TcpAddress) -> TcpAddress:
        """Show them at http://host:port/metrics, in a thread; gives the address with the port that was taken.

        Raises BindError.
        """
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        try:
            self._server = start_http_server(address.port, address.host, registry=self.registry)
        except OSError as error:
            msg = f"metrics: {address}: {error.strerror or error}"
            raise BindError(msg) from error
        return TcpAddress(address.host, self._server[0].server_port)

    def close(self) -> None:
        if self._server is not None:
            server, thread = self._server
            self._server = None
            server.shutdown()
            server.server_close()
            thread.join()


def status_of(error: BaseException) -> StatusCode:
    """The status that a caller sees of an operation that ended with `error`."""
    if isinstance(error, Failure):
        return error.code
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return StatusCode.CANCELLED
    return StatusCode.INTERNAL
