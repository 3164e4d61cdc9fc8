"""`sidecar run`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from sidecar.cli.load import load_or_exit
from sidecar.clock import Deadlines, LoopClock
from sidecar.control.process import Process
from sidecar.control.workers.place import Line, Place
from sidecar.proxy.holding import Holding
from sidecar.runtime import Runtime
from sidecar.store.url import open_store
from sidecar.telemetry import logs
from sidecar.telemetry.metrics import Metrics
from sidecar.transport.bind import BindError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sidecar.config.load import Loaded

LEVELS = click.Choice(["debug", "info", "warning", "error"])


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  sidecar run -c sidecar.yaml\n"
        "  SIDECAR_NAME=orders-1 sidecar run -c sidecar.yaml --log-level debug\n\n"
        "Signals: TERM or INT drains (a second one ends at once), HUP reloads.\n\n"
        "Exit codes: 0 drained, 1 could not start, 2 wrong usage, 3 ended at once by a second signal."
    ),
)
@click.option("-c", "--config", "path", required=True, type=click.Path(path_type=Path), help="The configuration file.")
@click.option("--log-level", type=LEVELS, default="info", show_default=True, help="What is logged.")
def run(path: Path, log_level: str) -> None:
    """Run the sidecar that FILE describes until it is told to stop."""
    path = path.absolute()
    place = Place.from_environ(os.environ)
    loaded = load_or_exit(path)
    writer = logs.configure(log_level)
    try:
        if place is None and loaded.root.workers > 1:
            code = asyncio.run(_supervise(path, loaded, log_level))
        else:
            code = _loop_runner()(_serve(path, loaded, place))
    finally:
        writer.stop()
    sys.exit(code)


def _loop_runner() -> Callable[[Coroutine[Any, Any, int]], int]:
    """uvloop where it is installed: 10 to 25 % less latency; the plain loop elsewhere."""
    if os.environ.get("SIDECAR_LOOP") != "asyncio":
        with contextlib.suppress(ImportError):
            import uvloop

            return uvloop.run
    return asyncio.run


def make_runtime(loaded: Loaded, worker: int = 0) -> Runtime:
    """The runtime of a real process; its store connects when it is used. Needs a running loop."""
    clock = LoopClock(asyncio.get_running_loop())
    chance = random.Random()
    store = None
    if loaded.root.store is not None:
        directory = Path(loaded.file).parent
        store = open_store(loaded.root.store.url, clock=clock, random=chance, directory=directory)
    return Runtime(
        clock=clock,
        deadlines=Deadlines(clock),
        holding=Holding(clock),
        random=chance,
        metrics=Metrics(),
        log=logging.getLogger("sidecar"),
        worker=worker,
        store=store,
    )


async def _supervise(path: Path, loaded: Loaded, log_level: str) -> int:
    """The parent of several workers: it serves no RPC."""
    from sidecar.control.workers.fleet import Fleet
    from sidecar.control.workers.gateway import Gateway

    clock = LoopClock(asyncio.get_running_loop())
    runtime = Runtime(
        clock=clock,
        deadlines=Deadlines(clock),
        holding=Holding(clock),
        random=random.Random(),
        metrics=Metrics(),
        log=logging.getLogger("sidecar"),
    )
    command = (sys.executable, "-m", "sidecar", "run", "-c", str(path), "--log-level", log_level)
    with tempfile.TemporaryDirectory(prefix="sidecar-") as folder:
        fleet = Fleet(command, os.environ, Path(folder), runtime)
        try:
            admin = Gateway(fleet, runtime.metrics, loaded.root.admin.bind)
            if not await fleet.start(loaded.root, admin.address):
                runtime.log.error("cannot start", extra={"cause": "a worker ended before it was ready"})
                return 1
        except BindError as error:
            runtime.log.error("cannot start", extra={"cause": str(error)})
            click.echo(str(error), err=True)
            return 1
        admin.start()
        signals = _Signals(fleet)
        runtime.log.info("ready", extra={"listeners": fleet.addresses, "admin": admin.address, "pid": os.getpid()})
        await fleet.wait()
        await asyncio.to_thread(admin.close)
    runtime.log.info("stopped", extra={"at_once": signals.at_once})
    return 3 if signals.at_once else 0


async def _serve(path: Path, loaded: Loaded, place: Place | None = None) -> int:
    from sidecar.control.admin.http import AdminServer

    try:
        runtime = make_runtime(loaded, place.number if place is not None else 0)
    except ValueError as error:
        click.echo(f"{path}: store.url: {error}", err=True)
        return 1
    process = Process(path, runtime, os.environ)
    await process.rollouts.recall(loaded.root.clusters)
    admin_config = loaded.root.admin
    try:
        token = admin_config.token.get_secret_value() if admin_config.token is not None else None
        if place is None:
            admin = AdminServer(process, admin_config.bind, token)
            process.start(loaded)
        else:
            admin = AdminServer(process, place.admin, token, place.public_admin)
            process.start(loaded, place.open_sockets())
    except (BindError, ValueError) as error:
        runtime.log.error("cannot start", extra={"cause": str(error)})
        click.echo(str(error), err=True)
        return 1
    admin.start()
    signals = _Signals(process)
    # The snapshot of everything configured lives as long as the process; the collector need not look at it again.
    gc.collect()
    gc.freeze()
    # Calls free themselves by reference counts (a test says so); cycles are rare, so looking for them can be, too.
    gc.set_threshold(50_000, 20, 50)
    line = None
    if place is None:
        runtime.log.info("ready", extra={"listeners": process.addresses, "admin": admin.address, "pid": os.getpid()})
    else:
        runtime.log.info("worker ready", extra={"worker": place.number, "pid": os.getpid()})
        line = Line(place, asyncio.get_running_loop(), process.drain)
        line.tell(state="ready")
    await process.stopped.wait()
    await asyncio.to_thread(admin.close)
    for close in runtime.closers:
        await asyncio.to_thread(close)
    if runtime.store is not None:
        await runtime.store.close()
    if line is not None:
        line.close()
    runtime.log.info("stopped", extra={"at_once": signals.at_once})
    return 3 if signals.at_once else 0


class _Life(Protocol):
    """What signals are for."""

    def drain(self) -> None: ...

    def stop(self) -> None: ...

    def reload(self) -> object: ...


class _Signals:
    """TERM and INT drain, again they end; HUP reloads."""

    def __init__(self, process: _Life) -> None:
        self._process = process
        self._told = False
        self.at_once = False
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGINT, self._stop)
        loop.add_signal_handler(signal.SIGHUP, process.reload)

    def _stop(self) -> None:
        if self._told:
            self.at_once = True
            self._process.stop()
        else:
            self._told = True
            self._process.drain()
