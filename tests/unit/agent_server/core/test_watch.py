from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from grpc import StatusCode

from agent_server.core.executor import Executor, Order
from agent_server.core.failure import Failure
from agent_server.core.watch import NobodyWatches
from tests.unit.agent_server.conftest import Desk


class Notes:
    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []

    @contextmanager
    def working(self, agent: str, operation: str) -> Iterator[None]:
        self.said.append(("begin", agent, operation))
        try:
            yield
        finally:
            self.said.append(("end", agent, operation))

    def refused(self, agent: str, operation: str, code: StatusCode) -> None:
        self.said.append(("refused", agent, operation, code))


def test_a_watcher_is_told_of_each_order(desk: Desk) -> None:
    notes = Notes()
    desk.executor._watch = notes
    desk.order("query", sql="select 1 as one")
    with pytest.raises(Failure):
        desk.order("invented")
    assert notes.said == [
        ("begin", "data", "query"),
        ("end", "data", "query"),
        ("refused", "", "invented", StatusCode.INVALID_ARGUMENT),
    ]


def test_nobody_needs_to_watch(desk: Desk) -> None:
    with NobodyWatches().working("data", "query"):
        desk.order("query", sql="select 1 as one")
    NobodyWatches().refused("", "", StatusCode.OK)
    assert isinstance(desk.executor, Executor)
    assert Order().operation == ""
