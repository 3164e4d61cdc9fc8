"""Rate limits: what passes, what is told to whom, and what it costs in memory."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sidecar.clock import Deadlines
from sidecar.grpc_wire.details import QuotaFailure
from sidecar.grpc_wire.status import StatusCode
from sidecar.policies.rate_limit import RateLimit
from sidecar.proxy.call import Call
from sidecar.proxy.plan import Plan
from sidecar.proxy.policy import Verdict
from sidecar.proxy.rejection import Reason, Rejection
from sidecar.store.gcra import Buckets, Pace
from sidecar.store.interface import StoreUnavailable
from sidecar.store.memory import MemoryStore
from sidecar.telemetry import names
from tests.support.bench import Bench, config_of, of, refused
from tests.support.clock import FakeClock

TEN = "[{name: ten, rate: 10/1s, burst: 3, per: [identity]}]"


class LostStore(MemoryStore):
    """A store that answers when `is_lost` is False."""

    is_lost = True

    async def take(self, key: str, pace: Pace, quantity: int = 1, *, peek: bool = False) -> float:
        if self.is_lost:
            raise StoreUnavailable("unreachable", "redis://10.1.2.3:6379: connection refused")
        return await super().take(key, pace, quantity, peek=peek)


def with_store(text: str, store_type: type[MemoryStore] = MemoryStore) -> Bench[RateLimit]:
    bench = of(RateLimit, "[]")
    store = store_type(bench.clock)
    runtime = dataclasses.replace(bench.runtime, store=store)
    return Bench(RateLimit(config_of(RateLimit, text), runtime), runtime, bench.clock, 16_384)


async def settled(verdict: Verdict) -> Any:
    assert asyncio.iscoroutine(verdict), f"not waiting: {verdict!r}"
    return await verdict


# ── RPCs ──


def test_a_burst_passes_and_then_one_at_a_time() -> None:
    bench = of(RateLimit, TEN)
    assert [bench.request() for _ in range(3)] == [None, None, None]
    assert refused(bench.request()).reason is Reason.RATE_LIMITED
    bench.clock.advance(0.1)
    assert bench.request() is None
    assert refused(bench.request()).code is StatusCode.RESOURCE_EXHAUSTED


def test_the_time_that_is_told_is_exact() -> None:
    bench = of(RateLimit, TEN)
    for _ in range(3):
        bench.request()
    bench.clock.advance(0.04)
    wait = refused(bench.request()).retry_after
    assert wait == pytest.approx(0.06, abs=1e-6)
    bench.clock.advance(0.0599)
    assert refused(bench.request()).reason is Reason.RATE_LIMITED
    bench.clock.advance(0.0002)
    assert bench.request() is None


def test_without_burst_the_count_of_the_rate_passes_at_once() -> None:
    bench = of(RateLimit, "[{name: a, rate: 100/1m}]")
    assert [bench.request() for _ in range(101)].count(None) == 100


def test_each_caller_and_each_method_has_its_own() -> None:
    bench = of(RateLimit, "[{name: a, rate: 1/1h, per: [identity, method]}]")
    assert bench.request("spiffe://mesh.local/a", "/p.S/One") is None
    assert bench.request("spiffe://mesh.local/a", "/p.S/Two") is None
    assert bench.request("spiffe://mesh.local/b", "/p.S/One") is None
    assert refused(bench.request("spiffe://mesh.local/a", "/p.S/One")).metadata["per"] == "identity, method"


def test_metadata_makes_the_key() -> None:
    bench = of(RateLimit, "[{name: a, rate: 1/1h, per: [metadata.x-tenant]}]")
    assert bench.request(metadata={"x-tenant": "acme"}) is None
    assert bench.request(metadata={"x-tenant": "other"}) is None
    assert isinstance(bench.request(metadata={"x-tenant": "acme"}), Rejection)


def test_calls_without_a_part_share_one_limit_and_an_empty_value_is_not_an_absent_one() -> None:
    bench = of(RateLimit, "[{name: a, rate: 1/1h, per: [metadata.x-tenant, identity]}]")
    assert bench.request() is None
    assert bench.request(metadata={"x-tenant": ""}) is None
    assert isinstance(bench.request(), Rejection)
    assert bench.request(None) is None
    assert isinstance(bench.request(None), Rejection)


@pytest.mark.parametrize(
    "per", ["[metadata.x-tenant]", "[metadata.x-tenant, identity]", "[identity, metadata.x-tenant]"]
)
def test_an_optional_limit_is_skipped_without_its_part(per: str) -> None:
    bench = of(RateLimit, f"[{{name: a, rate: 1/1h, per: {per}, optional: true}}]")
    assert [bench.request() for _ in range(5)] == [None] * 5
    assert bench.request(metadata={"x-tenant": "t"}) is None
    assert isinstance(bench.request(metadata={"x-tenant": "t"}), Rejection)


def test_every_limit_counts_and_one_that_refuses_takes_nothing_from_the_others() -> None:
    bench = of(
        RateLimit,
        "[{name: all, rate: 5/1h, per: []}, {name: own, rate: 1/1h, per: [identity]}]",
    )
    assert bench.request("spiffe://m/a") is None
    for _ in range(20):
        assert refused(bench.request("spiffe://m/a")).metadata["limit"] == "own"
    assert [bench.request(f"spiffe://m/{i}") for i in range(4)] == [None] * 4
    assert refused(bench.request("spiffe://m/new")).metadata["limit"] == "all"


def test_peek_takes_nothing() -> None:
    bench = of(RateLimit, "[{name: a, rate: 1/1h}]")
    assert [bench.request(peek=True) for _ in range(3)] == [None] * 3
    assert bench.request() is None
    assert refused(bench.request(peek=True)).reason is Reason.RATE_LIMITED
    assert bench.metrics.samples(names.LIMIT_REFUSALS) == {("bench", "rate_limit", "a"): 0}


def test_a_refusal_names_the_limit_and_not_the_caller() -> None:
    bench = of(RateLimit, "[{name: per-tenant, rate: 1/1m, per: [metadata.x-tenant]}]")
    bench.request(metadata={"x-tenant": "secret-tenant"})
    rejection = refused(bench.request(metadata={"x-tenant": "secret-tenant"}))
    assert "per-tenant" in rejection.message
    assert "1/1m per metadata.x-tenant, burst 1" in rejection.message
    assert "secret-tenant" not in repr(rejection)
    assert rejection.metadata["limit"] == "per-tenant"
    (quota,) = rejection.details
    assert isinstance(quota, QuotaFailure)
    (violation,) = quota.violations
    assert (violation.subject, violation.description) == (
        "rate_limit:per-tenant",
        "rpcs: 1/1m per metadata.x-tenant, burst 1",
    )


def test_refusals_are_counted() -> None:
    bench = of(RateLimit, "[{name: a, rate: 1/1h}]")
    for _ in range(4):
        bench.request()
    assert bench.metrics.samples(names.LIMIT_REFUSALS) == {("bench", "rate_limit", "a"): 3}


def test_a_reload_forgets_nothing_and_a_changed_rate_begins_anew() -> None:
    bench = of(RateLimit, TEN)
    for _ in range(3):
        bench.request()
    again = Bench(RateLimit(config_of(RateLimit, TEN), bench.runtime), bench.runtime, bench.clock, 16_384)
    assert isinstance(again.request(), Rejection)
    changed = RateLimit(config_of(RateLimit, TEN.replace("10/1s", "20/1s")), bench.runtime)
    assert Bench(changed, bench.runtime, bench.clock, 16_384).request() is None


def test_without_limits_on_messages_no_message_is_taken_apart() -> None:
    assert not of(RateLimit, TEN).plan.wants_request
    assert of(RateLimit, "[{name: m, rate: 1/1s, unit: message}]").plan.wants_request


# ── memory ──


def test_ten_thousand_callers_and_many_more_stay_within_bounds() -> None:
    buckets = Buckets(capacity=10_000)
    for i in range(50_000):
        assert buckets.take(f"caller-{i}", 10**9, 0, 0) == 0
        assert len(buckets) <= 10_000


def test_a_caller_that_keeps_calling_is_not_evicted_by_invented_ones() -> None:
    buckets = Buckets(capacity=1000)
    for i in range(100_000):
        buckets.take(i, 10**9, 0, 0)
        if i % 100 == 0:
            assert (buckets.take("steady", 10**12, 0, 0) == 0) == (i == 0)


def test_an_eviction_grants_one_burst_and_no_more() -> None:
    buckets = Buckets(capacity=10)
    slack = 2 * 10**12
    assert [buckets.take("k", 10**12, slack, 0) for _ in range(3)] == [0, 0, 0]
    for i in range(100):
        buckets.take(i, 10**12, slack, 0)
    assert [buckets.take("k", 10**12, slack, 0) == 0 for _ in range(5)] == [True, True, True, False, False]


def test_long_keys_are_kept_short_and_still_told_apart() -> None:
    bench = of(RateLimit, "[{name: a, rate: 1/1h, per: [metadata.x-tenant]}]")
    long = "x" * 8000
    assert bench.request(metadata={"x-tenant": long}) is None
    assert bench.request(metadata={"x-tenant": long + "y"}) is None
    assert isinstance(bench.request(metadata={"x-tenant": long}), Rejection)
    buckets = Buckets()
    buckets.take(("a" * 5000, None), 1, 0, 0)
    assert all(isinstance(key, bytes) and len(key) == 16 for key in buckets._young)  # noqa: SLF001 - what is kept is the promise


@given(
    count=st.integers(1, 1000),
    window=st.sampled_from([0.001, 0.25, 1.0, 60.0, 3600.0]),
    burst=st.integers(1, 50),
    steps=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 30)), max_size=40),
)
def test_never_more_than_rate_and_burst(count: int, window: float, burst: int, steps: list[tuple[float, int]]) -> None:
    pace = Pace.of(count, window, burst)
    buckets = Buckets()
    now = passed = 0
    for seconds, tries in steps:
        now += int(seconds * 1e9)
        for _ in range(tries):
            wait = buckets.take("k", pace.interval, pace.slack, now)
            passed += wait == 0
            if wait:
                # What was told is enough, and a nanosecond less is not.
                assert buckets.peek("k", pace.slack, now + wait) == 0
                assert buckets.peek("k", pace.slack, now + wait - 1) > 0
        assert passed <= burst + now * count / (window * 1e9)


# ── messages ──


class Source:
    """Feeds messages of one call to the hook, as the message pipe does."""

    def __init__(self, bench: Bench[RateLimit], **caller: Any) -> None:
        self.bench = bench
        assert bench.request(**caller) is None
        self.call: Call = bench.last

    def send(self) -> Verdict:
        return self.bench.policy.on_request_message(self.call, b"\0\0\0\0\0")


def test_a_stream_over_its_message_rate_is_ended_if_that_is_wanted() -> None:
    bench = of(RateLimit, "[{name: m, rate: 10/1s, burst: 2, unit: message, on_excess: end}]")
    source = Source(bench)
    assert [source.send(), source.send()] == [None, None]
    rejection = refused(source.send())
    assert rejection.reason is Reason.RATE_LIMITED
    assert rejection.retry_after == pytest.approx(0.1)


async def drive(clock: FakeClock, task: asyncio.Task[Any]) -> float:
    """Let time pass until `task` is done; the seconds it took."""
    begun = clock.monotonic()
    while not task.done():
        for _ in range(20):
            await asyncio.sleep(0)
        if not task.done() and clock.timers:
            clock.advance(clock.timers[0].when - clock.monotonic())
    return clock.monotonic() - begun


@pytest.mark.asyncio
@pytest.mark.parametrize("scope", ["local", "shared"])
async def test_a_stream_over_its_message_rate_is_slowed(scope: str) -> None:
    bench = with_store(f"[{{name: m, rate: 10/1s, burst: 2, unit: message, scope: {scope}}}]")
    source = Source(bench)
    took = []
    for _ in range(6):
        verdict = source.send()
        took.append(0.0 if verdict is None else await drive(bench.clock, asyncio.ensure_future(settled(verdict))))
    assert took == pytest.approx([0, 0, 0.1, 0.1, 0.1, 0.1], abs=1e-5)
    assert bench.metrics.samples(names.LIMIT_PAUSES) == {("bench", "m"): 4}


@pytest.mark.asyncio
async def test_streams_of_one_caller_stand_in_one_line() -> None:
    bench = of(RateLimit, "[{name: m, rate: 10/1s, burst: 1, per: [identity], unit: message}]")
    sources = [Source(bench) for _ in range(4)]
    tasks = [asyncio.ensure_future(settled(verdict)) for each in sources if (verdict := each.send()) is not None]
    assert [await drive(bench.clock, task) for task in tasks] == pytest.approx([0.1, 0.1, 0.1], abs=1e-5)


@pytest.mark.asyncio
async def test_a_stream_that_ends_while_it_waits_leaves_no_timer() -> None:
    bench = of(RateLimit, "[{name: m, rate: 1/1h, unit: message}]")
    source = Source(bench)
    before = len(bench.clock.timers)
    assert source.send() is None
    task = asyncio.ensure_future(settled(source.send()))
    await asyncio.sleep(0)
    assert len(bench.clock.timers) == before + 1
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert len(bench.clock.timers) == before


@pytest.mark.asyncio
async def test_local_and_shared_limits_on_messages_go_together() -> None:
    bench = with_store(
        "[{name: l, rate: 1/1s, burst: 2, unit: message, on_excess: end}, "
        "{name: s, rate: 1/1s, burst: 1, unit: message, scope: shared, on_excess: end}]"
    )
    source = Source(bench)
    assert await settled(source.send()) is None
    assert refused(await settled(source.send())).metadata["limit"] == "s"


# ── shared ──


@pytest.mark.asyncio
async def test_a_shared_limit_is_one_for_two_sidecars() -> None:
    text = "[{name: a, rate: 10/1s, burst: 4, per: [identity], scope: shared}]"
    one = with_store(text)
    other = Bench(RateLimit(config_of(RateLimit, text), one.runtime), one.runtime, one.clock, 16_384)
    verdicts = [await settled((one, other)[i % 2].policy.on_request(_call((one, other)[i % 2]))) for i in range(10)]
    assert [each is None for each in verdicts] == [True] * 4 + [False] * 6
    assert refused(verdicts[-1]).retry_after == pytest.approx(0.1)


def _call(bench: Bench[RateLimit]) -> Call:
    """A call that no limit has seen yet."""
    blank = of(RateLimit, "[]", clock=bench.clock)
    assert blank.request() is None
    return blank.last


@pytest.mark.asyncio
async def test_a_call_waits_for_its_store_and_goes_on_or_is_refused() -> None:
    bench = with_store("[{name: a, rate: 1/1h, scope: shared}]")
    for _ in range(2):
        bench.request()
        await bench.last.waiting
    assert bench.forwarded == 1
    assert bench.outcomes[-1].reason is Reason.RATE_LIMITED


@pytest.mark.asyncio
async def test_what_a_shared_limit_refuses_takes_nothing_from_the_others() -> None:
    bench = with_store(
        "[{name: l, rate: 2/1h}, {name: s1, rate: 2/1h, scope: shared}, "
        "{name: s2, rate: 1/1h, scope: shared, per: [identity]}]"
    )
    assert await settled(bench.policy.on_request(_call(bench))) is None
    for _ in range(5):
        rejection = refused(await settled(bench.policy.on_request(_call(bench))))
        assert rejection.metadata["limit"] == "s2"


@pytest.mark.asyncio
async def test_a_lost_store_lets_pass_by_default_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = with_store("[{name: a, rate: 1/1h, scope: shared}]", LostStore)
    for _ in range(5):
        assert await settled(bench.policy.on_request(_call(bench))) is None
    key = ("bench", "rate_limit", "a", "allow")
    assert bench.metrics.samples(names.LIMIT_STORE_ERRORS)[key] == 5
    assert [record.message for record in caplog.records] == ["a shared limit cannot be decided"]


@pytest.mark.asyncio
async def test_a_lost_store_refuses_if_that_is_wanted_and_tells_nothing_of_it() -> None:
    bench = with_store("[{name: a, rate: 1/1h, scope: shared, on_store_error: deny}]", LostStore)
    rejection = refused(await settled(bench.policy.on_request(_call(bench))))
    assert rejection.code is StatusCode.UNAVAILABLE
    assert rejection.retry_after is not None
    assert "10.1.2.3" not in repr(rejection)
    LostStore.is_lost = False
    try:
        assert await settled(bench.policy.on_request(_call(bench))) is None
    finally:
        LostStore.is_lost = True


@pytest.mark.asyncio
async def test_peek_takes_nothing_from_a_store() -> None:
    bench = with_store("[{name: a, rate: 1/1h, scope: shared}]")
    call = _call(bench)
    call.peek = True
    for _ in range(3):
        assert await settled(bench.policy.on_request(call)) is None
    call.peek = False
    assert await settled(bench.policy.on_request(call)) is None
    call.peek = True
    assert isinstance(await settled(bench.policy.on_request(call)), Rejection)


@pytest.mark.asyncio
async def test_nothing_of_what_a_caller_sent_is_a_key_in_the_store() -> None:
    seen = []

    class Spy(MemoryStore):
        async def take(self, key: str, pace: Pace, quantity: int = 1, *, peek: bool = False) -> float:
            seen.append(key)
            return await super().take(key, pace, quantity, peek=peek)

    bench = with_store("[{name: a, rate: 1/1h, per: [metadata.authorization, identity], scope: shared}]", Spy)
    bench.request("spiffe://mesh.local/agent/x", metadata={"authorization": "Bearer abc"})
    await bench.last.waiting
    assert len(seen) == 1
    assert "abc" not in seen[0]
    assert "agent" not in seen[0]


# ── configuration ──


def test_a_shared_limit_needs_a_store() -> None:
    with pytest.raises(ValueError, match="needs a store"):
        of(RateLimit, "[{name: a, rate: 1/1s, scope: shared}]")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[{name: a, rate: 1/1s, per: [identiti]}]", "selects nothing; allowed: identity, method"),
        ("[{name: a, rate: 1/1s}, {name: a, rate: 2/1s}]", "name of two limits"),
        ("[{name: a, rate: 0/1s}]", "allows nothing"),
        ("[{name: a, rate: 1/1s, burst: 0}]", "greater than 0"),
        ("[{name: a, rate: 1/1s, scope: global}]", "'local' or 'shared'"),
        ("[{name: a, rate: 1/1s, brust: 2}]", "Extra inputs"),
        ("[{rate: 1/1s}]", "Field required"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        of(RateLimit, text)


def test_a_plan_can_be_built_from_both_kinds() -> None:
    clock = FakeClock()
    bench = of(RateLimit, TEN, clock=clock)
    plan = Plan(listener="l", route="r", policies=[bench.policy], cluster=None, runtime=bench.runtime)
    assert len(plan.on_request) == 1
    assert plan.on_request_message == ()
    assert isinstance(bench.runtime.deadlines, Deadlines)
