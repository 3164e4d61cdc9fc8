"""Budgets of what an RPC costs, which nobody knows before it ends: reserve first, charge what was used, give the rest back.

Why reserve? Two hundred RPCs that each look whether something is left would all find it. What is reserved is out of reach of
the others, so that a budget for ten lets ten pass.

What is charged
- what the agent says in a trailer, if the call ends with one;
- what each message of the answer costs, as it passes: all the same (`charge: {message: 1}`), or what a field of it says
  (`charge: {field: usage.total_tokens}`); a stream whose budget ends is ended;
- what was reserved, if the agent had the call and said nothing: it may have worked, and a caller that goes away just before
  the trailers must not get it for nothing;
- nothing, if the call was refused or answered before it came to the agent.

The window is a fixed one that the first use of the key opens (see store/ledger.py). A shared reservation is a lease, renewed
while we live.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveInt, RootModel, model_validator

from sidecar.clock import sleep
from sidecar.config.model import Model
from sidecar.config.units import Duration, Name, Rate, duration_between, parse_metadata_name
from sidecar.descriptors.numbers import NumberField
from sidecar.descriptors.selection import parse_selector
from sidecar.descriptors.source import DescriptorsFrom
from sidecar.grpc_wire.compression import encoding_of
from sidecar.grpc_wire.details import QuotaFailure, QuotaViolation
from sidecar.proxy.policy import Policy
from sidecar.proxy.rejection import Reason, Rejection
from sidecar.proxy.selectors import SKIPPED, compile_key, compile_selector
from sidecar.store.gcra import NANOSECONDS, digest
from sidecar.store.interface import StoreUnavailable
from sidecar.store.ledger import Allowance, Ledger, Shortage
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from pathlib import Path
    from typing import Self

    from sidecar.clock import Timer
    from sidecar.http2.hpack import Field as HeaderField
    from sidecar.proxy.call import Call
    from sidecar.proxy.plan import Cluster
    from sidecar.proxy.policy import Outcome, Verdict
    from sidecar.runtime import Runtime
    from sidecar.store.interface import Store

_RETRY_STORE = 1.0
"""Seconds after which a caller may try again when the store is lost."""
_RETRY_RESERVED = 1.0
"""The same when others' reservations stand in the way: what they do not use comes back when they end."""
_SETTLE_RETRIES = 7
_SETTLE_BACKOFF = 0.25
_CHARGE_DIGITS = 15
_ENCODING = "budget encoding"
"""A note on a call: how the messages of its answer are compressed."""


def _selector(text: str) -> str:
    try:
        compile_selector(text)
    except ValueError as error:
        # The report puts the text before it.
        raise ValueError(str(error).removeprefix(f"{text!r} ")) from None
    return text


class ChargeConfig(Model):
    """What tells the use: one of them."""

    trailer: Annotated[str, AfterValidator(parse_metadata_name)] | None = Field(
        None, description="a trailer of the agent that holds a whole number"
    )
    message: PositiveInt | None = Field(None, description="so much for each message of the answer")
    field: Annotated[str, AfterValidator(parse_selector)] | None = Field(
        None, description="a whole number in each message of the answer, by its path; needs descriptors"
    )
    descriptors: DescriptorsFrom | None = Field(
        None, description="a descriptor set (protoc --include_imports --descriptor_set_out), or: reflection"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.field is not None and self.descriptors is None:
            yield "field", "is found by descriptors; name a descriptor set in descriptors, or say reflection"
        if self.field is None and self.descriptors is not None:
            yield "descriptors", "are for field alone; leave them out"
        if len(self.model_fields_set & {"trailer", "message", "field"}) != 1:
            yield "trailer", "is one of three ways to charge; name exactly one of trailer, message, field"


class AllowanceConfig(Model):
    """One budget."""

    name: Name = Field(description="its name in refusals and metrics")
    limit: Rate = Field(description="so many units in so long a time: 100000/1h")
    per: tuple[Annotated[str, AfterValidator(_selector)], ...] = Field(
        (),
        description="what has a budget of its own: identity, method, route, authority, metadata.NAME; empty = all together",
    )
    optional: bool = Field(
        False, description="a call that lacks a part of `per` has no budget; else all that lack it share one"
    )
    reserve: PositiveInt = Field(
        description="units held for each RPC until its use is known; also the charge if it never is"
    )
    charge: ChargeConfig = Field(description="what tells the use")
    scope: Literal["local", "shared"] = Field(
        "local", description="local: this process · shared: all that use the store"
    )
    lease: Annotated[Duration, duration_between("1s", "1h")] = Field(
        60.0, description="a shared reservation whose sidecar died is given back after so long"
    )
    on_store_error: Literal["allow", "deny"] = Field(
        "allow", description="what a shared budget does when its store gives no answer; counted either way"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.reserve > self.limit.count:
            yield "reserve", f"is more than the whole budget, so no RPC would ever pass; at most {self.limit.count}"


class BudgetConfig(RootModel[tuple[AllowanceConfig, ...]]):
    """How much callers may use."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        seen = [each.name for each in self.root]
        for name in seen:
            if seen.count(name) > 1:
                raise ValueError(f"`{name}` is the name of two budgets; names must differ")
        return self


class Budget(Policy[BudgetConfig]):
    """Reserves on request, charges from the trailer, settles at the end."""

    name = "budget"
    config_model = BudgetConfig

    def __new__(cls, config: BudgetConfig, runtime: Runtime) -> Self:
        # A plan takes messages apart for a policy that has the hook; only a charge per message wants that.
        if any(each.charge.trailer is None for each in config.root):
            cls = _MessageBudget  # type: ignore[assignment]  # noqa: PLW0642
        return super().__new__(cls)

    def __init__(self, config: BudgetConfig, runtime: Runtime) -> None:
        self._runtime = runtime
        self._clock = runtime.clock
        budgets = [_Allowance(each, runtime) for each in config.root]
        self._local = tuple(each for each in budgets if each.store is None)
        self._shared = tuple(each for each in budgets if each.store is not None)
        # Shared reservations of calls that run, whose leases we renew.
        self._leased: dict[str, _Hold] = {}
        self._renewal: Timer | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(path for each in (*self._local, *self._shared) if each.field for path in each.field.files)

    def reload(self) -> bool:
        """Descriptors have changed."""
        # Every one of them, not only as far as the first that has changed.
        return sum(each.field.reload() for each in (*self._local, *self._shared) if each.field) > 0

    def begin(self, cluster: Cluster | None) -> None:
        for each in (*self._local, *self._shared):
            if each.field:
                each.field.begin(cluster)

    # ── reserve ──

    def on_request(self, call: Call) -> Verdict:
        now = int(call.started * NANOSECONDS)
        if call.peek:
            return self._peek(call, now)
        holds: list[_Hold] = []
        for budget in self._local:
            key = budget.key_of(call)
            if key is SKIPPED:
                continue
            shortage = budget.ledger.exchange(key, budget.allowance, now, amount=budget.reserve)
            if shortage is not None:
                for hold in holds:
                    self._settle_local(hold, 0)
                return budget.exhausted(shortage)
            holds.append(_Hold(budget, key))
        if self._shared:
            return self._reserve_shared(call, holds)
        if holds:
            call.note(self.name, holds)
        return None

    async def _reserve_shared(self, call: Call, holds: list[_Hold]) -> Rejection | None:
        passed = False
        try:
            for budget in self._shared:
                key = budget.store_key(call)
                if key is None:
                    continue
                hold = _Hold(budget, key, f"{self._runtime.random.getrandbits(128):032x}")
                # Before the answer: if we are cancelled meanwhile, it may be held all the same.
                holds.append(hold)
                verdict = await budget.hold_shared(hold)
                if isinstance(verdict, Rejection):
                    return verdict
                if not verdict:
                    holds.remove(hold)
            passed = True
        finally:
            if not passed:
                for hold in holds:
                    self._settle(hold, 0)
        for hold in holds:
            if hold.reservation is not None:
                self._leased[hold.reservation] = hold
        self._watch_leases()
        if holds:
            call.note(self.name, holds)
        return None

    def _peek(self, call: Call, now: int) -> Verdict:
        for budget in self._local:
            key = budget.key_of(call)
            shortage = None if key is SKIPPED else budget.ledger.peek(key, budget.allowance, now, budget.reserve)
            if shortage is not None:
                return budget.refusal(shortage)
        return self._peek_shared(call) if self._shared else None

    async def _peek_shared(self, call: Call) -> Rejection | None:
        for budget in self._shared:
            key = budget.store_key(call)
            if key is not None:
                verdict = await budget.hold_shared(_Hold(budget, key, "peek"), peek=True)
                if isinstance(verdict, Rejection):
                    return verdict
        return None

    # ── charge and settle ──

    def on_trailers(self, call: Call, fields: list[HeaderField]) -> None:
        for hold in self._holds(call):
            trailer = hold.budget.trailer
            if trailer is not None:
                for field in reversed(fields):
                    if field[0] == trailer:
                        hold.spent = hold.budget.read_charge(field[1])
                        break

    def on_end(self, call: Call, outcome: Outcome) -> None:
        for hold in self._holds(call):
            spent = hold.spent
            if spent is None:
                spent = hold.amount if _reached_agent(call) else 0
            self._settle(hold, spent)

    def _holds(self, call: Call) -> list[_Hold]:
        return call.notes.get(self.name, _NO_HOLDS) if call.notes is not None else _NO_HOLDS

    def _settle(self, hold: _Hold, spent: int) -> None:
        if hold.reservation is None:
            self._settle_local(hold, spent)
        else:
            self._leased.pop(hold.reservation, None)
            self._runtime.spawn(self._settle_shared(hold, spent), "settle a budget")

    def _settle_local(self, hold: _Hold, spent: int) -> None:
        budget = hold.budget
        now = int(self._clock.monotonic() * NANOSECONDS)
        budget.ledger.exchange(hold.key, budget.allowance, now, held=hold.amount, spent=spent)
        budget.charged.inc(spent)

    async def _settle_shared(self, hold: _Hold, spent: int) -> None:
        """What was used must not be lost with a store that is away for a moment."""
        budget = hold.budget
        for attempt in range(_SETTLE_RETRIES):
            try:
                await budget.settle_shared(hold, spent)
            except StoreUnavailable as error:
                cause = error
                await sleep(self._clock, _SETTLE_BACKOFF * 2**attempt * self._runtime.random.uniform(0.8, 1.2))
            else:
                budget.charged.inc(spent)
                return
        if spent:
            budget.lost(spent, cause)

    # ── leases ──

    def _watch_leases(self) -> None:
        if self._leased and self._renewal is None:
            shortest = min(each.config.lease for each in self._shared)
            self._renewal = self._clock.call_later(shortest / 3, self._renew_leases)

    def _renew_leases(self) -> None:
        self._renewal = None
        if self._leased:
            self._runtime.spawn(self._renew(list(self._leased.values())), "renew reservations")
            self._watch_leases()

    async def _renew(self, holds: list[_Hold]) -> None:
        for budget in self._shared:
            pairs = [(hold.key, hold.reservation) for hold in holds if hold.budget is budget]
            if pairs:
                await budget.renew(pairs)


class _MessageBudget(Budget):
    """The same, where messages of the answer cost something."""

    def on_response_headers(self, call: Call, fields: list[HeaderField]) -> None:
        encoding = encoding_of(fields)
        if encoding != b"identity":
            call.note(_ENCODING, encoding)

    def on_response_message(self, call: Call, message: bytes) -> Verdict:
        for hold in self._holds(call):
            cost = hold.budget.cost_of(call, message)
            if cost is None:
                continue
            if not hold.is_used_up(cost):
                hold.spent = (hold.spent or 0) + cost
                continue
            if hold.reservation is not None:
                return self._later(call, hold, message)
            verdict = self._more_local(hold, cost)
            if verdict is not None:
                return self._withheld(hold, cost, verdict)
        return None

    def _withheld(self, hold: _Hold, cost: int, verdict: Rejection) -> Rejection:
        if hold.budget.field is not None:
            # The caller does not get the message; what it tells of has been used all the same.
            hold.spent = (hold.spent or 0) + cost
        return verdict

    def _more_local(self, hold: _Hold, cost: int) -> Rejection | None:
        """The reservation is used up: charge it, and hold as much again, or at least enough for this message."""
        budget = hold.budget
        now = int(self._clock.monotonic() * NANOSECONDS)
        held, spent = hold.amount, hold.spent or 0
        budget.charged.inc(spent)
        hold.amount = hold.spent = 0
        shortage: Shortage | None = None
        for amount in (max(budget.reserve, cost), cost):
            shortage = budget.ledger.exchange(hold.key, budget.allowance, now, held=held, spent=spent, amount=amount)
            if shortage is None:
                hold.amount, hold.spent = amount, cost
                return None
            held = spent = 0
        assert shortage is not None
        return budget.exhausted(shortage)

    async def _later(self, call: Call, first: _Hold, message: bytes) -> Rejection | None:
        """The same from the hold `first` on, whose budget is shared; those before it have been asked."""
        holds = self._holds(call)
        for hold in holds[holds.index(first) :]:
            cost = hold.budget.cost_of(call, message)
            if cost is None:
                continue
            if not hold.is_used_up(cost):
                hold.spent = (hold.spent or 0) + cost
                continue
            more = (
                self._more_local(hold, cost) if hold.reservation is None else await hold.budget.more_shared(hold, cost)
            )
            if more is not None:
                return self._withheld(hold, cost, more)
        return None


def _reached_agent(call: Call) -> bool:
    attempt = call.attempt
    return attempt is not None and (attempt.started or call.attempts > 1)


class _Hold:
    """What one call holds of one budget. `spent`: units charged since the last exchange, None = not known yet."""

    __slots__ = ("amount", "budget", "key", "reservation", "spent")

    def __init__(self, budget: _Allowance, key: Any, reservation: str | None = None) -> None:
        self.budget = budget
        self.key = key
        self.reservation = reservation
        self.amount = budget.reserve
        self.spent: int | None = 0 if budget.cost else None

    def is_used_up(self, cost: int) -> bool:
        """Must more be held before a message of this cost may pass?

        What a field tells has been used when the message comes: it passes, as an answer with a trailer does, and the next
        one does not.
        """
        spent = self.spent or 0
        return spent >= self.amount if self.budget.field is not None else spent + cost > self.amount


_NO_HOLDS: list[_Hold] = []


class _Allowance:
    """One budget, compiled. `store` is None for a local one."""

    def __init__(self, config: AllowanceConfig, runtime: Runtime) -> None:
        charge = config.charge
        self.config = config
        self.reserve = config.reserve
        self.allowance = Allowance(config.limit.count, round(config.limit.per_seconds * NANOSECONDS))
        self.trailer = None if charge.trailer is None else charge.trailer.encode()
        self.cost = charge.message or 0
        self.field = None
        if charge.field is not None and charge.descriptors is not None:
            try:
                self.field = NumberField(charge.descriptors, charge.field, runtime)
            except ValueError as error:
                raise ValueError(f"{config.name}: charge.field: {error}") from None
        self.key_of = compile_key(config.per, skips_absent=config.optional)
        self.what = ", ".join(config.per) or "all callers"
        self.store: Store | None = None
        if config.scope == "shared":
            if runtime.store is None:
                raise ValueError(
                    f"{config.name}: scope: shared needs a store; configure store.url, or use scope: local"
                )
            self.store = runtime.store
        definition = (runtime.listener, config.name, str(config.limit), *config.per)
        self.ledger = runtime.keep(("budget", *definition), Ledger)
        self._definition = digest(definition).hex()
        self._log = runtime.log
        metrics, listener, name = runtime.metrics, runtime.listener, config.name
        labels = {"listener": listener, "policy": Budget.name, "limit": name}
        self.refusals = metrics.counter(names.LIMIT_REFUSALS, **labels)
        self.charged = metrics.counter(names.BUDGET_CHARGED, listener=listener, limit=name)
        if self.store is None:
            ledger, allowance, clock = self.ledger, self.allowance, runtime.clock
            metrics.read(
                names.BUDGET_LEFT,
                lambda: [((listener, name), ledger.least_left(allowance, round(clock.monotonic() * NANOSECONDS)))],
                ("budget", listener, name),
            )
        self._unreadable = metrics.counter(names.BUDGET_CHARGES_UNREADABLE, listener=listener, limit=name)
        self._undecided = metrics.counter(names.LIMIT_STORE_ERRORS, decision=config.on_store_error, **labels)
        self._charge_lost = metrics.counter(names.LIMIT_STORE_ERRORS, decision="charge_lost", **labels)
        self._is_store_lost = False

    def read_charge(self, value: bytes) -> int | None:
        """A whole number that is not negative; None if it is anything else, which is counted."""
        if len(value) <= _CHARGE_DIGITS and value.isdigit():
            return int(value)
        self._unreadable.inc()
        return None

    def cost_of(self, call: Call, message: bytes) -> int | None:
        """What a message of the answer costs; None = it says nothing. What cannot be read says nothing, and is counted."""
        field = self.field
        if field is None:
            return self.cost or None
        encoding = None if call.notes is None else call.notes.get(_ENCODING)
        try:
            found = field.read(call.path, message, encoding, call.plan.max_message)
            if found is not None and found >= 10**_CHARGE_DIGITS:
                raise ValueError("a charge is beyond all measure")
        except (ValueError, RecursionError):
            self._unreadable.inc()
            return None
        return found

    # ── shared ──

    def store_key(self, call: Call) -> str | None:
        """What names the account of `call` in the store: nothing of what the caller sent stands in it. None = skipped."""
        key: Hashable = self.key_of(call)
        if key is SKIPPED:
            return None
        parts: Any = key if isinstance(key, tuple) else (key,)
        return f"budget:{self.config.name}:{digest((self._definition, *parts)).hex()}"

    async def hold_shared(self, hold: _Hold, *, peek: bool = False) -> Rejection | bool:
        """Reserve: True = held; False = the store is lost, and that is allowed."""
        assert self.store is not None
        assert hold.reservation is not None
        try:
            shortage = await self.store.reserve(
                hold.key, self.allowance, hold.reservation, hold.amount, lease=self.config.lease, peek=peek
            )
        except StoreUnavailable as error:
            return self._undecidable(error) or False
        self._found()
        if shortage is None:
            return True
        return self.refusal(shortage) if peek else self.exhausted(shortage)

    async def more_shared(self, hold: _Hold, cost: int) -> Rejection | None:
        """Charge what `hold` has spent, and hold as much again, or at least enough for one message."""
        assert self.store is not None
        assert hold.reservation is not None
        spent = hold.spent or 0
        shortage: Shortage | None = None
        try:
            for amount in (max(self.reserve, cost), cost):
                shortage = await self.store.charge(
                    hold.key, self.allowance, hold.reservation, spent, reserve=amount, lease=self.config.lease
                )
                self.charged.inc(spent)
                hold.amount, hold.spent = (amount, cost) if shortage is None else (0, 0)
                if shortage is None:
                    return None
                spent = 0
        except StoreUnavailable as error:
            refused = self._undecidable(error)
            if refused is None:
                # Beyond what is held: settling charges it all.
                hold.spent = (hold.spent or 0) + cost
            return refused
        assert shortage is not None
        return self.exhausted(shortage)

    async def settle_shared(self, hold: _Hold, spent: int) -> None:
        assert self.store is not None
        assert hold.reservation is not None
        await self.store.settle(hold.key, self.allowance, hold.reservation, spent)

    async def renew(self, pairs: list[tuple[Any, str | None]]) -> None:
        assert self.store is not None
        try:
            await self.store.renew([(key, each) for key, each in pairs if each is not None], lease=self.config.lease)
        except StoreUnavailable as error:
            self._undecidable(error)

    def lost(self, spent: int, cause: StoreUnavailable) -> None:
        """The store stayed away for so long that a charge is given up."""
        self._charge_lost.inc(spent)
        extra = {"budget": self.config.name, "units": spent, "kind": cause.kind, "cause": str(cause)}
        self._log.warning("a charge is lost", extra=extra)

    def _found(self) -> None:
        if self._is_store_lost:
            self._is_store_lost = False
            self._log.info("the store answers again", extra={"budget": self.config.name})

    def _undecidable(self, error: StoreUnavailable) -> Rejection | None:
        self._undecided.inc()
        name, decision = self.config.name, self.config.on_store_error
        if not self._is_store_lost:
            # Once, not per RPC; the metric tells how many.
            self._is_store_lost = True
            extra = {"budget": name, "decision": decision, "kind": error.kind, "cause": str(error)}
            self._log.warning("a shared budget cannot be decided", extra=extra)
        if decision == "allow":
            return None
        return Reason.STORE_UNAVAILABLE.reject(
            f"budget {name} cannot be decided now", budget=name, retry_after=_RETRY_STORE
        )

    # ── refusals ──

    def exhausted(self, shortage: Shortage) -> Rejection:
        """Counted: nothing is left."""
        self.refusals.inc()
        return self.refusal(shortage)

    def refusal(self, shortage: Shortage) -> Rejection:
        config = self.config
        wait = shortage.resets_in
        if shortage.used + self.reserve <= config.limit.count:
            wait = min(wait, _RETRY_RESERVED)
        return Reason.BUDGET_EXHAUSTED.reject(
            f"budget {config.name}: {config.limit} per {self.what}; {shortage.used} used, {shortage.reserved} reserved by "
            f"RPCs that run, {self.reserve} needed; come back in {wait:.3f} s",
            retry_after=wait,
            details=(
                QuotaFailure((QuotaViolation(f"budget:{config.name}", f"units: {config.limit} per {self.what}"),)),
            ),
            budget=config.name,
            limit=config.limit,
            per=self.what,
            used=shortage.used,
            reserved=shortage.reserved,
            needed=self.reserve,
            waitSeconds=f"{wait:.3f}",
        )
