from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.rollout import progress
from sidecar.rollout.analysis import Report, Verdict
from sidecar.rollout.config import RolloutConfig
from sidecar.rollout.progress import Facts, Refused, advance
from sidecar.rollout.state import Phase, State

PASS, FAIL, OPEN = (Report(each, (), {}, {}) for each in (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE))


def config(**more: Any) -> RolloutConfig:
    base = {"stable": "a", "candidate": "b", "steps": (10, 50, 100), "first_step_for": 30.0, "step_for": 10.0}
    return RolloutConfig.model_validate({**base, **more}, strict=False)


class Drive:
    """A rollout that is driven by facts."""

    def __init__(self, rules: RolloutConfig) -> None:
        self.rules = rules
        self.state = State("r")
        self.at = 1000.0

    def see(self, seconds: float = 1.0, **facts: Any) -> State:
        self.at += seconds
        self.state = advance(self.state, self.rules, Facts(at=self.at, elapsed=seconds, **facts))
        return self.state

    def order(self, change: Callable[..., State]) -> State:
        self.state = change(self.state, self.rules, self.at, "somebody")
        return self.state

    @property
    def shown(self) -> tuple[str, float]:
        return self.state.phase.value, self.state.percent


def at_step(number: int, rules: RolloutConfig | None = None) -> Drive:
    drive = Drive(rules or config())
    drive.see()
    drive.see()
    for step in range(number - 1):
        drive.see(drive.rules.length(step), report=PASS)
    return drive


def test_the_way_of_a_good_candidate() -> None:
    drive = Drive(config())
    shown = []
    for _ in range(60):
        drive.see(1.0, report=PASS)
        if not shown or shown[-1] != drive.shown:
            shown.append(drive.shown)
    assert shown == [
        ("verifying", 0),
        ("progressing", 10),
        ("progressing", 50),
        ("progressing", 100),
        ("promoted", 100),
    ]
    assert drive.state.kept_until == pytest.approx(drive.state.since + 86400)


def test_a_step_lasts_its_time_and_needs_a_check_that_passed() -> None:
    drive = at_step(1)
    assert drive.see(29.9, report=PASS).step == 0
    assert drive.see(0.2).step == 1
    assert drive.see(1000.0, report=OPEN).step == 1, "inconclusive: waits, and promotes nothing"
    assert drive.see(0.1, report=PASS).step == 2


def test_checks_that_fail_are_counted_within_a_step() -> None:
    drive = at_step(1)
    drive.see(report=FAIL)
    drive.see(report=PASS)
    assert drive.see(report=FAIL).failed_checks == 2
    drive.see(28.0, report=PASS)
    assert (drive.state.step, drive.state.failed_checks) == (1, 0)
    drive.see(report=FAIL)
    drive.see(report=FAIL)
    drive.see(report=FAIL)
    assert drive.shown == ("rolled_back", 0)
    assert drive.see(1000.0, report=PASS).phase is Phase.ROLLED_BACK, "it does not begin again by itself"


@pytest.mark.parametrize(
    "facts", [{"candidate_serves": False, "candidate_problem": "gone"}, {"hopeless": "all of them failed"}]
)
def test_back_at_once(facts: dict[str, Any]) -> None:
    assert at_step(2).see(**facts).phase is Phase.ROLLED_BACK


def test_not_back_to_a_stable_that_does_not_serve() -> None:
    drive = at_step(2)
    drive.see(stable_serves=False, candidate_serves=False)
    assert drive.shown == ("progressing", 50)
    drive.see(stable_serves=False, hopeless="all")
    assert drive.shown == ("progressing", 100)


def test_stable_is_down_the_candidate_takes_everything_until_it_is_back() -> None:
    first = at_step(1)
    first.see(stable_serves=False)
    assert first.shown == ("progressing", 10), "it has not stood its first step"
    drive = at_step(2)
    drive.see(stable_serves=False, stable_problem="gone")
    assert drive.shown == ("progressing", 100)
    drive.see(1000.0, stable_serves=False, report=PASS)
    assert drive.state.step == 1, "the step does not go on meanwhile"
    drive.see()
    assert drive.shown == ("progressing", 50)


def test_a_candidate_that_never_serves() -> None:
    drive = Drive(config(ready_within=5.0))
    drive.see()
    for _ in range(4):
        assert drive.see(candidate_serves=False).phase is Phase.VERIFYING
    drive.see(candidate_serves=False, candidate_problem="NOT_SERVING")
    assert drive.state.reason == "the candidate was not ready within 5 s: NOT_SERVING"


def test_smoke_comes_before_the_first_step() -> None:
    drive = Drive(config(ready_within=5.0))
    drive.see()
    assert drive.see(smoke_passed=False).percent == 0
    assert drive.see(smoke_passed=True).percent == 10


def test_gates_wait_for_a_person() -> None:
    drive = Drive(config(manual_gates=("start", 50, "promote")))
    drive.see()
    drive.see()
    assert (drive.shown, drive.state.waits_for) == (("paused", 0), "start")
    drive.see(1000.0)
    assert drive.shown == ("paused", 0)
    drive.order(progress.resumed)
    drive.see()
    assert drive.shown == ("progressing", 10)
    drive.see(30.0, report=PASS)
    assert (drive.shown, drive.state.waits_for) == (("paused", 10), "50.0")
    drive.order(progress.resumed)
    drive.see(report=PASS)
    assert drive.shown == ("progressing", 50)
    drive.see(10.0, report=PASS)
    assert drive.shown == ("progressing", 100)
    drive.see(10.0, report=PASS)
    assert (drive.shown, drive.state.waits_for) == (("paused", 100), "promote")
    drive.order(progress.resumed)
    drive.see()
    assert drive.shown == ("promoted", 100)


def test_paused_time_does_not_count_and_failures_do() -> None:
    drive = at_step(1)
    drive.see(10.0, report=PASS)
    drive.order(progress.paused)
    drive.see(1000.0, report=PASS)
    assert drive.shown == ("paused", 10)
    drive.order(progress.resumed)
    assert drive.see(1.0).step == 0
    drive.order(progress.paused)
    for _ in range(3):
        drive.see(report=FAIL)
    assert drive.shown == ("rolled_back", 0)


def test_blue_green_is_one_step() -> None:
    drive = at_step(1, config(strategy="blue_green"))
    assert drive.shown == ("progressing", 100)
    drive.see(10.0, report=PASS)
    assert drive.shown == ("promoted", 100)
    drive.order(progress.aborted)
    assert drive.shown == ("rolled_back", 0)


def test_orders_that_make_no_sense_are_refused() -> None:
    idle = State("r")
    rules = config()
    for order in (progress.paused, progress.resumed, progress.promoted, progress.aborted):
        with pytest.raises(Refused):
            order(idle, rules, 0.0, "x")
    running = at_step(1).state
    for order in (progress.begun, progress.resumed):
        with pytest.raises(Refused):
            order(running, rules, 0.0, "x")
    done = progress.promoted(running, rules, 0.0, "x")
    for order in (progress.begun, progress.paused, progress.promoted):
        with pytest.raises(Refused):
            order(done, rules, 0.0, "x")
    with pytest.raises(Refused, match="no longer kept"):
        progress.aborted(done, rules, 86400.0, "x")
    back = progress.aborted(done, rules, 86399.0, "x")
    again = progress.begun(back, rules, 0.0, "x")
    assert (again.phase, again.run) == (Phase.VERIFYING, done.run + 1)


def test_manual_begin() -> None:
    drive = Drive(config(begin="manual"))
    assert drive.see(1000.0).phase is Phase.IDLE
    drive.order(progress.begun)
    drive.see()
    assert drive.shown == ("progressing", 10)


def test_steps_that_were_made_fewer_on_the_way() -> None:
    drive = at_step(3)
    drive.rules = config(steps=(100,))
    drive.see(100.0, report=PASS)
    assert drive.shown == ("promoted", 100)


_FACTS = st.fixed_dictionaries(
    {
        "candidate_serves": st.booleans(),
        "stable_serves": st.booleans(),
        "smoke_passed": st.booleans(),
        "report": st.sampled_from([None, PASS, FAIL, OPEN]),
        "hopeless": st.sampled_from([None, None, None, "all failed"]),
    }
)
_ORDERS = (None, None, None, progress.begun, progress.paused, progress.resumed, progress.promoted, progress.aborted)


@given(
    st.sampled_from([config(), config(strategy="blue_green"), config(manual_gates=("start", 50, "promote"))]),
    st.lists(st.tuples(st.floats(0, 40), _FACTS, st.sampled_from(_ORDERS)), max_size=60),
)
def test_whatever_happens_shares_and_phases_belong_together(
    rules: RolloutConfig, events: list[tuple[float, dict[str, Any], Any]]
) -> None:
    drive = Drive(rules)
    for seconds, facts, order in events:
        before = drive.state
        if order is not None:
            try:
                drive.order(order)
            except Refused:
                assert drive.state is before
        former = drive.state
        state = drive.see(seconds, **facts)
        assert State.decoded(state.encoded()) == state
        assert state.number >= former.number
        if state != replace(former, served=state.served):
            assert state.number > former.number, "whoever reads the number knows of every change"
        if state.phase in {Phase.IDLE, Phase.VERIFYING, Phase.ROLLED_BACK}:
            assert state.percent == 0
        elif state.phase is Phase.PROMOTED:
            assert state.percent == 100
        elif state.is_rescue:
            assert state.percent == 100
        elif state.step >= 0:
            assert state.percent == rules.shares[state.step]
        if state.percent > former.percent and state.phase is Phase.PROGRESSING and not state.is_rescue:
            assert facts["candidate_serves"] or former.is_rescue or former.step >= 0
