"""What follows for a rollout from what is known now: from health, time served, checks, and what people say. Pure: a state in, a state out.

idle → verifying → step 1 … n → promoted; from each of these, rolled back; between any two, paused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sidecar.rollout.analysis import Verdict
from sidecar.rollout.state import Phase, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.rollout.analysis import Report
    from sidecar.rollout.config import RolloutConfig


class Refused(ValueError):
    """What a person asked for makes no sense now; the text says why."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a controller sees. `elapsed`: seconds since it looked last."""

    at: float
    """Seconds since the epoch."""
    elapsed: float = 0.0
    candidate_serves: bool = True
    stable_serves: bool = True
    candidate_problem: str = ""
    stable_problem: str = ""
    smoke_passed: bool = True
    """All smoke RPCs have succeeded since the candidate began to serve; True where there are none."""
    smoke_problem: str = ""
    report: Report | None = None
    """An analysis that was made just now."""
    hopeless: str | None = None
    """Why the candidate is beyond hope, by the sequential test."""


BY_ITSELF = "controller"
"""Who decides where no person does."""


def advance(state: State, config: RolloutConfig, facts: Facts) -> State:
    """`state`, one look later; the same object where nothing but the time served has changed and that is none."""
    if state.phase is Phase.IDLE:
        return begun(state, config, facts.at, BY_ITSELF) if config.begin == "auto" else state
    if not state.is_running:
        return state
    followed = _rolled_back(state, facts, config) or _rescued(state, config, facts)
    if followed is not None:
        return followed
    if facts.report is not None and state.step >= 0 and not state.is_rescue:
        state = _checked(state, facts.report)
        if state.failed_checks >= config.analysis.max_failed_checks and facts.stable_serves:
            return _back(state, config, facts, f"{state.failed_checks} checks failed: {facts.report.text}")
    if state.phase is Phase.PAUSED:
        return state
    if facts.elapsed and not state.is_rescue:
        state = replace(state, served=state.served + facts.elapsed)
    if state.phase is Phase.VERIFYING:
        return _verified(state, config, facts)
    is_safe = facts.stable_serves or state.percent >= 100
    if state.served >= config.length(state.step) and state.passed and not state.is_rescue and is_safe:
        return _next(state, config, facts)
    return state


def _rolled_back(state: State, facts: Facts, config: RolloutConfig) -> State | None:
    """Is there a reason to go back at once? Not to a stable version that does not serve, either."""
    if state.step < 0 or state.is_rescue or not facts.stable_serves:
        return None
    if not facts.candidate_serves:
        return _back(state, config, facts, f"the candidate does not serve: {facts.candidate_problem}")
    if facts.hopeless is not None:
        return _back(state, config, facts, facts.hopeless)
    return None


def _rescued(state: State, config: RolloutConfig, facts: Facts) -> State | None:
    """Stable is down: the candidate takes everything, if it has stood its first step; when stable is back, the step goes on."""
    if (
        not state.is_rescue
        and state.step > 0
        and facts.candidate_serves
        and not facts.stable_serves
        and state.percent < 100
    ):
        reason = f"stable does not serve, the candidate takes everything: {facts.stable_problem}"
        return state.moved(state.phase, 100.0, reason, BY_ITSELF, facts.at, None, is_rescue=True)
    if state.is_rescue and facts.stable_serves:
        percent = config.shares[state.step]
        return state.moved(state.phase, percent, "stable serves again", BY_ITSELF, facts.at, None, is_rescue=False)
    return None


def _verified(state: State, config: RolloutConfig, facts: Facts) -> State:
    if facts.candidate_serves and facts.smoke_passed:
        return _next(state, config, facts)
    if state.served >= config.ready_within:
        why = facts.smoke_problem if facts.candidate_serves else facts.candidate_problem
        return _back(state, config, facts, f"the candidate was not ready within {config.ready_within:g} s: {why}")
    return state


def _checked(state: State, report: Report) -> State:
    if report.verdict is Verdict.FAIL:
        return replace(state, failed_checks=state.failed_checks + 1, passed=False, number=state.number + 1)
    if report.verdict is Verdict.PASS and not state.passed:
        return replace(state, passed=True, number=state.number + 1)
    return state


def _next(state: State, config: RolloutConfig, facts: Facts) -> State:
    """The next step, or the promotion; a closed gate stands before it."""
    figures = _figures(facts)
    shares = config.shares
    step = state.step + 1
    gate = _gate(state, config, step)
    if gate is not None:
        before = f"{gate:g} %" if isinstance(gate, float) else gate
        return state.moved(
            Phase.PAUSED,
            state.percent,
            f"waits for a person before {before}",
            BY_ITSELF,
            facts.at,
            figures,
            waits_for=str(gate),
        )
    if step >= len(shares):
        return _promoted(state, config, facts.at, f"stood all {len(shares)} steps", BY_ITSELF, figures)
    reason = f"step {step + 1} of {len(shares)}: {shares[step]:g} %"
    if facts.report is not None:
        reason += f"; {facts.report.text}"
    return state.moved(
        Phase.PROGRESSING,
        shares[step],
        reason,
        BY_ITSELF,
        facts.at,
        figures,
        step=step,
        served=0.0,
        failed_checks=0,
        passed=False,
        waits_for=None,
    )


def _gate(state: State, config: RolloutConfig, step: int) -> float | str | None:
    wanted: list[float | str] = []
    if step == 0:
        wanted.append("start")
    wanted.append(config.shares[step] if step < len(config.shares) else "promote")
    return next((each for each in wanted if each in config.manual_gates and each not in state.gates), None)


def _figures(facts: Facts) -> Mapping[str, object] | None:
    return None if facts.report is None else facts.report.as_dict()


def _back(state: State, config: RolloutConfig, facts: Facts, reason: str) -> State:
    return _sent_back(state, config, facts.at, reason, BY_ITSELF, _figures(facts))


def _sent_back(
    state: State, config: RolloutConfig, at: float, reason: str, by: str, figures: Mapping[str, object] | None
) -> State:
    return state.moved(
        Phase.ROLLED_BACK, 0.0, reason, by, at, figures, step=-1, is_rescue=False, waits_for=None, kept_until=at
    )


def _promoted(
    state: State, config: RolloutConfig, at: float, reason: str, by: str, figures: Mapping[str, object] | None
) -> State:
    return state.moved(
        Phase.PROMOTED,
        100.0,
        reason,
        by,
        at,
        figures,
        step=len(config.shares) - 1,
        is_rescue=False,
        waits_for=None,
        kept_until=at + config.keep_old_for,
    )


# ── what people say ──


def begun(state: State, config: RolloutConfig, at: float, by: str) -> State:
    """Begin, or begin again after a rollback. Raises Refused."""
    if state.is_running:
        raise Refused(f"it runs already ({state.phase.value}); abort it first")
    if state.phase is Phase.PROMOTED:
        raise Refused(f"{config.candidate} has been promoted; make it `stable` and name a new candidate")
    return state.moved(
        Phase.VERIFYING,
        0.0,
        f"{config.candidate} is to take over from {config.stable} ({config.strategy})",
        by,
        at,
        None,
        run=state.run + 1,
        step=-1,
        served=0.0,
        failed_checks=0,
        passed=False,
        gates=(),
        waits_for=None,
        kept_until=None,
    )


def paused(state: State, config: RolloutConfig, at: float, by: str) -> State:
    """Stay where it is until `resumed`; a candidate that fails is sent back all the same. Raises Refused."""
    if not state.is_running:
        raise Refused(f"nothing runs ({state.phase.value})")
    if state.phase is Phase.PAUSED:
        raise Refused(f"it is paused already: {state.reason}")
    return state.moved(Phase.PAUSED, state.percent, "paused", by, at, None, waits_for=None)


def resumed(state: State, config: RolloutConfig, at: float, by: str) -> State:
    """Go on; at a manual gate: open it. Raises Refused."""
    if state.phase is not Phase.PAUSED:
        raise Refused(f"it is not paused ({state.phase.value})")
    phase = Phase.VERIFYING if state.step < 0 else Phase.PROGRESSING
    gates = state.gates
    if state.waits_for is not None:
        gates = (*gates, *(each for each in config.manual_gates if str(each) == state.waits_for))
    return state.moved(phase, state.percent, "resumed", by, at, None, waits_for=None, gates=gates)


def promoted(state: State, config: RolloutConfig, at: float, by: str) -> State:
    """Everything to the candidate, now. Raises Refused."""
    if state.phase is Phase.PROMOTED:
        raise Refused("it has been promoted already")
    if not state.is_running:
        raise Refused(f"nothing runs ({state.phase.value}); start it first")
    return _promoted(state, config, at, "promoted by hand", by, None)


def aborted(state: State, config: RolloutConfig, at: float, by: str) -> State:
    """Everything back to stable, now; also after a promotion, while the old version is kept. Raises Refused."""
    if state.phase is Phase.PROMOTED and state.kept_until is not None and at >= state.kept_until:
        raise Refused("the old version is no longer kept; roll out another one")
    if not state.is_running and state.phase is not Phase.PROMOTED:
        raise Refused(f"nothing runs ({state.phase.value})")
    return _sent_back(state, config, at, "aborted by hand", by, None)
