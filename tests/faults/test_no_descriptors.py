"""A sidecar whose table of file descriptors is full: who is connected is served, and others as soon as there is room."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from sidecar.clock import LoopClock, sleep
from tests.support.crash import CONFIG, METHOD, Payments, free_port
from tests.support.processes import Sidecar

LIMIT = 10.0
_LEFT = 8
_CROWD = 30


def _leave(pid: int, free: int) -> tuple[int, int]:
    """Leave the process `free` descriptors; returns the limits it had."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("there is no /proc here to count descriptors in")
    was = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max(int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + free, was[1]))
    return was


def _is_out_of_descriptors(line: dict[str, Any]) -> bool:
    return "out of file descriptors" in str(line)


async def test_connected_callers_are_served_and_others_again_when_some_left(tmp_path: Path) -> None:
    async with Payments(tmp_path / "executions", 1) as agent:
        config = CONFIG.format(store="memory://", port=0, agent=agent.address)
        with Sidecar(config, tmp_path) as sidecar, contextlib.ExitStack() as crowd:
            async with grpc.aio.insecure_channel(sidecar.addresses["inbound"]) as channel:
                pay: Any = channel.unary_unary(METHOD)  # type: ignore[call-arg]
                assert await pay(b"before", timeout=LIMIT)
                _leave(sidecar.pid, _LEFT)
                for _ in range(_CROWD):
                    crowd.enter_context(socket.create_connection(sidecar.address(), LIMIT))
                await asyncio.to_thread(sidecar.wait_for_log, _is_out_of_descriptors)
                served = [await pay(b"during-%d" % number, timeout=LIMIT) for number in range(5)]
                assert len(served) == 5, "established connections are not touched"
                complaints = [line for line in sidecar.log() if _is_out_of_descriptors(line)]
                # Each try refuses one of the crowd: accepting rests in between, and never spins.
                assert len(complaints) <= _CROWD
                crowd.close()
                async with grpc.aio.insecure_channel(sidecar.addresses["inbound"]) as late:
                    pay_late: Any = late.unary_unary(METHOD)  # type: ignore[call-arg]
                    assert await pay_late(b"after", timeout=LIMIT, wait_for_ready=True)
                assert sidecar.is_running


async def _reason(call: Any, is_wanted: Callable[[str], bool]) -> str:
    """The first message of a refusal that is wanted; RPCs are refused until then, never left waiting."""
    async with asyncio.timeout(2 * LIMIT):
        while True:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"a", timeout=LIMIT)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            trailers: Any = caught.value.trailing_metadata()
            assert dict(trailers)["x-sidecar-origin"] == "sidecar"
            details = caught.value.details() or ""
            if is_wanted(details):
                return details
            await sleep(LoopClock(asyncio.get_running_loop()), 0.1)


async def test_an_agent_that_cannot_be_dialled_for_want_of_descriptors_is_unavailable(tmp_path: Path) -> None:
    config = CONFIG.format(store="memory://", port=0, agent=f"127.0.0.1:{free_port()}")
    with Sidecar(config, tmp_path) as sidecar:
        async with grpc.aio.insecure_channel(sidecar.addresses["inbound"]) as channel:
            pay: Any = channel.unary_unary(METHOD)  # type: ignore[call-arg]
            usual = await _reason(pay, lambda details: bool(details))
            was = resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE)
            # Below what is open already: nothing can be opened any more.
            resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE, (3, was[1]))
            told = await _reason(pay, lambda details: "open files" in details or "descriptor" in details)
            assert told != usual
            resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE, was)
            await _reason(pay, lambda details: "open files" not in details and "descriptor" not in details)
