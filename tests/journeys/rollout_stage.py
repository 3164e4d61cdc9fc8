"""Two versions of an agent, a sidecar with a rollout before them, and a caller with an even pace that keeps every outcome."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.journeys.raw import Exchange, RawAgent, RawCaller
from tests.support.processes import Sidecar
from tests.support.wire import RESPONSE, ScriptedStream, block, message

CONFIG = """
node: {{name: {node}}}
admin: {{bind: "127.0.0.1:0"}}
{top}
listeners:
  - name: inbound
    direction: inbound
    bind: "127.0.0.1:0"
    routes: [{{name: all, match: {{method: "/*"}}, to: agent{route}}}]
clusters:
  agent:
    versions:
      stable: {{endpoints: ["{stable}"]}}
      canary: {{endpoints: ["{canary}"]}}
    rollout:
      stable: stable
      candidate: canary
{rollout}
"""
QUICK = """
      steps: [10, 50, 100]
      first_step_for: 1s
      step_for: 1s
      ready_within: 2s
      analysis: {interval: 250ms, min_rpcs: 10, max_failed_checks: 2, success_rate: {min: 99},
                 compare_to_stable: {success_rate_drop: 1, latency_p99_ratio: 2, latency_slack: 15ms}}
"""
LIMIT = 20.0
SERVING, NOT_SERVING = 1, 2
Answer = Callable[[ScriptedStream, int], None]


def serve(stream: ScriptedStream, number: int) -> None:
    stream.send_headers(block(*RESPONSE))
    stream.send_data(bytes(stream.seen.data), False)
    stream.send_trailers(block(("grpc-status", "0")))


def fail(stream: ScriptedStream, number: int) -> None:
    stream.send_headers(block(*RESPONSE, ("grpc-status", "13"), ("grpc-message", "boom")), True)


def fails_each(nth: int) -> Answer:
    return lambda stream, number: fail(stream, number) if number % nth == 0 else serve(stream, number)


def slow(seconds: float) -> Answer:
    def answer(stream: ScriptedStream, number: int) -> None:
        def later() -> None:
            if not stream.local_closed:
                serve(stream, number)

        asyncio.get_running_loop().call_later(seconds, later)

    return answer


def hang(stream: ScriptedStream, number: int) -> None:
    """Never answers."""


class Version(RawAgent):
    """An agent of one version: it answers whole requests by `answer`, says `health`, and counts."""

    def __init__(self, answer: Answer = serve, health: int = SERVING) -> None:
        super().__init__(self._on_event, keeps=False)
        self.answer = answer
        self.calls = 0
        self._health = health
        self._watches: list[ScriptedStream] = []

    def _on_event(self, stream: ScriptedStream, event: str) -> None:
        if event != "end":
            return
        path = stream.seen.value(":path")
        if path == "/grpc.health.v1.Health/Watch":
            stream.send_headers(block(*RESPONSE))
            stream.send_data(message(bytes([8, self._health])), False)
            self._watches.append(stream)
        elif path is not None and path.endswith("/Smoke"):
            serve(stream, 0)
        else:
            self.calls += 1
            self.answer(stream, self.calls)

    def says(self, health: int) -> None:
        """From now on, to all who watch."""
        self._health = health
        for stream in self._watches:
            stream.send_data(message(bytes([8, health])), False)

    def crash(self) -> None:
        """Hang up, and be gone."""
        self._watches.clear()
        self.stop()


class Pace:
    """Unary RPCs, so many a second, until `stop`; `codes` are those that have ended, by grpc-status (None: no status)."""

    def __init__(self, address: str, rate: int, *metadata: tuple[str, str]) -> None:
        self._address = address
        self._interval = 1 / rate
        self._metadata = metadata
        self.calls: list[Exchange] = []
        self._stopped = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._caller: RawCaller | None = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._caller is not None
        due = loop.time()
        while not self._stopped.is_set():
            self.calls.append(self._caller.open(*self._metadata, body=b"x", end=True))
            due += self._interval
            try:
                async with asyncio.timeout_at(max(due, loop.time())):
                    await self._stopped.wait()
            except TimeoutError:
                continue

    async def __aenter__(self) -> Self:
        self._caller = await RawCaller.connect(self._address)
        self._task = asyncio.create_task(self._run())
        return self

    async def stop(self) -> Counter[int | None]:
        """Make no more, wait for those that run; the codes of all."""
        self._stopped.set()
        if self._task is not None:
            task, self._task = self._task, None
            await task
        for each in self.calls:
            await each.over()
        return self.codes

    @property
    def codes(self) -> Counter[int | None]:
        return Counter(each.seen.status for each in self.calls if each.seen.ended or each.seen.reset is not None)

    @property
    def failed(self) -> int:
        return sum(number for code, number in self.codes.items() if code != 0)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._task is not None:
            await self._task
        if self._caller is not None:
            self._caller.close()


class Stage:
    """`async with Stage(folder) as stage:` — two versions and a sidecar; more sidecars with `another`."""

    def __init__(
        self,
        folder: Path,
        *,
        rollout: str = QUICK,
        top: str = "",
        route: str = "",
        stable: Version | None = None,
        canary: Version | None = None,
    ) -> None:
        self.folder = folder
        self._rollout, self._top, self._route = rollout, top, route
        self.stable = stable or Version()
        self.canary = canary or Version()
        self.sidecars: list[Sidecar] = []

    @property
    def sidecar(self) -> Sidecar:
        return self.sidecars[0]

    @property
    def address(self) -> str:
        return self.sidecar.addresses["inbound"]

    def config(self, node: str) -> str:
        return CONFIG.format(
            node=node,
            top=self._top,
            route=self._route,
            stable=self.stable.address,
            canary=self.canary.address,
            rollout=self._rollout,
        )

    async def another(self) -> Sidecar:
        name = f"sidecar-{len(self.sidecars) + 1}"
        made = Sidecar(self.config(name), self.folder, name=name)
        self.sidecars.append(made)
        await asyncio.to_thread(made.start)
        return made

    async def restart(self) -> None:
        """Kill the first sidecar, as a crash would, and start another in its place."""
        former = self.sidecars[0]
        await asyncio.to_thread(former.kill)
        self.sidecars[0] = Sidecar(former.path.read_text(), self.folder, name=former.path.stem)
        await asyncio.to_thread(self.sidecars[0].start)

    async def __aenter__(self) -> Self:
        await self.stable.start()
        await self.canary.start()
        await self.another()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self.sidecars:
            await asyncio.to_thread(each.stop)
        self.stable.stop()
        self.canary.stop()

    async def look(self, sidecar: Sidecar | None = None) -> dict[str, Any]:
        status, body = await asyncio.to_thread((sidecar or self.sidecar).get, "/rollout?cluster=agent")
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    async def order(self, order: str, sidecar: Sidecar | None = None) -> tuple[int, str]:
        return await asyncio.to_thread(
            (sidecar or self.sidecar).request, "POST", f"/rollout/{order}?cluster=agent&by=test"
        )

    async def until(
        self, condition: Callable[[dict[str, Any]], bool], sidecar: Sidecar | None = None, limit: float = LIMIT
    ) -> dict[str, Any]:
        """Look until it is so; the rollout as it is then."""
        found: dict[str, Any] = {}
        try:
            async with asyncio.timeout(limit):
                while not condition(found := await self.look(sidecar)):
                    await asyncio.to_thread((sidecar or self.sidecar).get, "/livez")
        except TimeoutError:
            raise AssertionError(f"it never came to that: {json.dumps(found, indent=1)}") from None
        return found

    async def phase(self, *phases: str, sidecar: Sidecar | None = None, limit: float = LIMIT) -> dict[str, Any]:
        return await self.until(lambda found: found["phase"] in phases, sidecar, limit)
