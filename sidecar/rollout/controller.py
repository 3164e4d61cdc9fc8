"""Drives the rollout of one cluster: looks, decides (`progress`), writes the decision to the store, and sets the cluster's split.

One of the sidecars that share a store leads, by lease, and decides; all of them follow the state in the store, and count for it. When the
store is lost nobody advances, and everybody may still go back: a candidate that fails is sent back by each sidecar for itself.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sidecar.clock import sleep
from sidecar.clusters.tally import Counts
from sidecar.clusters.versions import Split
from sidecar.rollout import progress
from sidecar.rollout.actions import run_actions
from sidecar.rollout.analysis import Report, Verdict, failure_codes, judge, summary, tolerated
from sidecar.rollout.evidence import Evidence
from sidecar.rollout.sequential import is_hopeless
from sidecar.rollout.smoke import smoke
from sidecar.rollout.state import Phase, State
from sidecar.store.interface import StoreUnavailable
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clusters.versions import Version, VersionedCluster
    from sidecar.rollout.config import RolloutConfig
    from sidecar.rollout.record import Record
    from sidecar.runtime import Runtime

TICK = 0.1
"""Seconds between two looks while something runs: a hopeless candidate is gone within a few of them."""
REST = 0.25
"""Seconds between two looks at the store; all follow within a second."""
LEASE = 2.0
"""Seconds that a leader leads without renewing; renewed each third of it."""
_TELL = 0.5
_SAVE = 1.0
_SMOKE_AGAIN = 1.0


class Controller:
    """Of one versioned cluster with a rollout, as long as that configuration is in force."""

    def __init__(
        self,
        config: RolloutConfig,
        cluster: VersionedCluster,
        record: Record,
        *,
        state: State,
        owner: str,
        runtime: Runtime,
        moved: Callable[[dict[str, Any]], None],
    ) -> None:
        """`state`: what is known so far; `moved` gets every transition, with its figures."""
        self.config = config
        self.cluster = cluster
        self.state = state
        self.leads = False
        self.store_problem: str | None = None
        self.last_report: Report | None = None
        self._record = record
        self._runtime = runtime
        self._clock = runtime.clock
        self._moved = moved
        self._closed = False
        self._evidence = Evidence(cluster, owner)
        self._failures = failure_codes(config.analysis)
        now = self._clock.monotonic()
        self._looked_at = now
        self._read_at = self._leased_at = self._told_at = self._saved_at = -1e9
        self._lease_ends = -1e9
        self._checked_at = now
        # Decided here while the store did not answer, and not yet in it.
        self._unsaved: State | None = None
        self._smoke_problem = ""
        self._smoke_passed = not config.smoke
        self._smoked_at = -1e9
        self._enter(now)
        self._show()

    # ── life ──

    async def run(self) -> None:
        """Until `close`."""
        while not self._closed:
            try:
                await self.look()
            except Exception as error:
                self._runtime.defect("rollout", error)
            await sleep(self._clock, TICK if self.state.is_running else REST)

    def close(self) -> None:
        """No more; if it led, another sidecar may at once."""
        self._closed = True
        if self.leads:
            self._runtime.spawn(self._resign(), f"rollout {self.cluster.name}")

    async def _resign(self) -> None:
        # If the store does not hear of it, the lease ends by itself.
        with contextlib.suppress(StoreUnavailable):
            await self._record.lead(0.0)

    async def look(self) -> None:
        """Once: what does the store say, what follows from what is seen, and what is to be told?"""
        now = self._clock.monotonic()
        elapsed, self._looked_at = now - self._looked_at, now
        try:
            await self._follow(now)
            self.store_problem = None
        except StoreUnavailable as error:
            if self.store_problem is None:
                self._runtime.log.warning(
                    "rollout state cannot be read or written, nothing advances",
                    extra={"cluster": self.cluster.name, "cause": str(error)},
                )
            self.store_problem = str(error)
        if self._closed:
            return
        self.leads = now < self._lease_ends
        if self.leads or self.store_problem is not None:
            await self._decide(now, elapsed)

    # ── the store ──

    async def _follow(self, now: float) -> None:
        record = self._record
        if now - self._leased_at >= LEASE / 3:
            self._lease_ends = now + LEASE if await record.lead(LEASE) else -1e9
            self._leased_at = now
        if now - self._read_at >= REST or self._unsaved is not None:
            found = await record.read()
            self._read_at = now
            unsaved, self._unsaved = self._unsaved, None
            if unsaved is not None and unsaved.number > found.number:
                if not await record.write(unsaved):
                    self._read_at = -1e9
            elif found.number != self.state.number:
                self._adopt(found, now)
        if self.state.step >= 0 and self.state.is_running and now - self._told_at >= _TELL:
            self._told_at = now
            counts = await record.counts()
            self._evidence.hear(counts)
            if not self.leads:
                await record.tell(counts, self._evidence.told(counts, now, self._clock.wall()))

    async def order(self, change: Callable[[State, RolloutConfig, float, str], State], by: str) -> State:
        """Do what a person asked for. Raises Refused, StoreUnavailable."""
        for _ in range(10):
            state = await self._record.read()
            changed = change(state, self.config, self._clock.wall(), by)
            if await self._record.write(changed):
                self._adopt(changed, self._clock.monotonic(), acts=True)
                return changed
        raise StoreUnavailable("locked", f"the state of rollout {self.cluster.name} changes all the time")

    # ── deciding ──

    async def _decide(self, now: float, elapsed: float) -> None:
        state = self.state
        if state.phase is Phase.VERIFYING:
            await self._smoke(now)
        facts = self._facts(now, elapsed)
        decided = progress.advance(state, self.config, facts)
        if facts.report is not None and facts.report.verdict is not Verdict.INCONCLUSIVE:
            decided = replace(decided, reference=self._reference(now))
            self._evidence.conclude(now)
        if state.step < 0 <= decided.step:
            # What stable did while it had all the traffic: from now on it may get none (blue-green).
            decided = replace(decided, reference=self._reference(now))
        if self.state is not state or decided is state:
            # Somebody has changed it while we waited for an answer; or there is nothing new.
            return
        if not self.leads and decided.percent >= state.percent:
            return
        await self._commit(decided, now)

    async def _commit(self, decided: State, now: float) -> None:
        is_news = decided.number != self.state.number
        if not is_news and now - self._saved_at < _SAVE:
            self.state = decided
            return
        try:
            if self.store_problem is not None:
                raise StoreUnavailable("unreachable", self.store_problem)
            if not await self._record.write(decided):
                self._read_at = -1e9
                return
        except StoreUnavailable as error:
            if decided.percent >= self.state.percent:
                self.store_problem = str(error)
                return
            # Going back does not wait for a store.
            self._unsaved = decided
        self._saved_at = now
        self._adopt(decided, now, acts=True)

    def _facts(self, now: float, elapsed: float) -> progress.Facts:
        config, state = self.config, self.state
        stable, candidate = self.cluster.versions[config.stable], self.cluster.versions[config.candidate]
        candidate_serves = candidate.is_serving
        if not candidate_serves:
            self._smoke_passed = not config.smoke
        report: Report | None = None
        hopeless: str | None = None
        if state.step >= 0 and state.is_running:
            hopeless = self._hopeless(now)
            if now - self._checked_at >= config.analysis.interval:
                self._checked_at = now
                report = self.last_report = self._judge(now)
                self._runtime.metrics.counter(
                    names.ROLLOUT_CHECKS, cluster=self.cluster.name, verdict=report.verdict.value
                ).inc()
        return progress.Facts(
            at=self._clock.wall(),
            elapsed=elapsed,
            candidate_serves=candidate_serves,
            stable_serves=stable.is_serving,
            candidate_problem="" if candidate_serves else candidate.problem,
            stable_problem="" if stable.is_serving else stable.problem,
            smoke_passed=self._smoke_passed,
            smoke_problem=self._smoke_problem,
            report=report,
            hopeless=hopeless,
        )

    def _judge(self, now: float) -> Report:
        config = self.config
        candidate = self._evidence.window(config.candidate, now)
        stable = self._stable(now)
        analysis = config.analysis
        if self.state.percent >= 100 and stable.total < analysis.min_rpcs:
            # Stable gets nothing any more, and never had enough to be compared with.
            analysis = analysis.model_copy(update={"compare_to_stable": None})
        return judge(analysis, candidate, stable)

    def _stable(self, now: float) -> Counts:
        """What stable has done in this window; while it gets too little for that, the last time it got enough."""
        found = self._evidence.window(self.config.stable, now)
        if found.total < self.config.analysis.min_rpcs and self.state.reference is not None:
            return Counts.of(self.state.reference)
        return found

    def _reference(self, now: float) -> dict[str, Any] | None:
        least = self.config.analysis.min_rpcs
        found = self._evidence.window(self.config.stable, now)
        if found.total < least and self.state.step < 0:
            # Verifying was too short to see it: all that it has done since this sidecar began.
            found = self.cluster.versions[self.config.stable].tally.counts(now)
        if found.total < least:
            return dict(self.state.reference) if self.state.reference is not None else None
        return found.as_dict()

    def _hopeless(self, now: float) -> str | None:
        counts = self._evidence.all(self.config.candidate, now)
        failed, total = counts.count(self._failures), counts.total
        if not failed:
            return None
        if is_hopeless(failed, total, tolerated(self.config.analysis, self._stable(now))):
            return f"{failed} of the first {total} RPCs of this step failed"
        return None

    async def _smoke(self, now: float) -> None:
        candidate = self.cluster.versions[self.config.candidate]
        if self._smoke_passed or now - self._smoked_at < _SMOKE_AGAIN or not candidate.is_serving:
            return
        self._smoked_at = now
        for rpc in self.config.smoke:
            endpoint = next((each for each in candidate.cluster.endpoints if each.connection() is not None), None)
            connection = endpoint.connection() if endpoint is not None else None
            if endpoint is None or connection is None:
                self._smoke_problem = "the candidate has no connection"
                return
            is_unix = endpoint.address.startswith("unix:")
            problem = await smoke(
                rpc, connection, "localhost" if is_unix else endpoint.address, candidate.scheme, self._clock
            )
            if problem is not None:
                self._smoke_problem = problem
                return
        self._smoke_passed = True

    # ── what is in force ──

    def _adopt(self, state: State, now: float, *, acts: bool = False) -> None:
        """`state` is in force here from now on; `acts`: it was decided here, so what follows from it is done here."""
        former, self.state = self.state, state
        if (state.run, state.step) != (former.run, former.step) or state.phase is not former.phase:
            self._enter(now)
        else:
            self.cluster.apply(self.split())
        news = state.history[-1] if state.history else None
        if news is None or (former.history and former.history[-1] == news):
            return
        if state.phase is Phase.ROLLED_BACK and self.config.existing_streams == "end":
            self.cluster.end_streams(self.config.candidate)
        level = "warning" if state.phase is Phase.ROLLED_BACK or state.is_rescue else "info"
        event = self.event()
        getattr(self._runtime.log, level)("rollout", extra={**event, "leads": self.leads})
        self._runtime.metrics.counter(
            names.ROLLOUT_TRANSITIONS, cluster=self.cluster.name, phase=state.phase.value
        ).inc()
        if acts:
            self._moved(event)
            actions = self._actions(former)
            if actions:
                self._runtime.spawn(run_actions(actions, event, self._runtime), f"rollout {self.cluster.name}")

    def _enter(self, now: float) -> None:
        """A step begins for this sidecar."""
        self._evidence.enter(f"{self.state.run}:{self.state.step}:{self.state.phase.value}", now)
        self._checked_at = now
        self.last_report = None
        self._smoke_passed = not self.config.smoke
        self.cluster.apply(self.split())

    def split(self) -> Split:
        return split_of(self.config, self.state, self.cluster.name)

    def _actions(self, former: State) -> tuple[Any, ...]:
        config, state = self.config, self.state
        if state.phase is Phase.PROMOTED:
            return config.on_promote
        if state.phase is Phase.ROLLED_BACK:
            return config.on_rollback
        if state.phase is Phase.PAUSED and former.phase is not Phase.PAUSED:
            return config.on_pause
        if state.percent != former.percent:
            return config.on_start if former.percent == 0 else config.on_step
        return ()

    def event(self) -> dict[str, Any]:
        """The last transition, with what decided it."""
        state, last = self.state, self.state.history[-1]
        return {
            "cluster": self.cluster.name,
            "strategy": self.config.strategy,
            "stable": self.config.stable,
            "candidate": self.config.candidate,
            "phase": state.phase.value,
            "step": state.step + 1,
            "percent": state.percent,
            "reason": last.reason,
            "by": last.by,
            "at": last.at,
            "figures": last.figures,
        }

    # ── what is shown ──

    def describe(self) -> dict[str, Any]:
        """Where it stands: shares as wanted and as measured, figures of both versions, what comes next."""
        now, config, state = self._clock.monotonic(), self.config, self.state
        shares = self.cluster.shares()
        return {
            "cluster": self.cluster.name,
            "strategy": config.strategy,
            "stable": config.stable,
            "candidate": config.candidate,
            "phase": state.phase.value,
            "step": state.step + 1,
            "steps": list(config.shares),
            "percent": state.percent,
            "measured_percent": round(shares[config.candidate], 2),
            "reason": state.reason,
            "since": state.since,
            "step_served_seconds": round(state.served, 1),
            "step_lasts_seconds": config.length(state.step) if state.is_running and state.step >= 0 else None,
            "failed_checks": state.failed_checks,
            "max_failed_checks": config.analysis.max_failed_checks,
            "last_check": self.last_report.as_dict() if self.last_report is not None else None,
            "waits_for": state.waits_for,
            "stable_is_down": state.is_rescue,
            "kept_until": state.kept_until,
            "leads": self.leads,
            "store_problem": self.store_problem,
            "versions": [self._version(each, shares, now) for each in self.cluster.versions.values()],
            "history": [
                {"at": each.at, "phase": each.phase, "percent": each.percent, "reason": each.reason, "by": each.by}
                for each in state.history
            ],
        }

    def _version(self, version: Version, shares: dict[str, float], now: float) -> dict[str, Any]:
        role = {self.config.stable: "stable", self.config.candidate: "candidate"}.get(version.name, "")
        serves = version.is_serving
        percent = {"stable": 100 - self.state.percent, "candidate": self.state.percent}.get(role, 0.0)
        return {
            "name": version.name,
            "role": role,
            "serving": serves,
            "problem": "" if serves else version.problem,
            "endpoints": [each.address for each in version.cluster.endpoints],
            "percent": percent,
            "measured_percent": round(shares[version.name], 2),
            "in_flight": len(version.tally.running),
            # Since this step began, at all sidecars that share the rollout.
            "figures": summary(self._evidence.all(version.name, now), self._failures),
        }

    def _show(self) -> None:
        read, key = self._runtime.metrics.read, ("rollout", self.cluster.name)
        name = self.cluster.name

        def of(value: Callable[[Version], float]) -> list[tuple[tuple[str, ...], float]]:
            return [((name, each.name), value(each)) for each in self.cluster.versions.values()]

        def wanted(version: Version) -> float:
            percent = self.state.percent
            return {self.config.candidate: percent, self.config.stable: 100 - percent}.get(version.name, 0.0)

        read(names.ROLLOUT_PERCENT, lambda: [] if self._closed else of(wanted), key)
        read(
            names.ROLLOUT_MEASURED_PERCENT,
            lambda: [] if self._closed else [((name, v), share) for v, share in self.cluster.shares().items()],
            key,
        )
        read(names.ROLLOUT_LEADS, lambda: [] if self._closed else [((name,), float(self.leads))], key)
        read(names.ROLLOUT_ROLLED_BACK, lambda: [] if self._closed else [((name,), float(self._went_back()))], key)
        read(names.ROLLOUT_STABLE_DOWN, lambda: [] if self._closed else [((name,), float(self.state.is_rescue))], key)

    def _went_back(self) -> bool:
        """Was it sent back for what it did? What a person has aborted is no news to people."""
        state = self.state
        return state.phase is Phase.ROLLED_BACK and bool(state.history) and state.history[-1].by == progress.BY_ITSELF


def split_of(config: RolloutConfig, state: State, cluster: str) -> Split:
    """Who gets what in `state`."""
    return Split(
        stable=config.stable,
        candidate=config.candidate,
        percent=state.percent,
        salt=f"{cluster}:{state.revision}:{state.run}",
        may_rescue=state.is_running and state.step > 0,
    )
