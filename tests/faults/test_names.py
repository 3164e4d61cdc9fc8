"""Endpoints by name while names cannot be resolved: refused with the reason, never a hang; what was known goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.support.crash import CONFIG, METHOD
from tests.support.processes import Sidecar

LIMIT = 20.0


async def test_a_name_that_was_never_resolved_is_unavailable_with_the_reason(tmp_path: Path) -> None:
    config = CONFIG.format(store="memory://", port=0, agent="agent.nowhere.invalid:50051")
    with Sidecar(config, tmp_path) as sidecar:
        await asyncio.to_thread(
            sidecar.wait_for_log,
            lambda line: "name not resolved" in str(line) and "nowhere.invalid" in str(line),
            LIMIT,
        )
        async with grpc.aio.insecure_channel(sidecar.addresses["inbound"]) as channel:
            call: Any = channel.unary_unary(METHOD)  # type: ignore[call-arg]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"a", timeout=LIMIT)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "agent.nowhere.invalid" in (caught.value.details() or "")
        assert sidecar.get("/livez")[0] == 200
