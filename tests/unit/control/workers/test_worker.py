"""A worker that does not answer is ended."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
from pathlib import Path

from sidecar.clock import Deadlines
from sidecar.control.workers.place import Place
from sidecar.control.workers.worker import Given, Worker
from sidecar.proxy.holding import Holding
from sidecar.runtime import Runtime
from sidecar.telemetry.metrics import Metrics
from tests.support.clock import FakeClock


def runtime(clock: FakeClock) -> Runtime:
    return Runtime(
        clock=clock,
        deadlines=Deadlines(clock),
        holding=Holding(clock),
        random=random.Random(1),
        metrics=Metrics(),
        log=logging.getLogger("test"),
    )


STUCK = """
import json, os, signal, socket
place = json.loads(os.environ["SIDECAR_WORKER"])
socket.socket(fileno=place["line"]).sendall(b'{"state": "ready"}\\n')
signal.pause()
"""


async def test_a_stuck_worker_is_killed(tmp_path: Path) -> None:
    """It said that it was ready, and then its admin endpoint never answers."""
    clock = FakeClock()
    given = Given(
        number=1,
        count=1,
        command=(sys.executable, "-c", STUCK),
        environ=dict(os.environ),
        sockets={},
        folder=tmp_path,
        public_admin="127.0.0.1:9901",
    )
    ready = asyncio.Event()
    worker = Worker(given, 0, runtime(clock), ready.set)
    running = asyncio.ensure_future(worker.run())
    async with asyncio.timeout(20):
        await ready.wait()
        while not running.done():
            clock.advance(5)
            await asyncio.wait({running}, timeout=0)
    assert running.result().code == -signal.SIGKILL
    assert worker.state.value == "gone"


def test_a_place_is_read_once() -> None:
    place = Place(number=2, count=3, sockets={"inbound": 7}, admin="unix:/a", public_admin="127.0.0.1:9901", line=9)
    environ = {"SIDECAR_WORKER": place.to_environ(), "HOME": "/"}
    assert Place.from_environ(environ) == place
    assert environ == {"HOME": "/"}
    assert Place.from_environ(environ) is None
