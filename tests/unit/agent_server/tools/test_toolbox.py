"""The tools of a server."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from grpc import StatusCode

from agent_server.core.failure import Failure
from agent_server.tools.addresses import AddressRule
from agent_server.tools.database import Database
from agent_server.tools.toolbox import Toolbox


def toolbox() -> Toolbox:
    return Toolbox(Database(None), AddressRule(), now=lambda: 0.0, wall=lambda: 0.0, user_agent="test")


def test_the_fetcher_is_made_once_and_closed() -> None:
    async def scene() -> Any:
        tools = toolbox()
        await tools.open()
        first, second = tools.fetcher, tools.fetcher
        await tools.close()
        return first is second

    assert asyncio.run(scene())


def test_a_tool_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "agent_server.tools.http", None)
    with pytest.raises(Failure) as caught:
        _ = toolbox().fetcher
    assert (caught.value.code, caught.value.reason) == (StatusCode.UNIMPLEMENTED, "TOOL_NOT_INSTALLED")
    assert "'agent'" in caught.value.message
