from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from sidecar.control.drills.figures import Figures, read
from sidecar.control.drills.verdict import Demands, Seen, is_well, judge

OK = ("OK", "agent", "")
INJECTED = ("Unavailable", "sidecar", "FAULT_INJECTED")
INF = float("inf")


def figures(rpcs: dict[tuple[str, str, str], int], p99: float = 0.005, **more: Any) -> Figures:
    total = sum(rpcs.values())
    buckets = Counter({bound: total if bound >= p99 else 0 for bound in (0.001, 0.005, 0.5, 2.5, INF)})
    return Figures(Counter(rpcs), buckets, **more)


WELL = figures({OK: 100})
PASSED = Seen(
    before=WELL,
    during=figures({OK: 60, INJECTED: 40}),
    after=WELL,
    injected=Figures(faults=40),
    hits=None,
    ended="its time is over",
    recovered_after=0.5,
)


def failed(demands: Demands, seen: Seen) -> set[str]:
    return {check.name for check in judge(demands, seen) if not check.holds}


def test_what_is_as_promised_passes() -> None:
    assert failed(Demands("errors"), PASSED) == set()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"during": figures({OK: 10, INJECTED: 5})}, "enough to judge"),
        ({"before": figures({})}, "enough to judge"),
        ({"injected": Figures()}, "faults were injected"),
        ({"ended": "the configuration was reloaded"}, "it ran its time"),
        ({"during": figures({OK: 50, INJECTED: 40, ("Unknown", "caller", ""): 10})}, "callers are served"),
        ({"during": figures({OK: 500, INJECTED: 40, ("Internal", "sidecar", "DEFECT"): 1})}, "refusals say why"),
        ({"during": figures({OK: 60, INJECTED: 40}, p99=2.5)}, "nobody waits long"),
        ({"injected": Figures(faults=40, defects=1)}, "no defect"),
        ({"recovered_after": None}, "recovered"),
    ],
)
def test_what_is_not_is_named(change: dict[str, Any], name: str) -> None:
    assert failed(Demands("errors"), replace(PASSED, **change)) == {name}


def test_an_agent_that_fails_more_than_before_fails_the_drill() -> None:
    during = figures({OK: 97, ("Internal", "agent", ""): 3})
    seen = replace(PASSED, during=during, hits=3)
    assert failed(Demands("partition"), seen) == {"the agent fails no more than before"}
    # It did so before: that is not the drill's doing.
    assert failed(Demands("partition"), replace(seen, before=during)) == set()


def test_behind_retries_injected_failures_count() -> None:
    assert failed(Demands("errors", is_callers=True), PASSED) == {"callers are served"}
    assert failed(Demands("errors", is_callers=True, min_success=50), PASSED) == set()


@pytest.mark.parametrize(
    ("drill", "reason"),
    [("store-loss", "STORE_UNAVAILABLE"), ("partition", "UPSTREAM_LOST"), ("agent-crash", "AGENT_NOT_READY")],
)
def test_only_what_the_drill_explains_may_be_said(drill: str, reason: str) -> None:
    seen = replace(PASSED, hits=1, injected=Figures(agent_starts=1))
    explained = figures({OK: 50, ("Unavailable", "sidecar", reason): 50})
    assert failed(Demands(drill), replace(seen, during=explained)) == set()
    other = figures({OK: 50, ("ResourceExhausted", "sidecar", "RATE_LIMITED"): 50})
    assert failed(Demands(drill), replace(seen, during=other)) == {"refusals say why"}
    # A limit that refused before as well is not of the drill's making.
    assert failed(Demands(drill), replace(seen, before=other, during=other)) == set()


def test_nobody_with_an_expired_certificate_is_served() -> None:
    refused = ("Unauthenticated", "sidecar", "IDENTITY_UNUSABLE")
    seen = replace(PASSED, during=figures({refused: 100, OK: 2}), injected=figures({refused: 100}))
    assert failed(Demands("cert-expiry"), seen) == set()
    leaking = replace(seen, during=figures({refused: 100, OK: 20}))
    assert failed(Demands("cert-expiry"), leaking) == {"nobody with an expired certificate is served"}


def test_all_is_well_when_callers_see_what_they_saw() -> None:
    poor = figures({OK: 90, INJECTED: 10})
    assert is_well(WELL, WELL)
    assert not is_well(WELL, poor)
    assert is_well(poor, poor)
    assert not is_well(WELL, figures({OK: 2}))


PAGE = """
# TYPE sidecar_rpcs_total counter
sidecar_rpcs_total{listener="in",direction="inbound",route="r",grpc_service="s",grpc_method="m",grpc_code="OK",origin="agent",reason=""} 7
sidecar_rpcs_total{listener="out",direction="outbound",route="r",grpc_service="s",grpc_method="m",grpc_code="OK",origin="agent",reason=""} 5
# TYPE sidecar_rpc_duration_seconds histogram
sidecar_rpc_duration_seconds_bucket{listener="in",direction="inbound",route="r",grpc_service="s",grpc_method="m",le="0.1"} 6
sidecar_rpc_duration_seconds_bucket{listener="in",direction="inbound",route="r",grpc_service="s",grpc_method="m",le="+Inf"} 7
# TYPE sidecar_faults_total counter
sidecar_faults_total{listener="in",route="r",kind="abort"} 3
"""


def test_figures_are_read_from_a_page_and_taken_apart() -> None:
    all_of_it, of_one = read(PAGE), read(PAGE, {"listener": "in"})
    assert (all_of_it.total, of_one.total, of_one.faults) == (12, 7, 3)
    assert (of_one.quantile(0.5), of_one.quantile(0.99)) == (0.1, INF)
    assert (of_one - of_one).total == 0
    assert (of_one - of_one).quantile(0.5) is None
    assert (of_one - of_one).success() is None
