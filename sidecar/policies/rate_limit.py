"""Rate limits by GCRA: RPCs, or messages inside streams; per caller, method, metadata; of this process or shared by a store.

What counts as the same bucket? Calls of one listener that meet the same definition (name, rate, burst, `per`, unit), on
whatever route, before and after a reload. `per: [route]` tells routes apart. A changed rate begins anew.

An RPC that one of several limits refuses takes nothing from the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveInt, RootModel, model_validator

from sidecar.clock import sleep
from sidecar.config.model import Model
from sidecar.config.units import Name, Rate
from sidecar.grpc_wire.details import QuotaFailure, QuotaViolation
from sidecar.proxy.policy import Policy
from sidecar.proxy.rejection import Reason, Rejection
from sidecar.proxy.selectors import SKIPPED, compile_key, compile_selector
from sidecar.store.gcra import NANOSECONDS, Buckets, Pace, digest
from sidecar.store.interface import StoreUnavailable
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Self

    from sidecar.proxy.call import Call
    from sidecar.proxy.policy import Verdict
    from sidecar.runtime import Runtime
    from sidecar.store.interface import Store

_REFUSALS_KEPT = 64
_RETRY_STORE = 1.0
"""Seconds after which a caller may try again when the store is lost."""


def _selector(text: str) -> str:
    try:
        compile_selector(text)
    except ValueError as error:
        # The report puts the text before it.
        raise ValueError(str(error).removeprefix(f"{text!r} ")) from None
    return text


class LimitConfig(Model):
    """One rate limit."""

    name: Name = Field(description="its name in refusals and metrics")
    rate: Rate = Field(description="so many in so long a time: 100/1m")
    burst: PositiveInt | None = Field(None, description="so many at once; default: the count of the rate")
    per: tuple[Annotated[str, AfterValidator(_selector)], ...] = Field(
        (),
        description="what has a limit of its own: identity, method, route, authority, metadata.NAME; empty = all together",
    )
    optional: bool = Field(
        False, description="a call that lacks a part of `per` is not limited; else all that lack it share one limit"
    )
    scope: Literal["local", "shared"] = Field(
        "local", description="local: this process · shared: all that use the store"
    )
    unit: Literal["rpc", "message"] = Field("rpc", description="what is counted: RPCs, or the caller's messages")
    on_excess: Literal["pause", "end"] = Field(
        "pause", description="a stream over its message rate: pause (its sender is slowed) or end (RESOURCE_EXHAUSTED)"
    )
    on_store_error: Literal["allow", "deny"] = Field(
        "allow", description="what a shared limit does when its store gives no answer; counted either way"
    )


class RateLimitConfig(RootModel[tuple[LimitConfig, ...]]):
    """How much callers may send."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        seen = [each.name for each in self.root]
        for name in seen:
            if seen.count(name) > 1:
                raise ValueError(f"`{name}` is the name of two limits; names must differ")
        return self


class RateLimit(Policy[RateLimitConfig]):
    """Takes from every limit, or refuses with the exact time after which it would have passed."""

    name = "rate_limit"
    config_model = RateLimitConfig

    def __new__(cls, config: RateLimitConfig, runtime: Runtime) -> Self:
        # A plan takes messages apart for a policy that has the hook; only limits on messages want that.
        if any(each.unit == "message" for each in config.root):
            cls = _MessageRateLimit  # type: ignore[assignment]  # noqa: PLW0642
        return super().__new__(cls)

    def __init__(self, config: RateLimitConfig, runtime: Runtime) -> None:
        self._clock = runtime.clock
        limits = [_Limit(each, runtime) for each in config.root]
        rpcs = [each for each in limits if each.config.unit == "rpc"]
        # What the fast path needs of each local limit, ready in a tuple.
        self._local = tuple(
            (each.key_of, each.buckets.take, each.pace.interval, each.pace.slack, each)
            for each in rpcs
            if each.store is None
        )
        self._shared = tuple(each for each in rpcs if each.store is not None)
        self._messages = tuple(each for each in limits if each.config.unit == "message")
        self._waits_for_store = any(each.store is not None for each in self._messages)

    def on_request(self, call: Call) -> Verdict:
        # The time at which the call's bytes came; integers, see gcra.py. Benchmark: 0.6 us per limit.
        now = int(call.started * NANOSECONDS)
        if call.peek:
            return self._peek(call, now)
        for key_of, take, interval, slack, limit in self._local:
            key = key_of(call)
            if key is not SKIPPED:
                wait = take(key, interval, slack, now)
                if wait:
                    self._give_back(call, limit)
                    return limit.exceeded(wait / NANOSECONDS)
        if self._shared:
            return self._take_shared(call)
        return None

    async def _take_shared(self, call: Call) -> Rejection | None:
        taken: list[tuple[_Limit, str]] = []
        for limit in self._shared:
            key = limit.store_key(call)
            if key is None:
                continue
            verdict = await limit.take_shared(key)
            if verdict is None:
                taken.append((limit, key))
                continue
            self._give_back(call, None)
            for other, its_key in taken:
                await other.give_back_shared(its_key)
            return verdict
        return None

    def _give_back(self, call: Call, refused: _Limit | None) -> None:
        """What the local limits before `refused` (None = all) have given."""
        for key_of, _, interval, _, limit in self._local:
            if limit is refused:
                return
            key = key_of(call)
            if key is not SKIPPED:
                limit.buckets.give_back(key, interval)

    def _peek(self, call: Call, now: int) -> Verdict:
        for key_of, _, _, slack, limit in self._local:
            key = key_of(call)
            if key is not SKIPPED:
                wait = limit.buckets.peek(key, slack, now)
                if wait:
                    return limit.refusal(wait / NANOSECONDS)
        return self._peek_shared(call) if self._shared else None

    async def _peek_shared(self, call: Call) -> Rejection | None:
        for limit in self._shared:
            key = limit.store_key(call)
            verdict = None if key is None else await limit.take_shared(key, peek=True)
            if verdict is not None:
                return verdict
        return None


class _MessageRateLimit(RateLimit):
    """The same, on a route where messages are counted, too."""

    def on_request_message(self, call: Call, message: bytes) -> Verdict:
        now = int(self._clock.monotonic() * NANOSECONDS)
        if self._waits_for_store:
            return self._later(call, now)
        pause = 0
        for limit in self._messages:
            key = limit.key_of(call)
            if key is SKIPPED:
                continue
            pace = limit.pace
            if limit.config.on_excess == "pause":
                # A place in the line: the message is on time after the pause, whoever else waits.
                pause = max(pause, limit.buckets.take_place(key, pace.interval, pace.slack, now))
                if pause:
                    limit.pauses.inc()
            else:
                wait = limit.buckets.take(key, pace.interval, pace.slack, now)
                if wait:
                    return limit.exceeded(wait / NANOSECONDS)
        return self._pause(pause) if pause else None

    async def _pause(self, nanoseconds: int) -> None:
        await sleep(self._clock, nanoseconds / NANOSECONDS)

    async def _later(self, call: Call, now: int) -> Rejection | None:
        """The same where a limit is shared."""
        for limit in self._messages:
            key = limit.key_of(call)
            if key is SKIPPED:
                continue
            verdict = await (
                self._local_message(limit, key, now) if limit.store is None else self._shared_message(limit, call)
            )
            if verdict is not None:
                return verdict
        return None

    async def _local_message(self, limit: _Limit, key: Hashable, now: int) -> Rejection | None:
        pace = limit.pace
        if limit.config.on_excess == "end":
            wait = limit.buckets.take(key, pace.interval, pace.slack, now)
            return limit.exceeded(wait / NANOSECONDS) if wait else None
        pause = limit.buckets.take_place(key, pace.interval, pace.slack, now)
        if pause:
            limit.pauses.inc()
            await self._pause(pause)
        return None

    async def _shared_message(self, limit: _Limit, call: Call) -> Rejection | None:
        key = limit.store_key(call)
        if key is None:
            return None
        if limit.config.on_excess == "end":
            return await limit.take_shared(key)
        while (wait := await limit.wait_shared(key)) != 0:
            if isinstance(wait, Rejection):
                return wait
            limit.pauses.inc()
            await sleep(self._clock, wait)
        return None


class _Limit:
    """One limit, compiled. `store` is None for a local one."""

    def __init__(self, config: LimitConfig, runtime: Runtime) -> None:
        rate = config.rate
        self.config = config
        self.burst = config.burst or rate.count
        self.pace = Pace.of(rate.count, rate.per_seconds, self.burst)
        self.key_of = compile_key(config.per, skips_absent=config.optional)
        self.what = ", ".join(config.per) or "all callers"
        self.store: Store | None = None
        if config.scope == "shared":
            if runtime.store is None:
                raise ValueError(
                    f"{config.name}: scope: shared needs a store; configure store.url, or use scope: local"
                )
            self.store = runtime.store
        definition = (runtime.listener, config.name, str(rate), str(self.burst), config.unit, *config.per)
        self.buckets = runtime.keep(("rate_limit", *definition), Buckets)
        self._definition = digest(definition).hex()
        self._log = runtime.log
        labels = {"listener": runtime.listener, "policy": RateLimit.name, "limit": config.name}
        self.refusals = runtime.metrics.counter(names.LIMIT_REFUSALS, **labels)
        self.pauses = runtime.metrics.counter(names.LIMIT_PAUSES, listener=runtime.listener, limit=config.name)
        self._undecided = runtime.metrics.counter(names.LIMIT_STORE_ERRORS, decision=config.on_store_error, **labels)
        self._is_store_lost = False
        self._known: dict[int, Rejection] = {}

    # ── shared ──

    def store_key(self, call: Call) -> str | None:
        """What names the bucket of `call` in the store: nothing of what the caller sent stands in it. None = skipped."""
        key: Any = self.key_of(call)
        if key is SKIPPED:
            return None
        parts = key if isinstance(key, tuple) else (key,)
        return f"rate:{self.config.name}:{digest((self._definition, *parts)).hex()}"

    async def take_shared(self, key: str, *, peek: bool = False) -> Rejection | None:
        wait = await self.wait_shared(key, peek=peek)
        if isinstance(wait, Rejection):
            return wait
        if not wait:
            return None
        return self.refusal(wait) if peek else self.exceeded(wait)

    async def wait_shared(self, key: str, *, peek: bool = False) -> float | Rejection:
        """Take one: 0.0 = taken, or nothing is known and that is allowed; else seconds to wait."""
        assert self.store is not None
        try:
            wait = await self.store.take(key, self.pace, peek=peek)
        except StoreUnavailable as error:
            return self._undecidable(error)
        if self._is_store_lost:
            self._is_store_lost = False
            self._log.info("the store answers again", extra={"limit": self.config.name})
        return wait

    async def give_back_shared(self, key: str) -> None:
        assert self.store is not None
        try:
            await self.store.take(key, self.pace, -1)
        except StoreUnavailable as error:
            self._undecidable(error)

    def _undecidable(self, error: StoreUnavailable) -> float | Rejection:
        self._undecided.inc()
        decision = self.config.on_store_error
        if not self._is_store_lost:
            # Once, not per RPC; the metric tells how many.
            self._is_store_lost = True
            extra = {"limit": self.config.name, "decision": decision, "kind": error.kind, "cause": str(error)}
            self._log.warning("a shared limit cannot be decided", extra=extra)
        if decision == "allow":
            return 0.0
        return Reason.STORE_UNAVAILABLE.reject(
            f"limit {self.config.name} cannot be decided now", limit=self.config.name, retry_after=_RETRY_STORE
        )

    # ── refusals ──

    def exceeded(self, wait: float) -> Rejection:
        """Counted: the caller went over this limit, and may come again after `wait` seconds."""
        self.refusals.inc()
        return self.refusal(wait)

    def refusal(self, wait: float) -> Rejection:
        """The same one for all that may come again in the same millisecond: in a flood, nearly all of them."""
        milliseconds = -int(-wait * 1000 // 1)
        known = self._known.get(milliseconds)
        if known is not None:
            return known
        config = self.config
        rule = f"{config.rate} per {self.what}, burst {self.burst}"
        seconds = milliseconds / 1000
        made = Reason.RATE_LIMITED.reject(
            f"rate limit {config.name}: {rule}; come back in {seconds:.3f} s",
            retry_after=seconds,
            details=(QuotaFailure((QuotaViolation(f"rate_limit:{config.name}", f"{config.unit}s: {rule}"),)),),
            limit=config.name,
            rate=config.rate,
            burst=self.burst,
            per=self.what,
            unit=config.unit,
            waitSeconds=f"{seconds:.3f}",
        )
        if len(self._known) >= _REFUSALS_KEPT:
            self._known.clear()
        self._known[milliseconds] = made
        return made
