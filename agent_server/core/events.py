"""What happens while an operation runs, and what comes out of it."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent_server.core.table import Table


class Level(enum.Enum):
    """How much a remark matters."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Started:
    """The input is valid and work begins."""

    execution_id: str
    agent: str
    operation: str


@dataclass(frozen=True, slots=True)
class Progress:
    """`completed` of `total` items (0 = nobody knows) are done."""

    completed: int
    total: int
    unit: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    """A remark for people."""

    level: Level
    message: str


@dataclass(frozen=True, slots=True)
class Partial:
    """A part of the result, final as far as it goes."""

    item: str
    output: Mapping[str, Any] | None = None
    table: Table | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of an operation."""

    execution_id: str
    agent: str
    operation: str
    output: Mapping[str, Any]
    table: Table | None
    elapsed: float
    """Seconds."""
    replayed: bool = False
    usage_tokens: int = 0


Event = Started | Progress | Log | Partial
Sink = Callable[[Event], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Record:
    """One record of an ingest stream."""

    index: int
    record_id: str
    fields: Mapping[str, Any]
    size: int
    """Bytes it took on the wire."""


Records = AsyncIterator[Record]
