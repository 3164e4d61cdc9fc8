"""Claims keys, waits for others' executions, and settles our own: the one place that changes records.

Every change is a put of the store that names what it replaces, so of two sidecars that want the same, one gets it. A key is
claimed by one durable write once the request is complete and everything else has let it pass: it says "sent" before anything is.
While an execution runs, its record is put again three times per lease. Whoever dies leaves a record that gets old.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sidecar.clock import sleep
from sidecar.policies.idempotency.record import Execution, State, dump, load
from sidecar.store.interface import StoreUnavailable
from sidecar.store.records import Record
from sidecar.store.sealing import Unreadable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sidecar.runtime import Runtime
    from sidecar.store.interface import Store
    from sidecar.store.sealing import Sealing

KEPT = 30 * 86_400.0
"""Seconds that a record which is not done is kept: people need time to settle what nobody knows."""
_POLL_FIRST = 0.02
_POLL_FACTOR = 1.6
_POLL_LONGEST = 0.5
_AGAIN_FIRST = 0.05
_AGAIN_LONGEST = 2.0
_TURNS = 16


class Taken(Exception):
    """The key cannot be had; `why` is a reason's name, `record` what holds it."""

    def __init__(self, why: str, record: Execution) -> None:
        super().__init__(why)
        self.why = why
        self.record = record


@dataclass(slots=True, eq=False)
class Claim:
    """A key in this process: being claimed, waited for, running, or being settled.

    Others wait for `over`: what was done, where that is known; else they look themselves.
    """

    key: str
    over: asyncio.Future[Execution | None]
    execution: Execution | None = None
    value: bytes = b""
    is_running: bool = False
    is_abandoned: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """How a route wants it. Times in seconds."""

    lease: float
    ttl: float
    joins: bool
    repeats_unknown: bool


class Executions:
    """All keyed executions of this process; kept over reloads."""

    def __init__(self, store: Store, sealing: Sealing, runtime: Runtime) -> None:
        self._store = store
        self._sealing = sealing
        self._runtime = runtime
        self._clock = runtime.clock
        self.claims: dict[str, Claim] = {}
        # The leases, in seconds, that somebody renews.
        self._renewed: set[float] = set()
        self.owner = f"{runtime.random.getrandbits(64):016x}"

    # ── claiming ──

    async def enter(self, key: str, wanted: Execution, terms: Terms, joined: list[bool]) -> Claim | Execution:
        """Our claim, which runs from now on, or the execution that is done already.

        `joined` gets an entry when another one is waited for. Raises Taken, StoreUnavailable; TimeoutError when the store took
        so long that the lease might be over.
        """
        pause = _POLL_FIRST
        while True:
            while (other := self.claims.get(key)) is not None:
                self._check_joins(other, wanted, terms)
                if other.is_running:
                    joined.append(True)
                done = await asyncio.shield(other.over)
                if done is not None:
                    return done
            claim = Claim(key, asyncio.get_running_loop().create_future())
            self.claims[key] = claim
            found = await self._claim(claim, wanted, terms)
            if found is not None:
                return claim if found is claim.execution else found
            # It runs elsewhere.
            joined.append(True)
            await sleep(self._clock, pause)
            pause = min(pause * _POLL_FACTOR, _POLL_LONGEST)

    def _check_joins(self, other: Claim, wanted: Execution, terms: Terms) -> None:
        record = other.execution
        if record is not None and record.fingerprint != wanted.fingerprint:
            raise Taken("KEY_REUSED", record)
        if other.is_running and not terms.joins:
            raise Taken("KEY_IN_PROGRESS", record or wanted)

    async def _claim(self, claim: Claim, wanted: Execution, terms: Terms) -> Execution | None:
        """The execution: ours (then it is `claim.execution`), or a done one; None = somebody else's runs."""
        began = self._clock.monotonic()
        claim.execution = wanted
        done: Execution | None = None
        try:
            found = await self._put_claim(claim, wanted, terms)
            if found is not claim.execution:
                done = found
            elif self._clock.monotonic() - began >= terms.lease / 2:
                # Nothing has been sent, and nothing will be.
                self._undo(claim)
                raise TimeoutError
            else:
                claim.is_running = True
                self._renew(terms.lease)
            return found
        finally:
            if not claim.is_running and not claim.is_abandoned:
                self._forget(claim, done)

    async def _put_claim(self, claim: Claim, wanted: Execution, terms: Terms) -> Execution | None:
        expected: bytes | None = None
        for _ in range(_TURNS):
            claim.value = self._sealing.seal(dump(wanted))
            claim.execution = wanted
            put = _begun(self._store.put(claim.key, expected, claim.value, keep=KEPT))
            try:
                current = await asyncio.shield(put)
            except asyncio.CancelledError:
                # The caller is gone; what the store does all the same is undone when it says so.
                self._undo(claim, put)
                raise
            if current is True:
                return wanted
            if not isinstance(current, Record):
                expected = None
                continue
            held, is_current = self._open(current)
            if held.state is not State.RELEASED and held.fingerprint != wanted.fingerprint:
                raise Taken("KEY_REUSED", held)
            if held.state is State.DONE:
                if not is_current:
                    self._runtime.spawn(
                        self._seal_again(claim.key, held, current.value, terms.ttl), "seal a record again"
                    )
                return held
            if held.state is State.RUNNING and current.age < held.lease:
                if not terms.joins:
                    raise Taken("KEY_IN_PROGRESS", held)
                return None
            if held.state is not State.RELEASED and not terms.repeats_unknown:
                await self._mark_unknown(claim.key, held, current.value)
                raise Taken("OUTCOME_UNKNOWN", held)
            expected = current.value
            # An agent that honours tokens ignores what the former execution may still do.
            wanted = replace(wanted, token=held.token + 1)
        raise StoreUnavailable("error", "a record changes faster than it can be read")

    async def _mark_unknown(self, key: str, held: Execution, value: bytes) -> None:
        """So that people find it; that it is so is known without, from its age."""
        if held.state is State.RUNNING:
            unknown = held.become(State.UNKNOWN, self._clock.wall())
            await self._store.put(key, value, self._sealing.seal(dump(unknown)), keep=KEPT)

    def _undo(self, claim: Claim, put: Awaitable[Record | bool] | None = None) -> None:
        """The key is free again, once the `put` that claims it is done. Nothing has been sent."""
        claim.is_abandoned = True
        self._runtime.spawn(self._release(claim, put), "release a key")

    async def _release(self, claim: Claim, put: Awaitable[Record | bool] | None) -> None:
        assert claim.execution is not None
        released = claim.execution.become(State.RELEASED, self._clock.wall())
        try:
            if put is None or await put is True:
                await self._store.put(claim.key, claim.value, self._sealing.seal(dump(released)), keep=KEPT)
        except StoreUnavailable as error:
            # Its record stays, and counts as unknown when its lease is over.
            self._runtime.log.warning("a key could not be released", extra={"cause": str(error)})
        finally:
            self._forget(claim, None)

    async def _seal_again(self, key: str, done: Execution, value: bytes, ttl: float) -> None:
        """With the newest key; its time goes on."""
        left = (done.ended or 0.0) + ttl - self._clock.wall()
        if left > 0:
            with contextlib.suppress(StoreUnavailable):
                await self._store.put(key, value, self._sealing.seal(dump(done)), keep=min(left, ttl))

    def _open(self, record: Record) -> tuple[Execution, bool]:
        """What was recorded, and is it sealed with the newest key?"""
        try:
            content, is_current = self._sealing.unseal(record.value)
            return load(content), is_current
        except (Unreadable, ValueError) as error:
            raise StoreUnavailable("error", f"a record cannot be read: {error}") from None

    # ── settling ──

    async def settle(self, claim: Claim, execution: Execution, keep: float) -> bool:
        """Record how our execution ended. True = it is recorded; False = somebody else has settled it.

        Raises StoreUnavailable, and goes on trying for a lease; so it does for a caller that waits no longer.
        """
        claim.is_running = False
        value = self._sealing.seal(dump(execution))
        put = _begun(self._store.put(claim.key, claim.value, value, keep=keep))
        try:
            found = await asyncio.shield(put)
        except (StoreUnavailable, asyncio.CancelledError):
            self._runtime.spawn(self._insist(claim, execution, value, keep, put), "settle an execution")
            raise
        return self._settled(claim, execution, value, found)

    def settle_later(self, claim: Claim, execution: Execution, keep: float) -> None:
        """As `settle`, for nobody who waits."""
        claim.is_running = False
        value = self._sealing.seal(dump(execution))
        put = self._store.put(claim.key, claim.value, value, keep=keep)
        self._runtime.spawn(self._insist(claim, execution, value, keep, put), "settle an execution")

    def _settled(self, claim: Claim, execution: Execution, value: bytes, found: Record | bool) -> bool:
        # A put that was lost on its way back has been done all the same.
        recorded = found is True or (isinstance(found, Record) and found.value == value)
        self._forget(claim, execution if recorded and execution.state is State.DONE else None)
        return recorded

    async def _insist(
        self, claim: Claim, execution: Execution, value: bytes, keep: float, put: Awaitable[Record | bool]
    ) -> None:
        gives_up = self._clock.monotonic() + execution.lease
        pause = _AGAIN_FIRST
        try:
            while True:
                try:
                    self._settled(claim, execution, value, await put)
                    return
                except StoreUnavailable as error:
                    if self._clock.monotonic() >= gives_up:
                        self._runtime.log.error(
                            "an execution could not be recorded",
                            extra={"method": execution.method, "cause": str(error)},
                        )
                        return
                await sleep(self._clock, pause)
                pause = min(pause * 2, _AGAIN_LONGEST)
                put = self._store.put(claim.key, claim.value, value, keep=keep)
        finally:
            self._forget(claim, None)

    def _forget(self, claim: Claim, done: Execution | None) -> None:
        if self.claims.get(claim.key) is claim:
            del self.claims[claim.key]
        if not claim.over.done():
            claim.over.set_result(done)

    # ── leases ──

    def _renew(self, lease: float) -> None:
        if lease not in self._renewed:
            self._renewed.add(lease)
            self._runtime.spawn(self._renew_all(lease), "renew leases")

    async def _renew_all(self, lease: float) -> None:
        try:
            while True:
                await sleep(self._clock, lease / 3)
                running = [
                    each
                    for each in self.claims.values()
                    if each.is_running and each.execution is not None and each.execution.lease == lease
                ]
                if not running:
                    return
                await asyncio.gather(*(self._renew_one(each) for each in running))
        finally:
            self._renewed.discard(lease)

    async def _renew_one(self, claim: Claim) -> None:
        try:
            done = await self._store.put(claim.key, claim.value, claim.value, keep=KEPT)
        except StoreUnavailable:
            # Asked again before the lease is over; when it stays away, settling says so.
            return
        if done is not True and claim.is_running and claim.execution is not None:
            self._runtime.log.error(
                "an execution of ours was taken over",
                extra={"method": claim.execution.method, "token": claim.execution.token},
            )


def _begun(put: Awaitable[Record | bool]) -> asyncio.Future[Record | bool]:
    """On its way, whoever waits for it or not; a store that answers by a future needs no task for that."""
    return asyncio.ensure_future(put)  # noqa: TID251  # its failure is the caller's to tell, and no defect
