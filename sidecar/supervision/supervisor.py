"""Starts the agent, gives it traffic when it serves, repairs it when it fails, and says when it cannot.

    supervisor.begin()               # on the loop, after the listeners are bound: nobody gets through yet
    await supervisor.settled()       # it serves (True), or was given up (False)
    …
    await supervisor.close()         # after the drain: TERM, then KILL

One agent is one `Child`; each round of `_run` is one life of it. A symptom ends a round; the actions configured for it are done in
their order, each is recorded, and the next round begins after a pause, unless there were too many.
"""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Any

from sidecar.clock import sleep
from sidecar.store.interface import StoreUnavailable
from sidecar.supervision.child import Child, NotServing
from sidecar.supervision.history import History
from sidecar.supervision.serving import Answer
from sidecar.supervision.symptoms import Growth, Patience, Since, Wedge
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.runtime import Runtime
    from sidecar.supervision.child import Launch
    from sidecar.supervision.config import AgentConfig
    from sidecar.supervision.ended import Ended
    from sidecar.supervision.surroundings import Surroundings

_LOOK_EVERY = 1.0
_CONNECT_WITHIN = 5.0
_DRAIN_LOOK = 0.05


class AgentState(enum.Enum):
    """Where the agent stands in its life."""

    STARTING = "starting"
    SERVING = "serving"
    NOT_SERVING = "not serving"
    RECOVERING = "being recovered"
    WAITING = "waiting for its restart"
    GIVEN_UP = "given up: manual intervention required"
    STOPPED = "stopped"


class Symptom(Exception):
    """Ends a life: what was seen. `actions` are done in their order."""

    def __init__(self, name: str, cause: str, actions: tuple[str, ...] = ("restart",)) -> None:
        super().__init__(cause)
        self.name = name
        self.cause = cause
        self.actions = actions


class Supervisor:
    """See the module. Metrics and `view` say how the agent fares."""

    def __init__(
        self,
        config: AgentConfig,
        launch: Launch,
        surroundings: Surroundings,
        runtime: Runtime,
        *,
        drain_timeout: float,
        once: Callable[[Ended | None], None] | None = None,
        make: Callable[[Launch, Runtime], Child] = Child,
    ) -> None:
        """`once`: no recovery; called when the agent has ended, however, with how. `drain_timeout`: seconds."""
        self.state = AgentState.STARTING
        self.child: Child | None = None
        self.starts = 0
        self.history = History(runtime)
        self._config = config
        self._launch = launch
        self._around = surroundings
        self._runtime = runtime
        self._clock = runtime.clock
        self._log = runtime.log
        self._drain_timeout = drain_timeout
        self._once = once
        self._make = make
        recovery = config.recovery
        self._patience = Patience(recovery.crash.backoff, recovery.give_up_after, runtime.random)
        self.cause = ""
        """What was seen last, in words."""
        self._settled = asyncio.Event()
        self._ending = asyncio.Event()
        self._asked = asyncio.Event()
        self._served_at: float | None = None
        # Bytes, when it was looked at last; a look takes too long for whoever shows it.
        self._resident = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._show()

    # ── life ──

    def begin(self) -> None:
        self._enter(AgentState.STARTING)
        self._tasks.append(self._runtime.spawn(self._run(), "agent"))
        recovery = self._config.recovery
        if recovery.store_lost is not None or recovery.network is not None:
            self._tasks.append(self._runtime.spawn(self._look_around(), "agent surroundings"))

    async def settled(self) -> bool:
        """Wait until it serves (True), or was given up, or ended for good (False)."""
        await self._settled.wait()
        return self.state in {AgentState.SERVING, AgentState.NOT_SERVING}

    async def close(self, *, at_once: bool = False) -> Ended | None:
        """Stop it for good; how it ended."""
        self._ending.set()
        ended = None
        if self.child is not None:
            ended = await self.child.stop(0.0 if at_once else self._config.grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._enter(AgentState.STOPPED)
        return ended

    def restart(self) -> None:
        """Somebody asks for it; after it was given up this begins anew."""
        self._asked.set()

    # ── one life after the other ──

    async def _run(self) -> None:
        goes_on = False
        while not self._ending.is_set():
            try:
                await (self._go_on() if goes_on else self._live())
            except Symptom as symptom:
                if self._ending.is_set():
                    return
                if self._once is not None:
                    await self._end_for_good(symptom)
                    return
                goes_on = await self._recover(symptom)

    async def _live(self) -> None:
        """One process, from its start to the symptom that ends it. Always raises Symptom."""
        self._served_at = None
        self._enter(AgentState.STARTING)
        child = self.child = self._make(self._launch, self._runtime)
        self.starts += 1
        try:
            await child.start()
            await child.serving(self._config.ready.within)
        except OSError as error:
            raise Symptom("crash", f"it cannot be started: {error.strerror}: {error.filename}") from None
        except NotServing as error:
            raise Symptom("crash", str(error)) from None
        self._log.info("agent serves", extra={"pid": child.pid, "health_service": child.has_health_service})
        self._around.hurry()
        await self._connected()
        self._served_at = self._clock.monotonic()
        self._resident = await asyncio.to_thread(child.memory)
        self._enter(AgentState.SERVING)
        await self._watch(child)

    async def _go_on(self) -> None:
        """What was done may have been enough; the same process goes on, and is watched anew."""
        assert self.child is not None
        self._enter(AgentState.SERVING)
        await self._watch(self.child)

    async def _connected(self) -> None:
        """It serves, so RPCs can be sent as soon as our own connection stands; who comes earlier would be refused once more."""
        ends = self._clock.monotonic() + _CONNECT_WITHIN
        while not self._around.is_connected and self._clock.monotonic() < ends:
            await sleep(self._clock, _DRAIN_LOOK)

    async def _watch(self, child: Child) -> None:
        recovery = self._config.recovery
        wedge = Wedge(recovery.wedged.when) if recovery.wedged is not None else None
        growth = Growth(recovery.memory.when) if recovery.memory is not None else None
        health = self._config.ready.health_check
        look_every = min(_LOOK_EVERY, health.interval)
        asking: asyncio.Task[Answer] | None = None
        asked_at = self._clock.monotonic()
        answers = True
        ended = self._runtime.spawn(child.wait(), "agent end")
        asked = self._runtime.spawn(self._asked.wait(), "agent restart")
        try:
            while True:
                tick = self._runtime.spawn(sleep(self._clock, look_every), "agent look")
                try:
                    await asyncio.wait({ended, asked, tick}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    tick.cancel()
                if ended.done():
                    raise Symptom("crash", f"it ended with {ended.result()}")
                if asked.done():
                    self._asked.clear()
                    self._patience.begin_anew()
                    raise Symptom("asked", "somebody asked for it", ("drain", "restart"))
                now = self._clock.monotonic()
                if asking is not None and asking.done():
                    answer = asking.result()
                    asking = None
                    answers = answer is not Answer.NO_ANSWER
                    self._judge(answer)
                # Not on the loop: /proc of a large machine takes some milliseconds.
                if growth is not None or now - asked_at >= health.interval:
                    self._resident = await asyncio.to_thread(child.memory)
                if asking is None and now - asked_at >= health.interval:
                    asked_at = now
                    asking = self._runtime.spawn(child.ask(health.timeout), "agent health")
                # A reload may have made its cluster anew.
                self._apply()
                if wedge is not None and recovery.wedged is not None:
                    stuck = wedge.progress(self._around.standing(), now) or wedge.health(answers, now)
                    if stuck is not None:
                        raise Symptom("wedged", stuck, recovery.wedged.do)
                if growth is not None and recovery.memory is not None:
                    grown = growth.look(self._resident, now)
                    if grown is not None:
                        raise Symptom("memory", grown, recovery.memory.do)
        finally:
            for task in (ended, asked, asking):
                if task is not None:
                    task.cancel()

    def _judge(self, answer: Answer) -> None:
        """Its own word on whether it serves decides whether it gets RPCs; that it gives none is no word."""
        if answer is Answer.NOT_SERVING and self.state is AgentState.SERVING:
            self._log.warning("agent says that it does not serve")
            self._enter(AgentState.NOT_SERVING)
        elif answer.serves and self.state is AgentState.NOT_SERVING:
            self._log.info("agent says that it serves again")
            self._enter(AgentState.SERVING)

    # ── recovery ──

    async def _recover(self, symptom: Symptom) -> bool:
        """Do what is configured. Does the same process go on?"""
        self.cause = symptom.cause
        self._log.error("agent fails", extra={"symptom": symptom.name, "cause": symptom.cause})
        self._enter(AgentState.RECOVERING)
        for action in symptom.actions:
            if action == "drain":
                await self._drain(symptom)
            elif action == "clear_cache":
                at = self._clock.monotonic()
                count = self._around.clear_cache()
                self.history.note(symptom.name, action, "done", f"{count} answers forgotten", began=at)
        served_for = 0.0 if self._served_at is None else self._clock.monotonic() - self._served_at
        if "restart" not in symptom.actions:
            return True
        at = self._clock.monotonic()
        if self.child is not None:
            await self.child.stop(0.0 if symptom.name == "wedged" else self._config.grace)
        pause = 0.0 if symptom.name == "asked" else self._patience.failed(self._clock.monotonic(), served_for)
        if pause is None:
            self.history.note(symptom.name, "give_up", "given_up", f"{self._patience.said}; {symptom.cause}", began=at)
            await self._give_up()
            return False
        self.history.note(symptom.name, "restart", "done", symptom.cause, began=at)
        self._enter(AgentState.WAITING)
        await self._until(pause)
        return False

    async def _drain(self, symptom: Symptom) -> None:
        """RPCs that run may finish; new ones are told to come again."""
        at = self._clock.monotonic()
        while (left := self._around.in_flight) and self._clock.monotonic() - at < self._drain_timeout:
            if self.child is None or not self.child.is_running:
                break
            await sleep(self._clock, _DRAIN_LOOK)
        result = "failed" if left else "done"
        said = f"{left} RPCs were still running after {self._drain_timeout:g} s" if left else "no RPC was cut"
        self.history.note(symptom.name, "drain", result, said, began=at)

    async def _give_up(self) -> None:
        self._enter(AgentState.GIVEN_UP)
        self._log.error(
            "agent given up: manual intervention required",
            extra={
                "cause": self.cause,
                "hint": "repair it, then restart it at the admin address: POST /agent/restart",
            },
        )
        self._settled.set()
        waiting = [self._runtime.spawn(each.wait(), "agent given up") for each in (self._asked, self._ending)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        self._asked.clear()
        self._patience.begin_anew()

    async def _end_for_good(self, symptom: Symptom) -> None:
        self.cause = symptom.cause
        self._log.info("command ended", extra={"cause": symptom.cause})
        if self.child is not None:
            await self.child.stop(self._config.grace)
        self._enter(AgentState.STOPPED)
        self._settled.set()
        assert self._once is not None
        self._once(self.child.ended if self.child is not None else None)

    async def _until(self, seconds: float) -> None:
        """A pause that ends early when we end, or somebody asks for the restart."""
        waiting = [
            self._runtime.spawn(each, "agent pause")
            for each in (self._ending.wait(), self._asked.wait(), sleep(self._clock, seconds))
        ]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        self._asked.clear()

    # ── store and network ──

    async def _look_around(self) -> None:
        store_lost, network = self._config.recovery.store_lost, self._config.recovery.network
        silent = Since()
        lost: dict[str, Since] = {}
        while not self._ending.is_set():
            await sleep(self._clock, _LOOK_EVERY)
            now = self._clock.monotonic()
            if store_lost is not None and self._around.store is not None:
                cause = await self._store_problem()
                seconds = silent.seconds(cause is not None, now)
                if seconds is not None and seconds >= store_lost.when.length:
                    # A store's client connects with each question, unless it rests after a failure; by now it does not.
                    again = await self._store_problem()
                    self.history.note("store_lost", "reconnect", "failed" if again else "done", cause or "", began=now)
                    silent = Since()
            if network is not None:
                unreachable = self._around.unreachable()
                lost = {name: lost.get(name, Since()) for name in unreachable}
                for name, since in lost.items():
                    seconds = since.seconds(True, now)
                    if seconds is not None and seconds >= network.when.length:
                        self._around.reset(name)
                        lost[name] = Since()
                        self.history.note(
                            "network",
                            "reset_connections",
                            "done",
                            f"cluster {name}: no endpoint reached for {seconds:.1f} s",
                            began=now,
                        )

    async def _store_problem(self) -> str | None:
        store = self._around.store
        assert store is not None
        try:
            await store.ping()
        except StoreUnavailable as error:
            return error.kind
        return None

    # ── what is shown ──

    def _enter(self, state: AgentState) -> None:
        if state is not self.state:
            self.state = state
        self._apply()
        if state is AgentState.SERVING:
            self._settled.set()

    def _apply(self) -> None:
        self._around.hold(None if self.state is AgentState.SERVING else f"is {self.state.value}")

    @property
    def is_serving(self) -> bool:
        return self.state is AgentState.SERVING

    @property
    def is_given_up(self) -> bool:
        return self.state is AgentState.GIVEN_UP

    def _show(self) -> None:
        read = self._runtime.metrics.read
        read(names.AGENT_SERVING, lambda: [((), self.is_serving)])
        read(names.AGENT_GIVEN_UP, lambda: [((), self.is_given_up)])
        read(names.AGENT_STARTS, lambda: [((), self.starts)])
        read(names.AGENT_MEMORY, lambda: [((), self._resident)])

    def view(self) -> dict[str, Any]:
        child = self.child
        now = self._clock.monotonic()
        is_serving = self._served_at is not None and self.state in {AgentState.SERVING, AgentState.NOT_SERVING}
        return {
            "state": self.state.value,
            "serving": self.is_serving,
            "given_up": self.is_given_up,
            "cause": self.cause,
            "command": list(self._launch.command[:1]),
            "pid": child.pid if child is not None and child.is_running else None,
            "starts": self.starts,
            "serving_for_seconds": round(now - self._served_at, 3) if is_serving and self._served_at else None,
            "has_health_service": child.has_health_service if child is not None else None,
            "memory_bytes": self._resident if is_serving else 0,
            "in_flight": self._around.in_flight,
            "recoveries": self.history.view(),
        }
