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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.cli.load import load_or_exit
from sidecar.clock import Deadlines, LoopClock
from sidecar.control.process import Process
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
    loaded = load_or_exit(path)
    writer = logs.configure(log_level)
    try:
        code = _loop_runner()(_serve(path, loaded))
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


def make_runtime(loaded: Loaded) -> Runtime:
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
        store=store,
    )


async def _serve(path: Path, loaded: Loaded) -> int:
    from sidecar.control.admin.http import AdminServer

    try:
        runtime = make_runtime(loaded)
    except ValueError as error:
        click.echo(f"{path}: store.url: {error}", err=True)
        return 1
    process = Process(path, runtime, os.environ)
    admin_config = loaded.root.admin
    try:
        token = admin_config.token.get_secret_value() if admin_config.token is not None else None
        admin = AdminServer(process, admin_config.bind, token)
        process.start(loaded)
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
    runtime.log.info("ready", extra={"listeners": process.addresses, "admin": admin.address, "pid": os.getpid()})
    await process.stopped.wait()
    await asyncio.to_thread(admin.close)
    for close in runtime.closers:
        await asyncio.to_thread(close)
    if runtime.store is not None:
        await runtime.store.close()
    runtime.log.info("stopped", extra={"at_once": signals.at_once})
    return 3 if signals.at_once else 0


class _Signals:
    """TERM and INT drain, again they end; HUP reloads."""

    def __init__(self, process: Process) -> None:
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
