"""The tools of one server, made once and shared by its agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpc import StatusCode

from agent_server.core.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent_server.tools.addresses import AddressRule
    from agent_server.tools.database import Database
    from agent_server.tools.http import Fetcher


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
    ) -> None:
        self.database = database
        self.now = now
        self.wall = wall
        self._addresses = addresses
        self._user_agent = user_agent
        self._fetcher: Fetcher | None = None

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

    async def open(self) -> None:
        """Open what has to be open before the first call. Raises DatabaseError."""
        await self.database.open()

    async def close(self) -> None:
        """Close everything."""
        if self._fetcher is not None:
            await self._fetcher.close()
        await self.database.close()


def not_installed(tool: str, extra: str) -> Failure:
    """A tool whose libraries are missing here."""
    return Failure(
        StatusCode.UNIMPLEMENTED,
        "TOOL_NOT_INSTALLED",
        f"the tool {tool} needs the extra {extra!r}, which is not installed on this server",
        metadata={"tool": tool, "extra": extra},
    )
