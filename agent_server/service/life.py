"""The life of the process: start in order, serve, end in order."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

from agent_server import __version__
from agent_server.configuration.reload import LiveSettings
from agent_server.configuration.settings import state_file
from agent_server.core.catalogue import Catalogue, load_specs
from agent_server.core.executor import Executor
from agent_server.core.masking import keep_secret
from agent_server.core.sessions import Sessions
from agent_server.core.store import Store
from agent_server.core.tasks import Tasks
from agent_server.service.agent_service import AgentService
from agent_server.service.binding import UnixAddress, parse_address, tcp_address
from agent_server.service.metrics import AgentMetrics
from agent_server.service.server import AgentServer
from agent_server.service.tracing import Tracing
from agent_server.tools.addresses import AddressRule
from agent_server.tools.database import Database
from agent_server.tools.declare import load_tools
from agent_server.tools.toolbox import Toolbox
from agent_server.workflows.library import load_library

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from agent_server.configuration.settings import Settings

log = logging.getLogger(__name__)


async def serve(
    settings: Settings,
    *,
    now: Callable[[], float],
    wall: Callable[[], float],
    chance: random.Random,
    ready: Callable[[str], None],
    load: Callable[[], Settings] | None = None,
    files: tuple[Path, ...] = (),
) -> bool:
    """Serve until SIGTERM or SIGINT; True when everything ended in order, False when a second signal cut it short.

    `now` is monotonic, `wall` since the epoch, both in seconds. `ready` is called with the address once calls are taken.
    `load` reads the settings again, on SIGHUP and when one of `files` has changed.
    Raises CatalogueError, DatabaseError, StoreError, ToolError, LibraryError or BindError when it cannot start.
    """

    def new_id() -> str:
        return f"{chance.getrandbits(128):032x}"

    keep_secret(settings.secrets)
    live = LiveSettings(settings, load, files)
    specs = load_specs(settings.agents)
    load_tools(settings.tools)
    load_library(settings.workflows)
    tools = Toolbox(
        Database(settings.database, readers=settings.database_readers),
        AddressRule(settings.allow_addresses),
        now=now,
        wall=wall,
        user_agent=f"{settings.name}/{__version__}",
        settings=live.current,
        store=Store(state_file(settings), [each.get_secret_value() for each in settings.encryption_keys]),
    )
    await tools.open()
    try:
        sessions = Sessions(max_sessions=settings.max_sessions)
        catalogue = Catalogue(specs, tools)
        metrics = AgentMetrics(catalogue)
        executor = Executor(
            catalogue, sessions, now=now, new_id=new_id, timeout=settings.operation_timeout, watch=metrics
        )
        tasks = Tasks(
            tools.store,
            executor,
            wall=wall,
            new_id=new_id,
            version=settings.version,
            concurrency=settings.task_concurrency,
            keep=settings.task_keep,
            watch=metrics,
        )
        service = AgentService(
            executor,
            version=settings.version,
            wall=wall,
            new_id=new_id,
            tasks=tasks,
            max_bytes=settings.max_message_bytes,
        )
        tracing = open_tracing(settings)
        server = AgentServer(service, settings, [tracing.interceptor] if tracing is not None else ())
        signals = _Signals()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, live.reload)
        looking = loop.create_task(live.keep_looking(), name="settings")
        address = await server.start(parse_address(settings.bind))
        try:
            await tasks.open()
            if settings.metrics is not None:
                log.info("metrics at http://%s/metrics", metrics.serve(tcp_address(settings.metrics)))
            ready(str(address))
            log.info("serving on %s, version %s", address, settings.version)
            await signals.first.wait()
            log.info("ending: running calls have %g s", settings.grace)
            return await _end(server, signals, settings.grace)
        finally:
            looking.cancel()
            await asyncio.to_thread(metrics.close)
            if tracing is not None:
                await asyncio.to_thread(tracing.close)
            loop.remove_signal_handler(signal.SIGHUP)
            await tasks.close()
            signals.close()
            if isinstance(address, UnixAddress):
                address.path.unlink(missing_ok=True)
    finally:
        await tools.close()


def open_tracing(settings: Settings) -> Tracing | None:
    """Raises TracingError."""
    if settings.otlp is None:
        return None
    return Tracing(settings.otlp, service=settings.name, sample=settings.trace_sample)


async def _end(server: AgentServer, signals: _Signals, grace: float) -> bool:
    loop = asyncio.get_running_loop()
    stopping = loop.create_task(server.stop(grace), name="stop")
    hurrying = loop.create_task(signals.second.wait(), name="second signal")
    await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    is_orderly = not signals.second.is_set()
    if not is_orderly:
        log.warning("second signal: cancelling what runs")
        await server.stop(None)
    hurrying.cancel()
    await asyncio.wait({stopping, hurrying})
    stopping.result()
    return is_orderly


class _Signals:
    """SIGTERM and SIGINT: the first asks for an orderly end, the second for an end now."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._arrived)

    def close(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.remove_signal_handler(number)

    def _arrived(self) -> None:
        (self.second if self.first.is_set() else self.first).set()
