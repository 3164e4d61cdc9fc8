"""What an operation is told about the call it serves, and how it tells about its progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent_server.core.events import Event, Level, Log, Partial, Progress, Sink
from agent_server.core.masking import masked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent_server.core.sessions import Session
    from agent_server.core.table import Table


@dataclass(slots=True)
class Usage:
    """What a run has used up."""

    tokens: int = 0
    """Of models; goes out as trailer `x-usage-tokens`, for budgets of the sidecar."""


@dataclass(slots=True)
class Context:
    """One run of one operation. Telling costs nothing when nobody listens; when somebody does, it waits until he took it."""

    execution_id: str
    identity: str = ""
    """The verified caller, or empty where no sidecar stands in front."""
    idempotency_key: str = ""
    session: Session | None = None
    """The session, if the caller named one. An operation that sets it to None keeps its result from being remembered."""
    sink: Sink | None = None
    takes_parts: bool = True
    """Whoever listens puts the parts of a result together himself; False: the result must be whole at the end."""
    usage: Usage = field(default_factory=Usage)

    @property
    def is_streaming(self) -> bool:
        """Somebody listens, so parts of the result may go out early."""
        return self.sink is not None and self.takes_parts

    async def progress(self, completed: int, total: int, unit: str, message: str = "") -> None:
        """Tell how far the work is."""
        await self._tell(Progress(completed, total, unit, message))

    async def log(self, level: Level, message: str) -> None:
        """Tell people something."""
        await self._tell(Log(level, masked(message)))

    async def partial(self, item: str, output: Mapping[str, Any] | None = None, table: Table | None = None) -> None:
        """Hand out a part of the result."""
        await self._tell(Partial(item, output, table))

    async def _tell(self, event: Event) -> None:
        if self.sink is not None:
            await self.sink(event)
