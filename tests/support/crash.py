"""A trial of keyed RPCs under SIGKILL: callers that do not give up, an agent that counts in its own file, sidecars that die."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc.aio

from sidecar.clock import LoopClock, sleep
from tests.support.processes import Sidecar

METHOD = "/pay.v1.Payments/Pay"
LEASE = 1.5
"""Seconds; short, so that what died is known to be unknown soon."""
CONFIG = """
node: {{name: crash}}
admin: {{bind: "127.0.0.1:0"}}
store: {{url: "{store}"}}
listeners:
  - name: inbound
    direction: inbound
    bind: "127.0.0.1:{port}"
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
policies:
  deadline: {{default: 20s, max: 60s}}
  idempotency: {{lease: 1.5s, ttl: 1h}}
clusters:
  local: {{endpoints: ["{agent}"]}}
"""


async def _pause(seconds: float) -> None:
    """Work, or the moment of a crash: part of the trial, and nothing that anybody waits for to be over."""
    await sleep(LoopClock(asyncio.get_running_loop()), seconds)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Payments:
    """The agent: each execution is a line in its file before it is answered."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.busy = asyncio.Event()
        self._file = path.open("a")
        self._random = random.Random(seed)
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handler = grpc.method_handlers_generic_handler(
            "pay.v1.Payments", {"Pay": grpc.unary_unary_rpc_method_handler(self._pay)}
        )
        self._server.add_generic_rpc_handlers((handler,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def _pay(self, request: bytes, context: object) -> bytes:
        self._file.write(request.decode() + "\n")
        self._file.flush()
        self.busy.set()
        await _pause(self._random.uniform(0.0, 0.25))
        # Different each time: a second execution would show.
        return request + b" paid %d" % self._random.getrandbits(48)

    def executions(self) -> Counter[str]:
        return Counter(self.path.read_text().split())

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop(None)
        self._file.close()


@dataclass
class Findings:
    """What callers learned: the answers of each key, and how its RPCs ended."""

    answers: dict[str, set[bytes]] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)
    tries: int = 0
    kills: int = 0


async def pay(channels: list[grpc.aio.Channel], key: str, findings: Findings, chance: random.Random) -> None:
    """Until it is OK, or known to be unknown: nobody who has to pay gives up at a lost connection."""
    for _ in range(400):
        findings.tries += 1
        call = channels[chance.randrange(len(channels))].unary_unary(METHOD)
        try:
            answer: bytes = await call(key.encode(), metadata=(("idempotency-key", key),), timeout=10)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.ABORTED:
                findings.ends["unknown"] += 1
                return
            if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
                findings.ends[f"{error.code().name}: {error.details()}"] += 1
                return
            await _pause(chance.uniform(0.01, 0.1))
            continue
        findings.answers.setdefault(key, set()).add(answer)
        findings.ends["ok"] += 1
        return
    findings.ends["gave up"] += 1


async def callers(addresses: list[str], keys: int, per_key: int, count: int, findings: Findings, seed: int) -> None:
    """`count` callers at once pay `keys` keys, each of them `per_key` times, in any order."""
    chance = random.Random(seed)
    work = [f"pay-{i}" for i in range(keys) for _ in range(per_key)]
    chance.shuffle(work)
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    channels = [grpc.aio.insecure_channel(each, options) for each in addresses]

    async def caller() -> None:
        while work:
            await pay(channels, work.pop(), findings, chance)

    try:
        await asyncio.gather(*(caller() for _ in range(count)))
    finally:
        for each in channels:
            await each.close()


async def killer(sidecars: list[Sidecar], findings: Findings, pause: tuple[float, float], seed: int) -> None:
    """SIGKILL one of them at a random moment, start it again; for ever."""
    chance = random.Random(seed)
    while True:
        await _pause(chance.uniform(*pause))
        sidecar = chance.choice(sidecars)
        await asyncio.to_thread(sidecar.kill)
        findings.kills += 1
        await asyncio.to_thread(sidecar.start)


async def trial(
    folder: Path, store: str, *, keys: int, per_key: int, sidecars: int = 1, seed: int = 1, pause: tuple[float, float]
) -> tuple[Findings, Payments]:
    """The whole trial; at its end each answer that was given is asked for again."""
    findings = Findings()
    async with Payments(folder / "executions", seed) as agent:
        ports = [free_port() for _ in range(sidecars)]
        running = [
            Sidecar(CONFIG.format(store=store, port=port, agent=agent.address), folder, name=f"crash-{port}")
            for port in ports
        ]
        try:
            await asyncio.gather(*(asyncio.to_thread(each.start) for each in running))
            addresses = [f"127.0.0.1:{port}" for port in ports]
            death = asyncio.create_task(killer(running, findings, pause, seed))
            try:
                await callers(addresses, keys, per_key, 8, findings, seed)
            finally:
                death.cancel()
                await asyncio.gather(death, return_exceptions=True)
            await asyncio.gather(*(asyncio.to_thread(each.start) for each in running if not each.is_running))
            again = Findings()
            channel = [grpc.aio.insecure_channel(addresses[0])]
            for key in findings.answers:
                await pay(channel, key, again, random.Random(seed))
            await channel[0].close()
            for key, answers in again.answers.items():
                findings.answers[key] |= answers
            findings.ends["lost"] = len(findings.answers) - len(again.answers)
        finally:
            await asyncio.gather(*(asyncio.to_thread(each.kill) for each in running))
    return findings, agent
