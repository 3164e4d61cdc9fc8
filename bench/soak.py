"""A long run: all kinds of RPCs through two sidecars; nothing may be left. Meanwhile callers cancel and have no time, faults are
injected, configurations are reloaded, certificates rotated, the agent is restarted.

    make soak                      (SOAK_SECONDS=600)
    python -m bench.soak --seconds 120

At the end: the slope of each sidecar's memory, file descriptors, streams and RPCs that are left, and every status that the faults do
not explain. Exit code 1: something was left, grew, or failed for no reason.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import grpc.aio

from clients.python.api import agent_pb2 as pb
from clients.python.api.agent_pb2_grpc import AgentServiceStub
from tests.journeys.agent_process import AgentProcess
from tests.journeys.pair import Pair
from tests.support.processes import Sidecar

# What a restarted agent, a cancelled call, a short deadline and an injected fault explain.
EXPLAINED = {"OK", "CANCELLED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "DATA_LOSS", "ended meanwhile"}
FAULTS = "policies: {fault: {abort: {percent: 1, status: DATA_LOSS}, delay: {percent: 1, for: 20ms}}}"
SLOPE = 0.5
"""MiB per minute that are still called flat, over the second half of the run."""


def rss_mib(sidecar: Sidecar) -> float:
    return sidecar.memory() / (1 << 20)


def descriptors(sidecar: Sidecar) -> int:
    return len(os.listdir(f"/proc/{sidecar.pid}/fd"))


def query(sql: str) -> dict:
    return {"operation": "query", "parameters": {"sql": sql}}


class Traffic:
    """Callers that go on until they are told to stop; what their RPCs came to is counted."""

    def __init__(self, address: str, seed: int) -> None:
        self.address = address
        self.random = random.Random(seed)
        self.ends: Counter[str] = Counter()
        self.running = True
        # The agent is being restarted, and nobody has reached it since.
        self.excused = False
        self.restarting = False

    async def caller(self) -> None:
        async with grpc.aio.insecure_channel(self.address, [("grpc.enable_retries", 0)]) as channel:
            stub = AgentServiceStub(channel)
            calls = [self.unary, self.stream, self.ingest, self.converse, self.cancelled, self.hurried]
            while self.running:
                kind = self.random.choice(calls)
                excused = self.excused
                try:
                    await kind(stub)
                    self.ends["OK"] += 1
                    if kind == self.unary:
                        self.excused = self.restarting
                except grpc.aio.AioRpcError as error:
                    name = error.code().name
                    if error.details() == "Internal error from Core":
                        # How grpc.aio tells of a refusal that comes while it still writes (grpc/grpc#36066).
                        name = "ended meanwhile"
                    if name == "UNAVAILABLE" and not (excused or self.excused):
                        name = "UNAVAILABLE, and the agent is up"
                    self.ends[name if name in EXPLAINED else f"{name}: {error.details()}"] += 1
                    if name == "UNAVAILABLE":
                        await asyncio.sleep(0.1)
                except asyncio.CancelledError:
                    if not self.running:
                        raise
                    self.ends["CANCELLED"] += 1
                except asyncio.InvalidStateError:
                    # What grpc.aio raises when one writes to a call that has just ended.
                    self.ends["ended meanwhile"] += 1

    async def unary(self, stub: AgentServiceStub) -> None:
        await stub.Execute(pb.ExecuteRequest(**query("SELECT 1")), timeout=10)

    async def stream(self, stub: AgentServiceStub) -> None:
        async for _ in stub.ExecuteStream(pb.ExecuteStreamRequest(**query("SELECT 1")), timeout=10):
            pass

    async def ingest(self, stub: AgentServiceStub) -> None:
        async def batches():
            for _ in range(3):
                yield pb.IngestRequest()

        with contextlib.suppress(asyncio.InvalidStateError):
            try:
                await stub.Ingest(batches(), timeout=10)
            except grpc.aio.AioRpcError as error:
                # An ingest of nothing is refused by the agent: an answer like another.
                if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                    raise

    async def converse(self, stub: AgentServiceStub) -> None:
        call = stub.Converse(timeout=10)
        for _ in range(2):
            await call.write(pb.ConverseRequest(**query("SELECT 1")))
            await call.read()
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass

    async def cancelled(self, stub: AgentServiceStub) -> None:
        call = stub.Execute(pb.ExecuteRequest(**query("SELECT 1")), timeout=10)
        await asyncio.sleep(self.random.uniform(0, 0.005))
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call

    async def hurried(self, stub: AgentServiceStub) -> None:
        await stub.Execute(pb.ExecuteRequest(**query("SELECT 1")), timeout=0.003)


async def disturb(pair: Pair, agent: AgentProcess, traffic: Traffic, counts: Counter[str], pause: float) -> None:
    """Rotate certificates and reload both sidecars, and restart the agent now and then."""
    turn = 0
    while True:
        await asyncio.sleep(pause)
        turn += 1
        for name in ("server", "client"):
            pair.pki.leaf(name, generation=turn + 1)
        counts["rotations"] += 2
        for sidecar in (pair.inbound, pair.outbound):
            text = sidecar.path.read_text()
            sidecar.path.write_text(f"{text.split('# turn')[0].rstrip()}\n# turn {turn}\n")
        counts["reloads"] += 2
        if turn % 4 == 0:
            traffic.excused = traffic.restarting = True
            await asyncio.to_thread(agent.stop)
            await asyncio.to_thread(agent.start)
            traffic.restarting = False
            counts["restarts"] += 1


def total(sidecar: Sidecar, name: str, label: str = "") -> int:
    """The sum of a metric's samples, of those with `label`."""
    status, page = sidecar.get("/metrics")
    assert status == 200, page
    found = [line for line in page.splitlines() if line.startswith(name) and label in line]
    return round(sum(float(line.rsplit(" ", 1)[1]) for line in found))


async def run(folder: Path, seconds: float, callers: int) -> dict:
    counts: Counter[str] = Counter()
    with AgentProcess() as agent, Pair(folder, agent.address, top=FAULTS) as pair:
        sidecars = {"inbound": pair.inbound, "outbound": pair.outbound}
        traffic = Traffic(pair.address, 1)
        tasks = [asyncio.create_task(traffic.caller()) for _ in range(callers)]
        await asyncio.sleep(min(10.0, seconds / 6))
        before = {name: descriptors(each) for name, each in sidecars.items()}
        trouble = asyncio.create_task(disturb(pair, agent, traffic, counts, max(2.0, seconds / 60)))
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in sidecars}
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            for name, each in sidecars.items():
                samples[name].append((now, rss_mib(each)))
            await asyncio.sleep(1)
        trouble.cancel()
        await asyncio.gather(trouble, return_exceptions=True)
        traffic.running = False
        await asyncio.wait(tasks, timeout=15)
        for each in tasks:
            each.cancel()
        for each in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(each, Exception):
                traffic.ends[f"{type(each).__name__}: {each}"] += 1
        await asyncio.sleep(3)
        return {
            "seconds": round(seconds),
            **counts,
            "ends": dict(traffic.ends),
            "rss MiB": {name: [round(each[0][1], 1), round(each[-1][1], 1)] for name, each in samples.items()},
            "MiB per minute, second half": {name: slope(each[len(each) // 2 :]) for name, each in samples.items()},
            "descriptors": {name: [before[name], descriptors(each)] for name, each in sidecars.items()},
            "RPCs left": {name: total(each, "sidecar_rpcs_active") for name, each in sidecars.items()},
            "aborted on purpose": sum(
                total(each, "sidecar_faults_total", 'kind="abort"') for each in sidecars.values()
            ),
        }


def slope(samples: list[tuple[float, float]]) -> float:
    """Least squares, per minute."""
    count = len(samples)
    mean_x, mean_y = sum(x for x, _ in samples) / count, sum(y for _, y in samples) / count
    spread = sum((x - mean_x) ** 2 for x, _ in samples) or 1.0
    return round(60 * sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread, 2)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--callers", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sidecar-soak-") as made:
        found = asyncio.run(run(Path(made), args.seconds, args.callers))
    print(json.dumps(found, indent=2))
    problems = [end for end in found["ends"] if end not in EXPLAINED]
    if found["ends"].get("DATA_LOSS", 0) > found["aborted on purpose"]:
        # Fewer are seen: some callers had gone by then.
        problems.append("more RPCs were aborted than faults injected")
    problems += [f"{name}: {count} RPCs are left" for name, count in found["RPCs left"].items() if count]
    problems += [
        f"{name}: memory grows by {rate} MiB a minute"
        for name, rate in found["MiB per minute, second half"].items()
        if rate > SLOPE
    ]
    problems += [
        f"{name}: {after} descriptors, {before} before"
        for name, (before, after) in found["descriptors"].items()
        if after > before + 8
    ]
    for each in problems:
        print(f"NOT WELL: {each}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
