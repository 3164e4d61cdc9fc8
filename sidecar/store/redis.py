"""A store in Redis, shared by the sidecars of many hosts: one atomic script per transition, Redis' own clock.

Why one flusher and not a command per RPC? A command costs redis-py about a quarter of a millisecond of our processor
and a connection while it is under way. What comes while the last pipeline is out goes into the next one: one
connection, one system call, and a pipeline of one when there is little to do.

While Redis is lost, callers learn it at once: it is asked again after a backoff, by the next caller then, and by nobody
in between. Every operation may be repeated after a connection was lost: reservations have ids, what is settled is
known to be for a while, and a limit that counted one too many errs on the safe side.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.resources
from collections import deque
from typing import TYPE_CHECKING, Any

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sidecar.store.interface import StoreUnavailable
from sidecar.store.ledger import SETTLED_FOR, Allowance, Shortage
from sidecar.store.records import Record

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from sidecar.clock import Clock
    from sidecar.store.gcra import Pace

_BATCH = 256
_QUEUE = 10_000
_BACKOFF_FIRST = 0.05
_BACKOFF_MAX = 2.0
_SCAN_TIMEOUT = 10.0
# Records may be large: seconds more for one to come, and bytes per second that one which is sent may count on.
_LARGE = 0.5
_SLOWEST = 8 * 1024 * 1024
_TICKS_PER_SECOND = 16_000_000


class RedisStore:
    """Connects at first use and again whenever the connection is lost."""

    def __init__(
        self,
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster,
        where: str,
        clock: Clock,
        random: random.Random,
        *,
        timeout: float = 0.5,
    ) -> None:
        """`client` connects when it is used; `where` names it in errors, without credentials.

        `timeout`: seconds for any answer at all, connecting included; records have more, by their size.
        """
        self._client = client
        self._where = where
        self._clock = clock
        self._random = random
        self._timeout = timeout
        self._scripts = {name: _Script(name) for name in ("take", "exchange", "renew", "swap", "lead", "record")}
        self._queue: deque[_Command] = deque()
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False
        # While Redis is lost: not asked before `_down_until` (monotonic seconds); the last cause.
        self._down_until = 0.0
        self._backoff = 0.0
        self._cause = StoreUnavailable("unreachable", where)

    # ── limits ──

    async def take(self, key: str, pace: Pace, quantity: int = 1, *, peek: bool = False) -> float:
        # Rounded up, as `Pace.of` does: never faster than configured.
        interval = -(-pace.interval * 16 // 1000)
        answer = await self._run("take", (f"sidecar:{{{key}}}",), (interval, pace.burst, quantity, int(peek)))
        return int(answer) / _TICKS_PER_SECOND

    # ── budgets ──

    async def reserve(
        self, key: str, allowance: Allowance, reservation: str, amount: int, *, lease: float, peek: bool = False
    ) -> Shortage | None:
        return await self._exchange(key, allowance, reservation, spent=0, amount=amount, lease=lease, peek=peek)

    async def charge(
        self, key: str, allowance: Allowance, reservation: str, spent: int, *, reserve: int, lease: float
    ) -> Shortage | None:
        return await self._exchange(key, allowance, reservation, spent=spent, amount=reserve, lease=lease)

    async def settle(self, key: str, allowance: Allowance, reservation: str, spent: int) -> None:
        await self._exchange(key, allowance, reservation, spent=spent, amount=0, lease=0, settles=True)

    async def renew(self, reservations: Sequence[tuple[str, str]], *, lease: float) -> None:
        await asyncio.gather(
            *(self._run("renew", _budget_keys(key), (each, round(lease * 1_000_000))) for key, each in reservations)
        )

    async def _exchange(
        self,
        key: str,
        allowance: Allowance,
        reservation: str,
        *,
        spent: int,
        amount: int,
        lease: float,
        peek: bool = False,
        settles: bool = False,
    ) -> Shortage | None:
        arguments = (
            reservation,
            allowance.limit,
            -(-allowance.window // 1000),
            spent,
            amount,
            round(lease * 1_000_000),
            int(peek),
            SETTLED_FOR // 1000 if settles else 0,
        )
        fits, used, reserved, resets = await self._run("exchange", _budget_keys(key), arguments)
        return None if int(fits) else Shortage(int(used), int(reserved), int(resets) / 1_000_000)

    # ── registers and leases ──

    async def read(self, key: str) -> bytes | None:
        answer = await self._run("swap", (f"sidecar:{{{key}}}",), ("read",))
        return _bytes(answer)

    async def swap(self, key: str, expected: bytes | None, value: bytes) -> bool:
        how = "create" if expected is None else "replace"
        return bool(await self._run("swap", (f"sidecar:{{{key}}}",), (how, value, expected or b"")))

    async def lead(self, key: str, owner: str, seconds: float) -> bool:
        return bool(await self._run("lead", (f"sidecar:{{{key}}}",), (owner, round(seconds * 1000))))

    # ── records ──

    async def find(self, key: str) -> Record | None:
        answer = await self._run("record", (f"sidecar:{{{key}}}",), ("find",))
        return _record(answer) if answer else None

    async def put(self, key: str, expected: bytes | None, value: bytes, *, keep: float) -> Record | bool:
        how = "create" if expected is None else "replace"
        arguments = (how, value, max(1, round(keep * 1000)), expected or b"")
        answer = await self._run("record", (f"sidecar:{{{key}}}",), arguments)
        return _record(answer) if isinstance(answer, list) else bool(answer)

    async def scan(self, prefix: str, after: str, limit: int) -> list[tuple[str, Record]]:
        # Seldom, and for people: the keys of a Redis have no order.
        keys = []
        try:
            async with asyncio.timeout(_SCAN_TIMEOUT):
                async for each in self._client.scan_iter(match=f"sidecar:{{{prefix}*}}", count=1000):
                    name = each.decode() if isinstance(each, bytes) else each
                    keys.append(name[len("sidecar:{") : -1])
        except Exception as error:
            raise self._explained(error) from None
        found = []
        for key in sorted(each for each in keys if each > after)[:limit]:
            record = await self.find(key)
            if record is not None:
                found.append((key, record))
        return found

    # ── life ──

    async def ping(self) -> None:
        await self._run("take", ("sidecar:{ping}",), (1, 1, 1, 1))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._flusher is not None:
            await self._flusher
        await self._client.aclose()
        # A client that a Sentinel led to does not own the connections to the Sentinels.
        pool = getattr(self._client, "connection_pool", None)
        sentinel = getattr(pool, "sentinel_manager", None)
        for each in sentinel.sentinels if sentinel is not None else ():
            await each.aclose()

    # ── commands ──

    async def _run(self, script: str, keys: tuple[str, ...], arguments: tuple[str | int | bytes, ...]) -> Any:
        if self._closed:
            raise StoreUnavailable("closed", f"{self._where} is closed")
        if self._clock.monotonic() < self._down_until:
            raise StoreUnavailable(self._cause.kind, str(self._cause))
        if len(self._queue) >= _QUEUE:
            raise StoreUnavailable("overloaded", f"{self._where}: {_QUEUE} commands wait to be sent")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append(_Command(self._scripts[script], keys, arguments, future))
        if self._flusher is None:
            self._flusher = asyncio.get_running_loop().create_task(self._flush(), name="store")
        return await future

    async def _flush(self) -> None:
        """Send what waits until nothing does. Never raises: whoever waits is told instead."""
        try:
            while self._queue:
                commands = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
                commands = [each for each in commands if not each.future.cancelled()]
                if commands:
                    await self._send(commands)
        finally:
            self._flusher = None

    async def _send(self, commands: list[_Command]) -> None:
        try:
            records = _LARGE if any(each.script is self._scripts["record"] for each in commands) else 0.0
            async with asyncio.timeout(self._timeout + records + sum([each.patience for each in commands])):
                try:
                    answers = await self._pipeline(commands)
                except (exceptions.TimeoutError, TimeoutError):
                    raise
                except (exceptions.ConnectionError, OSError):
                    # A connection that Redis had closed meanwhile shows only now; a fresh one may do.
                    answers = await self._pipeline(commands)
        except Exception as error:
            self._lost(commands, self._explained(error))
            return
        self._backoff = self._down_until = 0.0
        for command, answer in zip(commands, answers, strict=True):
            if command.future.done():
                continue
            if isinstance(answer, Exception):
                command.future.set_exception(self._explained(answer))
            else:
                command.future.set_result(answer)

    async def _pipeline(self, commands: list[_Command]) -> list[Any]:
        answers = await self._evaluate(commands, by_name=True)
        # Redis was restarted, or is new to us: it does not know the scripts by their digest.
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, exceptions.NoScriptError)]
        if unknown:
            again = await self._evaluate([commands[i] for i in unknown], by_name=False)
            for i, answer in zip(unknown, again, strict=True):
                answers[i] = answer
        return answers

    async def _evaluate(self, commands: list[_Command], *, by_name: bool) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for each in commands:
                if by_name:
                    pipeline.execute_command("EVALSHA", each.script.digest, len(each.keys), *each.keys, *each.arguments)
                else:
                    pipeline.execute_command("EVAL", each.script.text, len(each.keys), *each.keys, *each.arguments)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
            return answers

    def _lost(self, commands: list[_Command], cause: StoreUnavailable) -> None:
        self._backoff = min(self._backoff * 2, _BACKOFF_MAX) or _BACKOFF_FIRST
        # gRPC's connection backoff, for the same reason: sidecars that lost Redis together do not come back together.
        self._down_until = self._clock.monotonic() + self._backoff * self._random.uniform(0.8, 1.2)
        self._cause = cause
        commands += self._queue
        self._queue.clear()
        for command in commands:
            if not command.future.done():
                command.future.set_exception(StoreUnavailable(cause.kind, str(cause)))

    def _explained(self, error: Exception) -> StoreUnavailable:
        if isinstance(error, exceptions.TimeoutError | TimeoutError):
            return StoreUnavailable("timeout", f"{self._where} gave no answer for {self._timeout:g} s")
        text = f"{self._where}: {error}"
        if isinstance(error, exceptions.OutOfMemoryError):
            return StoreUnavailable("full", text)
        if isinstance(error, exceptions.ReadOnlyError):
            return StoreUnavailable("read_only", text)
        if isinstance(error, exceptions.ConnectionError | OSError):
            return StoreUnavailable("unreachable", text)
        return StoreUnavailable("error", text)


def options(timeout: float = 0.25) -> dict[str, Any]:
    """How every client of ours behaves: bounded waits, no repetition behind our back.

    Answers are waited for by whoever asks, who knows how large they may be.
    """
    return {
        "socket_timeout": _SCAN_TIMEOUT,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": 4,
    }


class _Script:
    """A Lua file beside this one."""

    def __init__(self, name: str) -> None:
        self.text = importlib.resources.files(__package__ or "").joinpath(f"{name}.lua").read_text("utf-8")
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class _Command:
    """One script call that waits for its pipeline; `patience`: seconds that its size adds."""

    __slots__ = ("arguments", "future", "keys", "patience", "script")

    def __init__(
        self,
        script: _Script,
        keys: tuple[str, ...],
        arguments: tuple[str | int | bytes, ...],
        future: asyncio.Future[Any],
    ) -> None:
        self.script = script
        self.keys = keys
        self.arguments = arguments
        self.future = future
        self.patience = sum([len(each) for each in arguments if isinstance(each, bytes)]) / _SLOWEST


def _record(answer: list[Any]) -> Record:
    return Record(_bytes(answer[0]) or b"", max(0, int(answer[1])) / 1_000_000)


def _bytes(answer: Any) -> bytes | None:
    """What a key holds; a client that decodes gives text."""
    return answer.encode() if isinstance(answer, str) else answer


def _budget_keys(key: str) -> tuple[str, str, str]:
    # One hash tag: a cluster keeps the three together.
    return f"sidecar:{{{key}}}", f"sidecar:{{{key}}}:leases", f"sidecar:{{{key}}}:amounts"
