"""Budgets: reserve, charge, settle; nothing leaks and nothing is got for nothing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sidecar.descriptors.descriptor_set import parse_set
from sidecar.grpc_wire.details import QuotaFailure
from sidecar.grpc_wire.status import StatusCode
from sidecar.http2.hpack import encode_field
from sidecar.policies.budget import Budget
from sidecar.proxy.call import Call
from sidecar.proxy.policy import Origin, Outcome, Verdict
from sidecar.proxy.rejection import Reason, Rejection
from sidecar.runtime import Runtime
from sidecar.store.gcra import NANOSECONDS
from sidecar.store.interface import StoreUnavailable
from sidecar.store.ledger import Allowance, Ledger, Shortage
from sidecar.store.memory import MemoryStore
from sidecar.telemetry import names
from tests.support.bench import config_of, of, refused
from tests.support.clock import FakeClock
from tests.support.descriptors import compiled, new
from tests.support.wire import message

TOKENS = "[{name: tokens, limit: 1000/1h, per: [metadata.x-tenant], reserve: 100, charge: {trailer: x-usage-tokens}}]"
SHARED = TOKENS.replace("reserve", "scope: shared, reserve")
OK = Outcome(StatusCode.OK, "", Origin.AGENT)


class FlakyStore(MemoryStore):
    """A store that can be lost and come back."""

    is_lost = False

    def _now(self) -> int:
        if self.is_lost:
            raise StoreUnavailable("unreachable", "redis://10.1.2.3:6379: connection refused")
        return super()._now()


class Desk:
    """A budget alone: calls that are real, an agent that is said to have had them."""

    def __init__(self, text: str, runtime: Runtime | None = None, clock: FakeClock | None = None) -> None:
        self._calls = of(Budget, "[]", clock=clock)
        self.clock = clock or self._calls.clock
        if runtime is None:
            self.store = FlakyStore(self.clock)
            runtime = dataclasses.replace(self._calls.runtime, store=self.store)
        self.runtime = runtime
        self.policy = Budget(config_of(Budget, text), runtime)

    def call(self, tenant: str | None = "acme", *, peek: bool = False) -> Call:
        assert self._calls.request(metadata={} if tenant is None else {"x-tenant": tenant}) is None
        call = self._calls.last
        call.peek = peek
        call.attempt, call.attempts = None, 0
        return call

    def request(self, tenant: str | None = "acme", *, peek: bool = False) -> tuple[Call, Verdict]:
        call = self.call(tenant, peek=peek)
        return call, self.policy.on_request(call)

    async def request_shared(self, tenant: str | None = "acme") -> tuple[Call, Verdict]:
        call, verdict = self.request(tenant)
        assert asyncio.iscoroutine(verdict), verdict
        return call, await verdict

    def finish(self, call: Call, *, used: str | None = None, reached: bool = True, outcome: Outcome = OK) -> None:
        if reached:
            call.attempt, call.attempts = SimpleNamespace(started=True), 1  # type: ignore[assignment]
        if used is not None:
            self.policy.on_trailers(
                call, [encode_field(b"grpc-status", b"0"), encode_field(b"x-usage-tokens", used.encode())]
            )
        self.policy.on_end(call, outcome)

    def left(self, tenant: str | None = "acme") -> int:
        """Units that could be reserved now, found by asking and giving back."""
        call, verdict = self.request(tenant, peek=True)
        if isinstance(verdict, Rejection):
            return 1000 - int(verdict.metadata["used"]) - int(verdict.metadata["reserved"])
        full = Budget(config_of(Budget, TOKENS.replace("reserve: 100", "reserve: 1000")), self.runtime)
        verdict = full.on_request(call)
        if verdict is None:
            return 1000
        rejection = refused(verdict)
        return 1000 - int(rejection.metadata["used"]) - int(rejection.metadata["reserved"])


async def settle(desk: Desk) -> None:
    """Let what was spawned run."""
    for _ in range(30):
        await asyncio.sleep(0)


# ── local ──


def test_what_the_trailer_says_is_charged_and_the_rest_given_back() -> None:
    desk = Desk(TOKENS)
    call, verdict = desk.request()
    assert verdict is None
    assert desk.left() == 900
    desk.finish(call, used="37")
    assert desk.left() == 963


def test_more_than_was_reserved_is_charged_all_the_same() -> None:
    desk = Desk(TOKENS)
    call, _ = desk.request()
    desk.finish(call, used="990")
    rejection = refused(desk.request()[1])
    assert rejection.reason is Reason.BUDGET_EXHAUSTED
    assert rejection.code is StatusCode.RESOURCE_EXHAUSTED
    assert rejection.metadata["used"] == "990"


def test_two_hundred_at_once_against_a_budget_for_ten() -> None:
    desk = Desk(TOKENS)
    verdicts = [desk.request()[1] for _ in range(200)]
    assert verdicts.count(None) == 10


def test_a_call_that_never_reached_the_agent_costs_nothing() -> None:
    desk = Desk(TOKENS)
    call, _ = desk.request()
    desk.finish(call, reached=False, outcome=Outcome(StatusCode.UNAVAILABLE, "", Origin.SIDECAR, Reason.NO_ROUTE))
    assert desk.left() == 1000


@pytest.mark.parametrize(
    "outcome",
    [OK, Outcome(StatusCode.INTERNAL, "", Origin.AGENT), Outcome(StatusCode.CANCELLED, "", Origin.CALLER)],
    ids=["no trailer", "failed", "caller went away"],
)
def test_an_agent_that_says_nothing_costs_what_was_reserved(outcome: Outcome) -> None:
    desk = Desk(TOKENS)
    call, _ = desk.request()
    desk.finish(call, outcome=outcome)
    assert desk.left() == 900


@pytest.mark.parametrize("value", ["", "-5", "1.5", "many", "99999999999999999999", "0x10", "٣"])
def test_a_charge_that_cannot_be_read_counts_as_none_and_is_seen(value: str) -> None:
    desk = Desk(TOKENS)
    call, _ = desk.request()
    call.attempt, call.attempts = SimpleNamespace(started=True), 1  # type: ignore[assignment]
    desk.policy.on_trailers(call, [(b"x-usage-tokens", value.encode(), b"")])
    desk.policy.on_end(call, OK)
    assert desk.left() == 900
    assert desk.runtime.metrics.samples(names.BUDGET_CHARGES_UNREADABLE) == {("bench", "tokens"): 1}


def test_a_charge_of_nothing_is_nothing() -> None:
    desk = Desk(TOKENS)
    call, _ = desk.request()
    desk.finish(call, used="0")
    assert desk.left() == 1000


def test_the_window_opens_with_the_first_use_and_the_time_to_come_back_is_its_end() -> None:
    desk = Desk(TOKENS)
    desk.clock.advance(12345.0)
    call, _ = desk.request()
    desk.finish(call, used="1000")
    desk.clock.advance(600)
    rejection = refused(desk.request()[1])
    assert rejection.retry_after == pytest.approx(3000.0)
    desk.clock.advance(2999.9)
    assert isinstance(desk.request()[1], Rejection)
    desk.clock.advance(0.2)
    assert desk.request()[1] is None


def test_who_is_held_up_by_reservations_alone_may_come_back_soon() -> None:
    desk = Desk(TOKENS)
    for _ in range(10):
        desk.request()
    assert refused(desk.request()[1]).retry_after == 1.0


def test_each_tenant_has_its_own_and_those_without_share_one() -> None:
    desk = Desk(TOKENS)
    for tenant in ("acme", "other", None):
        call, verdict = desk.request(tenant)
        assert verdict is None
        desk.finish(call, used="1000")
        assert isinstance(desk.request(tenant)[1], Rejection)


def test_an_optional_budget_is_skipped_without_its_part() -> None:
    desk = Desk(TOKENS.replace("reserve", "optional: true, reserve"))
    for _ in range(20):
        call, verdict = desk.request(None)
        assert verdict is None
        desk.finish(call, used="1000")


def test_the_refusal_of_one_budget_gives_back_what_the_others_held() -> None:
    text = "[{name: a, limit: 10/1h, reserve: 1, charge: {trailer: x-a}}, {name: b, limit: 1/1h, reserve: 1, charge: {trailer: x-b}}]"
    desk = Desk(text)
    assert desk.request()[1] is None
    for _ in range(20):
        assert refused(desk.request()[1]).metadata["budget"] == "b"


def test_the_refusal_tells_the_rule_and_not_the_tenant() -> None:
    desk = Desk(TOKENS)
    call, _ = desk.request("secret-tenant")
    desk.finish(call, used="1000")
    rejection = refused(desk.request("secret-tenant")[1])
    assert "budget tokens: 1000/1h per metadata.x-tenant" in rejection.message
    assert "secret-tenant" not in repr(rejection)
    (quota,) = rejection.details
    assert isinstance(quota, QuotaFailure)
    assert quota.violations[0].subject == "budget:tokens"


def test_peek_reserves_nothing() -> None:
    desk = Desk(TOKENS)
    for _ in range(50):
        assert desk.request(peek=True)[1] is None
    assert desk.left() == 1000


def test_a_reload_forgets_nothing_and_settles_the_calls_of_the_former_one() -> None:
    desk = Desk(TOKENS)
    call, _ = desk.request()
    again = Desk(TOKENS, desk.runtime, desk.clock)
    assert again.left() == 900
    desk.finish(call, used="500")
    assert again.left() == 500


def test_ten_thousand_tenants_and_many_more_stay_within_bounds() -> None:
    ledger, allowance = Ledger(capacity=10_000), Allowance(10, NANOSECONDS)
    for i in range(50_000):
        assert ledger.exchange(i, allowance, 0, amount=1) is None
        ledger.exchange(i, allowance, 0, held=1, spent=1)
        assert len(ledger) <= 10_000


def test_an_account_with_a_reservation_is_not_forgotten() -> None:
    ledger, allowance = Ledger(capacity=10), Allowance(10, NANOSECONDS)
    ledger.exchange("k", allowance, 0, amount=10)
    for i in range(1000):
        ledger.exchange(i, allowance, 0, spent=1)
    assert ledger.exchange("k", allowance, 0, amount=1) is not None


@given(steps=st.lists(st.tuples(st.sampled_from(["reserve", "settle", "wait"]), st.integers(0, 30)), max_size=80))
def test_a_window_never_gives_more_than_its_limit_when_nobody_overdraws(steps: list[tuple[str, int]]) -> None:
    ledger, allowance = Ledger(), Allowance(100, 50)
    held: list[int] = []
    now = 0
    for step, number in steps:
        if step == "reserve" and number:
            if ledger.exchange("k", allowance, now, amount=number) is None:
                held.append(number)
        elif step == "settle" and held:
            amount = held.pop()
            ledger.exchange("k", allowance, now, held=amount, spent=min(amount, number))
        elif step == "wait":
            now += number
        shortage = ledger.peek("k", allowance, now, 10**9)
        assert isinstance(shortage, Shortage)
        assert shortage.reserved == sum(held)
        assert shortage.used >= 0
        assert shortage.used + shortage.reserved <= 100 + sum(held)


# ── messages ──

MESSAGES = "[{name: m, limit: 10/1h, reserve: 4, charge: {message: 1}}]"


@pytest.mark.parametrize("reserve", [1, 3, 4, 10])
def test_a_stream_whose_budget_ends_is_ended_after_exactly_so_many_messages(reserve: int) -> None:
    desk = Desk(MESSAGES.replace("reserve: 4", f"reserve: {reserve}"))
    call, _ = desk.request()
    verdicts = [desk.policy.on_response_message(call, b"") for _ in range(11)]
    assert verdicts[:10] == [None] * 10
    assert refused(verdicts[10]).reason is Reason.BUDGET_EXHAUSTED
    desk.finish(call)
    assert refused(desk.request()[1]).metadata["used"] == "10"


def test_a_stream_gives_back_what_it_did_not_use() -> None:
    desk = Desk(MESSAGES)
    call, _ = desk.request()
    for _ in range(6):
        assert desk.policy.on_response_message(call, b"") is None
    assert isinstance(desk.request()[1], Rejection)
    desk.finish(call)
    call, verdict = desk.request()
    assert verdict is None
    for _ in range(4):
        assert desk.policy.on_response_message(call, b"") is None
    assert isinstance(desk.policy.on_response_message(call, b""), Rejection)


def test_without_a_charge_per_message_no_message_is_taken_apart() -> None:
    assert not of(Budget, TOKENS).plan.wants_response
    assert of(Budget, MESSAGES).plan.wants_response


@pytest.mark.asyncio
async def test_a_shared_stream_ends_after_exactly_so_many_messages() -> None:
    desk = Desk(MESSAGES.replace("reserve", "scope: shared, reserve"))
    call, verdict = await desk.request_shared()
    assert verdict is None
    passed = 0
    while not isinstance(verdict, Rejection):
        verdict = desk.policy.on_response_message(call, b"")
        if asyncio.iscoroutine(verdict):
            verdict = await verdict
        passed += verdict is None
    assert passed == 10
    desk.finish(call)
    await settle(desk)
    assert refused((await desk.request_shared())[1]).metadata["used"] == "10"


# ── shared ──


async def used(desk: Desk) -> int:
    """Units used of the tenant's shared budget, by reserving nearly all of it."""
    full = Budget(config_of(Budget, SHARED.replace("reserve: 100", "reserve: 1000")), desk.runtime)
    verdict = full.on_request(desk.call(peek=True))
    assert asyncio.iscoroutine(verdict)
    rejection: Any = await verdict
    return 0 if rejection is None else int(rejection.metadata["used"]) + int(rejection.metadata["reserved"])


@pytest.mark.asyncio
async def test_two_sidecars_share_a_budget() -> None:
    one = Desk(SHARED)
    other = Desk(SHARED, one.runtime, one.clock)
    answers = await asyncio.gather(*((one, other)[i % 2].request_shared() for i in range(200)))
    passed = [call for call, verdict in answers if verdict is None]
    assert len(passed) == 10
    for call in passed:
        one.finish(call, used="10")
    await settle(one)
    assert await used(other) == 100


@pytest.mark.asyncio
async def test_a_call_that_ends_while_it_waits_holds_nothing() -> None:
    desk = Desk(SHARED)
    reserved = asyncio.Event()
    reserve = desk.store.reserve

    async def slow(*arguments: Any, **named: Any) -> Shortage | None:
        shortage = await reserve(*arguments, **named)
        reserved.set()
        await asyncio.Event().wait()
        return shortage

    desk.store.reserve = slow  # type: ignore[method-assign]
    task = asyncio.ensure_future(desk.request_shared())
    await reserved.wait()
    desk.store.reserve = reserve  # type: ignore[method-assign]
    assert await used(desk) == 100
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await settle(desk)
    assert await used(desk) == 0


@pytest.mark.asyncio
async def test_a_lease_is_renewed_as_long_as_the_call_runs_and_ends_with_its_sidecar() -> None:
    desk = Desk(SHARED)
    call, _ = await desk.request_shared()
    for _ in range(20):
        desk.clock.advance(20)
        await settle(desk)
    assert await used(desk) == 100
    desk.finish(call, used="30")
    await settle(desk)
    assert await used(desk) == 30
    desk.clock.advance(30)
    assert desk.clock.timers == [] or all(timer.when > desk.clock.monotonic() for timer in desk.clock.timers)
    await desk.request_shared()
    # Dead: nobody runs its timers any more.
    later = FakeClock(monotonic=desk.clock.monotonic() + 61)
    desk.store._clock = later  # noqa: SLF001 - time passes without the dead sidecar
    assert await used(desk) == 30


@pytest.mark.asyncio
async def test_a_charge_survives_a_store_that_is_away_for_a_moment() -> None:
    desk = Desk(SHARED)
    call, _ = await desk.request_shared()
    desk.store.is_lost = True
    desk.finish(call, used="70")
    await settle(desk)
    desk.clock.advance(2)
    await settle(desk)
    desk.store.is_lost = False
    desk.clock.advance(20)
    await settle(desk)
    assert await used(desk) == 70


@pytest.mark.asyncio
async def test_a_charge_that_is_given_up_is_counted() -> None:
    desk = Desk(SHARED)
    call, _ = await desk.request_shared()
    desk.store.is_lost = True
    desk.finish(call, used="70")
    for _ in range(20):
        await settle(desk)
        desk.clock.advance(20)
    await settle(desk)
    lost = desk.runtime.metrics.samples(names.LIMIT_STORE_ERRORS)[("bench", "budget", "tokens", "charge_lost")]
    assert lost == 70
    assert len(desk.runtime.tasks) == 0


@pytest.mark.asyncio
async def test_a_lost_store_lets_pass_by_default() -> None:
    desk = Desk(SHARED)
    desk.store.is_lost = True
    call, verdict = await desk.request_shared()
    assert verdict is None
    desk.finish(call, used="70")
    assert desk.runtime.metrics.samples(names.LIMIT_STORE_ERRORS)[("bench", "budget", "tokens", "allow")] == 1


@pytest.mark.asyncio
async def test_a_lost_store_refuses_if_that_is_wanted_and_tells_nothing_of_it() -> None:
    desk = Desk(SHARED.replace("reserve", "on_store_error: deny, reserve"))
    desk.store.is_lost = True
    rejection = refused((await desk.request_shared())[1])
    assert rejection.reason is Reason.STORE_UNAVAILABLE
    assert rejection.code is StatusCode.UNAVAILABLE
    assert "10.1.2.3" not in repr(rejection)


# ── configuration ──


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (TOKENS.replace("reserve: 100", "reserve: 1001"), "more than the whole budget"),
        (TOKENS.replace("{trailer: x-usage-tokens}", "{}"), "exactly one of"),
        (TOKENS.replace("{trailer: x-usage-tokens}", "{trailer: x-a, message: 1}"), "exactly one of"),
        (TOKENS.replace("x-usage-tokens", "grpc-status"), "reserved"),
        (TOKENS.replace("metadata.x-tenant", "tenant"), "selects nothing"),
        (TOKENS.replace("reserve", "lease: 1ms, reserve"), "too little"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        of(Budget, text)


# ── charge by field ──

BY_FIELD = TOKENS.replace("{trailer: x-usage-tokens}", "{field: usage.total_tokens, descriptors: llm.binpb}")
LLM = """
syntax = "proto3";
package llm.v1;
message Usage { int64 total_tokens = 1; int32 delta = 2; }
message Answer { string text = 1; Usage usage = 2; }
service Llm { rpc Ask(Answer) returns (Answer); rpc Talk(Answer) returns (stream Answer); }
"""


class Llm:
    """A bench with a budget of 1000 that reserves 100, charged by a field of the answer."""

    def __init__(self, folder: Path, text: str = BY_FIELD) -> None:
        (folder / "llm.binpb").write_bytes(compiled(LLM))
        self.descriptors = parse_set(compiled(LLM))
        self.bench = of(Budget, text, directory=folder)

    def ask(self) -> Any:
        return self.bench.request(method="/llm.v1.Llm/Talk", metadata={"x-tenant": "a"})

    def says(self, tokens: int | None, text: str = "") -> Any:
        usage = {} if tokens is None else {"usage": {"total_tokens": tokens}}
        body = new(self.descriptors, "llm.v1.Answer", text=text, **usage).SerializeToString()
        return self.bench.policy.on_response_message(self.bench.last, message(body))

    @property
    def charged(self) -> int:
        return int(self.bench.policy._local[0].charged.value)


def test_the_field_of_every_message_is_charged(tmp_path: Path) -> None:
    llm = Llm(tmp_path)
    assert llm.ask() is None
    assert llm.says(None, "thinking") is None
    assert llm.says(30) is None
    assert llm.says(12) is None
    llm.bench.end(StatusCode.OK)
    assert llm.charged == 42


def test_an_answer_that_costs_more_than_was_held_passes_and_is_charged_whole(tmp_path: Path) -> None:
    llm = Llm(tmp_path)
    llm.ask()
    assert llm.says(5000) is None
    llm.bench.end(StatusCode.OK)
    assert llm.charged == 5000
    assert refused(llm.ask()).reason is Reason.BUDGET_EXHAUSTED


def test_a_stream_ends_with_the_message_after_the_budget(tmp_path: Path) -> None:
    llm = Llm(tmp_path)
    llm.ask()
    assert llm.says(1000) is None
    assert refused(llm.says(7)).reason is Reason.BUDGET_EXHAUSTED
    llm.bench.end(StatusCode.RESOURCE_EXHAUSTED)
    # What was withheld has been used all the same.
    assert llm.charged == 1007


def test_zero_is_an_answer_and_silence_is_none(tmp_path: Path) -> None:
    llm = Llm(tmp_path)
    llm.ask()
    llm.says(0)
    assert [each.spent for each in llm.bench.last.notes["budget"]] == [0]
    llm.ask()
    llm.says(None)
    assert [each.spent for each in llm.bench.last.notes["budget"]] == [None]


@pytest.mark.parametrize("tokens", [-1, 10**15])
def test_what_is_no_charge_is_counted_and_says_nothing(tmp_path: Path, tokens: int) -> None:
    llm = Llm(tmp_path)
    llm.ask()
    assert llm.says(tokens) is None
    assert [each.spent for each in llm.bench.last.notes["budget"]] == [None]
    assert llm.bench.policy._local[0]._unreadable.value == 1


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ("usage.total_token", "no field of any message; did you mean `usage`|no field"),
        ("text", "no whole number"),
        ("llm.v1.Usage.totl", "no field totl"),
    ],
)
def test_a_field_that_cannot_be_charged_is_refused(tmp_path: Path, field: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Llm(tmp_path, BY_FIELD.replace("usage.total_tokens", field))


def test_a_charge_by_field_needs_descriptors() -> None:
    with pytest.raises(ValidationError, match="found by descriptors"):
        of(Budget, TOKENS.replace("{trailer: x-usage-tokens}", "{field: usage.total_tokens}"))


def test_a_shared_budget_needs_a_store() -> None:
    with pytest.raises(ValueError, match="needs a store"):
        of(Budget, SHARED)
