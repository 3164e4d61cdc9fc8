"""The alerts of a sidecar with workers: judged by the parent, on the numbers of all of them, and told once.

Why not by each worker? Each sees a part of the traffic and its own breakers: people would be told N times of one thing, and a share of all
would be told by nobody. The parent serves no call, so it may read pages.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sidecar.alerts.alerts import INTERVAL, Alerts
from sidecar.clock import sleep
from sidecar.config.load import load
from sidecar.config.problems import ConfigError
from sidecar.control.workers.merge import ACCEPT
from sidecar.control.workers.pages import Pages
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from prometheus_client.core import Metric

    from sidecar.config.load import Loaded
    from sidecar.control.workers.fleet import Fleet
    from sidecar.runtime import Runtime
    from sidecar.telemetry.metrics import Metrics
    from sidecar.telemetry.names import MetricName

_TIMEOUT = 3.0


@dataclass(slots=True)
class Merged:
    """A histogram of all workers: counts per bucket, the last one without a bound."""

    counts: list[int] = field(default_factory=list)


class AllWorkers:
    """The last numbers of all workers, and of the parent itself, as if they were one process's."""

    def __init__(self, own: Metrics) -> None:
        self._own = own
        self._families: dict[str, Metric] = {}

    def take(self, families: Iterable[Metric]) -> None:
        self._families = {each.name: each for each in families}

    def samples(self, name: MetricName) -> dict[tuple[str, ...], float]:
        family = self._families.get(_family(name))
        if family is None:
            return self._own.samples(name)
        return {
            tuple(sample.labels.get(label, "") for label in name.labels): sample.value
            for sample in family.samples
            if sample.name == name.name
        }

    def histograms(self, name: MetricName) -> dict[tuple[str, ...], Merged]:
        family = self._families.get(name.name)
        cumulative: dict[tuple[str, ...], list[tuple[float, float]]] = {}
        for sample in family.samples if family is not None else ():
            if sample.name == f"{name.name}_bucket":
                labels = tuple(sample.labels.get(label, "") for label in name.labels)
                cumulative.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
        return {labels: Merged(_counts(sorted(buckets))) for labels, buckets in cumulative.items()}


def _family(name: MetricName) -> str:
    # The parser takes the ending off that tells a counter.
    return name.name.removesuffix("_total") if name.kind == "counter" else name.name


def _counts(cumulative: list[tuple[float, float]]) -> list[int]:
    counts, below = [], 0.0
    for _, value in cumulative:
        counts.append(int(value - below))
        below = value
    return counts


class FleetAlerts:
    """Runs from `begin` to `stop`; reads the file again whenever the workers have."""

    def __init__(self, fleet: Fleet, runtime: Runtime, path: Path, environ: Mapping[str, str]) -> None:
        self._fleet = fleet
        self._runtime = runtime
        self._path = path
        self._environ = environ
        self._numbers = AllWorkers(runtime.metrics)
        self._alerts = Alerts(runtime, readings=self._numbers)
        self._pages = Pages()
        self._token: str | None = None
        self._generation: float | None = None
        self._stopped = False

    def begin(self, loaded: Loaded) -> None:
        self._adopt(loaded)
        self._runtime.spawn(self._run(), "alerts")

    def stop(self) -> None:
        self._stopped = True
        self._alerts.stop()

    def view(self) -> dict[str, Any]:
        """Call it on the loop."""
        return self._alerts.view()

    def _adopt(self, loaded: Loaded) -> None:
        token = loaded.root.admin.token
        self._token = token.get_secret_value() if token is not None else None
        self._alerts.adopt(loaded.root.alerts, loaded.root.node.name)

    async def _run(self) -> None:
        while not self._stopped:
            await sleep(self._runtime.clock, INTERVAL)
            try:
                await self._look()
            except Exception as error:
                self._runtime.defect("alerts", error)

    async def _look(self) -> None:
        workers = [each.admin_path for each in self._fleet.workers]
        self._numbers.take(await asyncio.to_thread(self._read, workers))
        if self._stopped:
            return
        generation = self._numbers.samples(names.CONFIG_GENERATION).get(())
        if generation != self._generation:
            if self._generation is not None:
                await self._reload()
            self._generation = generation
        self._alerts.look()

    def _read(self, workers: Iterable[Path]) -> list[Metric]:
        """In a thread."""
        return self._pages.together({path: self._page(path) for path in workers})

    def _page(self, path: Path) -> str | None:
        connection = http.client.HTTPConnection("worker", timeout=_TIMEOUT)
        try:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(_TIMEOUT)
            connection.sock.connect(str(path))
            headers = {"accept": ACCEPT, "host": "localhost"}
            if self._token is not None:
                headers["authorization"] = f"Bearer {self._token}"
            connection.request("GET", "/metrics", headers=headers)
            answer = connection.getresponse()
            body = answer.read().decode()
            return body if answer.status == http.HTTPStatus.OK else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    async def _reload(self) -> None:
        try:
            loaded = await asyncio.to_thread(load, self._path, environ=self._environ)
        except (ConfigError, OSError):
            # The workers say what is wrong with it; they and we keep what was.
            return
        self._adopt(loaded)
        self._runtime.log.info("alerts follow the configuration", extra={"rules": len(loaded.root.alerts.effective())})
