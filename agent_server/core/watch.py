"""Who watches operations run. What is watched does not know who."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from grpc import StatusCode


class Watch(Protocol):
    """Told of each operation."""

    def working(self, agent: str, operation: str) -> AbstractContextManager[None]:
        """Entered while the operation runs; sees the exception that it ends with."""

    def refused(self, agent: str, operation: str, code: StatusCode) -> None:
        """An order was not taken; `agent` and `operation` are as the caller wrote them."""

    def rated(self, agent: str, version: str, count: int, mean: float) -> None:
        """What callers think of an agent in a version of it, all ratings together."""


class NobodyWatches:
    """Where there are no metrics."""

    def working(self, agent: str, operation: str) -> AbstractContextManager[None]:
        return nullcontext()

    def refused(self, agent: str, operation: str, code: StatusCode) -> None:
        """Nobody hears of it."""

    def rated(self, agent: str, version: str, count: int, mean: float) -> None:
        """Nobody hears of it."""
