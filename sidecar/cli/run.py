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
from sidecar.control.process import Process, State
from sidecar.control.workers.place import Line, Place
from sidecar.proxy.holding import Holding
from sidecar.runtime import Runtime
from sidecar.store.severable import severable
from sidecar.store.timed import timed
from sidecar.store.url import open_store
from sidecar.telemetry import logs
from sidecar.telemetry.metrics import Metrics
from sidecar.transport.bind import BindError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sidecar.config.load import Loaded
    from sidecar.control.admin.grpc_service import AdminGrpc

_NO_SUCH_COMMAND = 127
"""As shells say it."""
_FORWARDED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGWINCH, signal.SIGCONT)
LEVELS = click.Choice(["debug", "info", "warning", "error"])


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  sidecar run -c sidecar.yaml\n"
        "  SIDECAR_NAME=orders-1 sidecar run -c sidecar.yaml --log-level debug\n"
        "  sidecar run --app 127.0.0.1:50051 --certs certs -- python agent.py --port 50051\n"
        "  sidecar run --app unix:/run/agent.sock --bind 127.0.0.1:8443 -- ./agent /run/agent.sock\n\n"
        "Signals: TERM or INT drains (a second one ends at once), HUP reloads. With COMMAND, others go to it, and it gets "
        "TERM when the last RPC has ended.\n\n"
        "Exit codes: 0 drained, 1 could not start, 2 wrong usage, 3 ended at once by a second signal; with COMMAND its own, "
        "128 + N if signal N ended it."
    ),
)
@click.option("-c", "--config", "path", type=click.Path(path_type=Path), help="The configuration file.")
@click.option("--app", metavar="ADDRESS", help="Without a file: where COMMAND serves, host:port or unix:/path.")
@click.option(
    "--certs",
    type=click.Path(path_type=Path, file_okay=False),
    help="Without a file: folder of ca.crt, NAME.crt and NAME.key (`sidecar certs` makes them).",
)
@click.option("--name", help="Without a file: which NAME.crt of the folder, and the name of this node.")
@click.option(
    "--bind", metavar="ADDRESS", help="Without a file: where callers call.  [default: 0.0.0.0:8443 with --certs]"
)
@click.option("--admin", metavar="ADDRESS", help="Without a file: the admin address.  [default: 127.0.0.1:9901]")
@click.option("--log-level", type=LEVELS, default="info", show_default=True, help="What is logged.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(
    path: Path | None,
    app: str | None,
    certs: Path | None,
    name: str | None,
    bind: str | None,
    admin: str | None,
    log_level: str,
    command: tuple[str, ...],
) -> None:
    """Run the sidecar that FILE describes until it is told to stop.

    Or without a file: start COMMAND (any gRPC server), stand before it, forward signals, and leave with its exit code.
    """
    if path is not None:
        given = [
            word for word, value in (("--app", app), ("--certs", certs), ("--name", name), ("--bind", bind)) if value
        ]
        given += ["--admin"] if admin else []
        given += ["COMMAND"] if command else []
        if given:
            raise click.UsageError(f"{', '.join(given)} and a file exclude each other; the file says it all")
        sys.exit(_run(path.absolute(), log_level))
    if app is None or not command:
        raise click.UsageError("give a file (-c FILE), or --app ADDRESS and, after --, the COMMAND that serves there")
    from sidecar.supervision.without_file import WithoutFile, WithoutFileError

    try:
        text = WithoutFile(app=app, command=command, certs=certs, name=name, bind=bind, admin=admin).configuration()
    except WithoutFileError as error:
        raise click.UsageError(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="sidecar-") as folder:
        written = Path(folder) / "sidecar.yaml"
        written.write_text(text)
        code = _run(written, log_level, is_wrapper=True)
    sys.exit(code)


def _run(path: Path, log_level: str, *, is_wrapper: bool = False) -> int:
    place = Place.from_environ(os.environ)
    loaded = load_or_exit(path)
    writer = logs.configure(log_level)
    try:
        if place is None and loaded.root.workers > 1:
            return asyncio.run(_supervise(path, loaded, log_level))
        return _loop_runner()(_serve(path, loaded, place, is_wrapper=is_wrapper))
    finally:
        writer.stop()


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
    metrics = Metrics()
    store = None
    if loaded.root.store is not None:
        directory = Path(loaded.file).parent
        # Such that a drill can take it away.
        store = severable(
            timed(open_store(loaded.root.store.url, clock=clock, random=chance, directory=directory), clock, metrics)
        )
    return Runtime(
        clock=clock,
        deadlines=Deadlines(clock),
        holding=Holding(clock),
        random=chance,
        metrics=metrics,
        log=logging.getLogger("sidecar"),
        worker=worker,
        store=store,
        sealing=loaded.root.encryption.sealing(),
        lines=logs.writer_of(logging.getLogger("sidecar")),
    )


async def _supervise(path: Path, loaded: Loaded, log_level: str) -> int:
    """The parent of several workers: it serves no RPC."""
    from sidecar.control.workers.alerts import FleetAlerts
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
            alerts = FleetAlerts(fleet, runtime, path, os.environ)
            admin = Gateway(fleet, runtime.metrics, loaded.root.admin.bind, alerts)
            if not await fleet.start(loaded.root, admin.address):
                runtime.log.error("cannot start", extra={"cause": "a worker ended before it was ready"})
                return 1
        except BindError as error:
            runtime.log.error("cannot start", extra={"cause": str(error)})
            click.echo(str(error), err=True)
            return 1
        admin.start()
        alerts.begin(loaded)
        signals = _Signals(fleet)
        runtime.log.info("ready", extra={"listeners": fleet.addresses, "admin": admin.address, "pid": os.getpid()})
        await fleet.wait()
        alerts.stop()
        await asyncio.to_thread(admin.close)
        for close in runtime.closers:
            await asyncio.to_thread(close)
    runtime.log.info("stopped", extra={"at_once": signals.at_once})
    return 3 if signals.at_once else 0


async def _serve(path: Path, loaded: Loaded, place: Place | None = None, *, is_wrapper: bool = False) -> int:
    """`is_wrapper`: the life of the agent is ours; else it is repaired, and we live on."""
    from sidecar.control.admin.http import AdminServer

    try:
        runtime = make_runtime(loaded, place.number if place is not None else 0)
    except ValueError as error:
        click.echo(f"{path}: store.url: {error}", err=True)
        return 1
    process = Process(path, runtime, os.environ)
    admin_grpc: AdminGrpc | None = None
    await process.rollouts.recall(loaded.root.clusters)
    admin_config = loaded.root.admin
    try:
        token = admin_config.token.get_secret_value() if admin_config.token is not None else None
        if place is None:
            admin = AdminServer(process, admin_config.bind, token)
            if admin_config.grpc is not None:
                from sidecar.control.admin import grpc_service

                admin_grpc = grpc_service.AdminGrpc(admin, admin_config.grpc)
                admin_grpc.start()
            process.start(loaded)
        else:
            admin = AdminServer(process, place.admin, token, place.public_admin)
            process.start(loaded, place.open_sockets())
    except (BindError, ValueError) as error:
        runtime.log.error("cannot start", extra={"cause": str(error)})
        click.echo(str(error), err=True)
        return 1
    agent = _beside(process, loaded, is_wrapper=is_wrapper)
    admin.start()
    signals = _Signals(process, agent if is_wrapper else None)
    # The snapshot of everything configured lives as long as the process; the collector need not look at it again.
    gc.collect()
    gc.freeze()
    # Calls free themselves by reference counts (a test says so); cycles are rare, so looking for them can be, too.
    gc.set_threshold(50_000, 20, 50)
    line = None
    await process.launches.settled()
    if agent is not None and not await agent.serves():
        runtime.log.error("cannot start", extra={"cause": f"the agent does not serve: {agent.cause}"})
        process.stop()
    elif place is None:
        extra = {"listeners": process.addresses, "admin": admin.address, "pid": os.getpid()}
        if admin_grpc is not None:
            extra["admin_grpc"] = admin_grpc.address
        runtime.log.info("ready", extra=extra)
    else:
        runtime.log.info("worker ready", extra={"worker": place.number, "pid": os.getpid()})
        line = Line(place, asyncio.get_running_loop(), process.drain)
        line.tell(state="ready")
    await process.stopped.wait()
    await process.launches.close()
    code = await agent.close(at_once=signals.at_once) if agent is not None else 0
    if admin_grpc is not None:
        await asyncio.to_thread(admin_grpc.close)
    await asyncio.to_thread(admin.close)
    for close in runtime.closers:
        await asyncio.to_thread(close)
    if runtime.store is not None:
        await runtime.store.close()
    if line is not None:
        line.close()
    runtime.log.info("stopped", extra={"at_once": signals.at_once})
    return code or (3 if signals.at_once else 0)


def _beside(process: Process, loaded: Loaded, *, is_wrapper: bool) -> _Agent | None:
    """Start the agent, if that is ours to do."""
    if loaded.root.agent is None:
        return None
    agent = _Agent(process, loaded, is_wrapper=is_wrapper)
    agent.beside.begin()
    return agent


class _Agent:
    """The agent beside us, and what its end means for us."""

    def __init__(self, process: Process, loaded: Loaded, *, is_wrapper: bool) -> None:
        from sidecar.supervision.beside import Beside

        self._process = process
        self._is_wrapper = is_wrapper
        self.beside = Beside(
            loaded.root,
            process.runtime,
            parts=lambda: process.generation.parts if process.generation is not None else [],
            clear_cache=process.clear_cache,
            once=(lambda _: process.stop()) if is_wrapper else None,
        )
        self._failed = False
        process.agent = self.beside.supervisor

    @property
    def cause(self) -> str:
        return self.beside.supervisor.cause

    async def serves(self) -> bool:
        """Wait for that, or for the end of either of us."""
        waiting = [
            asyncio.create_task(each) for each in (self.beside.supervisor.settled(), self._process.stopped.wait())
        ]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()
        self._failed = self._process.state is State.READY and not self.beside.supervisor.is_serving
        return not self._failed

    async def close(self, *, at_once: bool) -> int:
        """End it. The exit code that this gives us: the command's own where we stand for it; 1 where it never served."""
        ended = await self.beside.close(at_once=at_once)
        if not self._is_wrapper:
            return int(self._failed)
        return ended.exit_code if ended is not None else _NO_SUCH_COMMAND

    def signal(self, number: signal.Signals) -> None:
        child = self.beside.supervisor.child
        if child is not None:
            child.signal(number)


class _Life(Protocol):
    """What signals are for."""

    def drain(self) -> None: ...

    def stop(self) -> None: ...

    def reload(self) -> object: ...


class _Signals:
    """TERM and INT drain, again they end; HUP reloads. Where we stand for a command, all but these go to it."""

    def __init__(self, process: _Life, command: _Agent | None = None) -> None:
        self._process = process
        self._told = False
        self.at_once = False
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGINT, self._stop)
        if command is None:
            loop.add_signal_handler(signal.SIGHUP, process.reload)
        else:
            for number in _FORWARDED:
                loop.add_signal_handler(number, command.signal, number)

    def _stop(self) -> None:
        if self._told:
            self.at_once = True
            self._process.stop()
        else:
            self._told = True
            self._process.drain()
