"""A sidecar, or its agent, that is stopped (SIGSTOP) and goes on later: time has passed for it at once."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import grpc.aio

from tests.support.crash import CONFIG, METHOD, Payments
from tests.support.processes import Sidecar

LIMIT = 10.0
_CALLERS = 5


def _key(name: str) -> tuple[tuple[str, str], ...]:
    return (("idempotency-key", name),)


async def _ends(pay: Any, name: str) -> grpc.StatusCode:
    try:
        await pay(name.encode(), metadata=_key(name), timeout=0.8)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_callers_of_a_stopped_sidecar_time_out_and_nothing_runs_twice_after(tmp_path: Path) -> None:
    async with Payments(tmp_path / "executions", 1) as agent:
        with Sidecar(CONFIG.format(store="sqlite:///s.db", port=0, agent=agent.address), tmp_path) as sidecar:
            async with grpc.aio.insecure_channel(sidecar.addresses["inbound"]) as channel:
                pay: Any = channel.unary_unary(METHOD)  # type: ignore[call-arg]
                first = await pay(b"first", metadata=_key("first"), timeout=LIMIT)
                sidecar.signal(signal.SIGSTOP)
                try:
                    ends = await asyncio.gather(*(_ends(pay, f"k{number}") for number in range(_CALLERS)))
                finally:
                    sidecar.signal(signal.SIGCONT)
                assert set(ends) == {grpc.StatusCode.DEADLINE_EXCEEDED}
                # Whether it was stopped or something held its loop: callers felt it, so it is told.
                still = await asyncio.to_thread(
                    sidecar.wait_for_log, lambda line: line.get("event") == "the event loop stood still"
                )
                assert still["seconds"] > 0.5
                assert await pay(b"first", metadata=_key("first"), timeout=LIMIT) == first
                assert await pay(b"after", metadata=_key("after"), timeout=LIMIT)
                assert sidecar.get("/livez")[0] == 200
        done = agent.executions()
        assert done["first"] == done["after"] == 1
        assert set(done.values()) == {1}, "nothing is executed twice"
