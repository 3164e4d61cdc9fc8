"""The tools of one server, made once and shared by its agents."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from grpc import StatusCode

from agent_server.core.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_server.configuration.settings import Settings
    from agent_server.core.memory import Memory
    from agent_server.core.store import Store
    from agent_server.tools.addresses import AddressRule
    from agent_server.tools.browser import BrowserPool
    from agent_server.tools.database import Database
    from agent_server.tools.http import Fetcher
    from agent_server.tools.http_calls import HttpCalls
    from agent_server.tools.warehouse import Warehouse
    from agent_server.workflows.engine import Engine
    from agent_server.workflows.library import Library


class Toolbox:
    """What agents may use."""

    def __init__(
        self,
        database: Database,
        addresses: AddressRule,
        *,
        now: Callable[[], float],
        wall: Callable[[], float],
        user_agent: str,
        settings: Callable[[], Settings] | None = None,
        store: Store | None = None,
    ) -> None:
        """`settings` gives those that hold now, which a reload may change; none: the defaults."""
        if settings is None:
            from agent_server.configuration.settings import Settings

            defaults = Settings()
            settings = lambda: defaults  # noqa: E731
        self.settings: Callable[[], Settings] = settings
        self._store = store
        self.database = database
        self.now = now
        self.wall = wall
        self._addresses = addresses
        self._user_agent = user_agent
        self._fetcher: Fetcher | None = None
        self._http_calls: HttpCalls | None = None
        self._warehouse: Warehouse | None = None
        self._browser: BrowserPool | None = None
        self._memory: Memory | None = None
        self._engine: Engine | None = None
        self._library: Library | None = None

    @property
    def fetcher(self) -> Fetcher:
        """HTTP. Raises Failure UNIMPLEMENTED where its libraries are not installed."""
        if self._fetcher is None:
            try:
                from agent_server.tools.http import Fetcher
            except ImportError:
                raise not_installed("http", "agent") from None
            self._fetcher = Fetcher(self._addresses, now=self.now, user_agent=self._user_agent)
        return self._fetcher

    @property
    def http_calls(self) -> HttpCalls:
        """Calls of HTTP APIs. Raises Failure UNIMPLEMENTED where its libraries are not installed."""
        if self._http_calls is None:
            fetcher = self.fetcher
            from agent_server.tools.http_calls import HttpCalls

            limit = self.settings().http_per_host
            self._http_calls = HttpCalls(fetcher, now=self.now, sleep=asyncio.sleep, per_host=limit)
        return self._http_calls

    @property
    def warehouse(self) -> Warehouse:
        """Databases. Raises Failure UNIMPLEMENTED where its libraries are not installed."""
        if self._warehouse is None:
            try:
                from agent_server.tools.warehouse import EMBEDDED, Warehouse
            except ImportError:
                raise not_installed("database", "agent") from None
            urls = {EMBEDDED: f"sqlite+aiosqlite:///{self.database.path}"}
            urls |= {name: url.get_secret_value() for name, url in self.settings().databases.items()}
            self._warehouse = Warehouse(urls)
        return self._warehouse

    @property
    def browser(self) -> BrowserPool:
        """The browser. Raises Failure UNIMPLEMENTED where its library is not installed."""
        if self._browser is None:
            try:
                from agent_server.tools.browser import BrowserPool
            except ImportError:
                raise not_installed("browser", "browser") from None
            told = self.settings().browser
            self._browser = BrowserPool(
                self._addresses,
                pages=told.pages,
                recycle_after=told.recycle_after,
                max_page_bytes=told.max_page_bytes,
                executable=told.executable,
                sandbox=told.sandbox,
            )
        return self._browser

    @property
    def store(self) -> Store:
        """The server's own state."""
        if self._store is None:
            raise not_installed("state", "agent")
        return self._store

    @property
    def memory(self) -> Memory:
        """What sessions remember."""
        if self._memory is None:
            from agent_server.core.memory import Memory

            told = self.settings().memory
            self._memory = Memory(self.store, wall=self.wall, ttl=told.ttl, max_bytes=told.max_bytes)
        return self._memory

    @property
    def library(self) -> Library:
        """The workflows that are known."""
        if self._library is None:
            from agent_server.workflows.library import Library

            self._library = Library()
        return self._library

    @property
    def engine(self) -> Engine:
        """Runs workflows. Raises Failure UNIMPLEMENTED where its libraries are not installed."""
        if self._engine is None:
            try:
                from agent_server.workflows.engine import Engine
            except ImportError:
                raise not_installed("workflow", "agent") from None
            from agent_server.tools.declare import load_tools
            from agent_server.workflows.checkpoints import Checkpoints

            checkpoints = Checkpoints(self.store, self.wall)
            self._engine = Engine(load_tools(self.settings().tools), self, checkpoints, sleep=asyncio.sleep)
        return self._engine

    async def run_ended(self, execution_id: str) -> None:
        """Give up what was kept for a run."""
        if self._browser is not None:
            await self._browser.run_ended(execution_id)

    async def open(self) -> None:
        """Open what has to be open before the first call. Raises DatabaseError or StoreError."""
        await self.database.open()
        if self._store is not None:
            await self._store.open()

    async def close(self) -> None:
        """Close everything."""
        if self._browser is not None:
            await self._browser.close()
        if self._fetcher is not None:
            await self._fetcher.close()
        if self._warehouse is not None:
            await self._warehouse.close()
        if self._store is not None:
            await self._store.close()
        await self.database.close()


def not_installed(tool: str, extra: str) -> Failure:
    """A tool whose libraries are missing here."""
    return Failure(
        StatusCode.UNIMPLEMENTED,
        "TOOL_NOT_INSTALLED",
        f"the tool {tool} needs the extra {extra!r}, which is not installed on this server",
        metadata={"tool": tool, "extra": extra},
    )
