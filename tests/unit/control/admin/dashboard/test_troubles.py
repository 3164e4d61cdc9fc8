"""What counts as wrong, and what does not."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from sidecar.control.admin.dashboard.troubles import troubles

ENDPOINT = {"address": "10.0.0.5:1", "state": "serving", "last_error": None}
ROUTE = {"name": "all", "success": 1.0, "rpcs_per_second": 100.0, "failed_per_second": 0.0}
WELL: dict[str, Any] = {
    "state": "ready",
    "totals": {"active": 3, "over_seconds": 15.0},
    "generation": {"number": 4, "last_reload_problem": None},
    "process": {"loop_lag_seconds": 0.001},
    "certificates": [{"file": "a.crt", "days_left": 60.0, "problem": None}],
    "listeners": [{"name": "inbound", "routes": [ROUTE]}],
    "rollouts": [],
    "clusters": [{"name": "local", "endpoints": [ENDPOINT, ENDPOINT], "unresolved": {}, "panic": False}],
}


def found(**changes: Any) -> list[tuple[str, str, str]]:
    return [(each["severity"], each["what"], each["why"]) for each in troubles({**deepcopy(WELL), **changes})]


def cluster(*endpoints: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return [{**WELL["clusters"][0], "endpoints": [{**ENDPOINT, **each} for each in endpoints], **more}]


def test_nothing() -> None:
    assert found() == []


def test_a_rejected_configuration() -> None:
    assert found(generation={"number": 4, "last_reload_problem": "a.yaml:3:1: nonsense"}) == [
        ("warning", "the new configuration was rejected; generation 4 stays", "a.yaml:3:1: nonsense")
    ]


def test_certificates() -> None:
    certificates = [
        {"file": "a", "days_left": 7.1, "problem": None},
        {"file": "b", "days_left": 2.04, "problem": None},
        {"file": "c", "days_left": -0.1, "problem": None},
        {"file": "d", "days_left": 60.0, "problem": "no key"},
    ]
    assert found(certificates=certificates) == [
        ("critical", "a certificate has expired", "c"),
        ("warning", "a certificate ends in 2.0 days", "b"),
        ("warning", "a certificate was not reloaded", "d: no key"),
    ]


def test_failing_routes() -> None:
    def route(**changes: Any) -> list[tuple[str, str, str]]:
        return found(listeners=[{"name": "inbound", "routes": [{**ROUTE, **changes}]}])

    assert route(success=0.96) == []
    assert route(success=None) == []
    assert route(success=0.0, rpcs_per_second=1.0) == [], "a few RPCs say nothing"
    assert route(success=0.9, failed_per_second=10.0) == [
        ("critical", "10 % of RPCs fail on inbound / all", "10.0 failures per second")
    ]


def test_endpoints() -> None:
    assert found(clusters=cluster({"state": "probing"}, {"state": "connecting"})) == []
    assert found(clusters=cluster({"state": "unreachable", "last_error": "connection refused"}, {})) == [
        ("warning", "local: 10.0.0.5:1 is unreachable", "10.0.0.5:1: connection refused")
    ]
    tripped = {"state": "circuit open", "breaker_tripped_by": {"method": "/a.B/C", "code": "UNAVAILABLE"}}
    assert found(clusters=cluster(tripped, {"state": "unhealthy", "health_cause": "NOT_SERVING"})) == [
        ("critical", "cluster local: no endpoint takes RPCs", "10.0.0.5:1: opened by /a.B/C UNAVAILABLE")
    ]
    assert found(clusters=cluster({}, panic=True, unresolved={"agents": "no such name"})) == [
        ("warning", "local: the name agents is not known", "no such name"),
        ("warning", "cluster local: so few endpoints are fit that health is ignored", ""),
    ]


def test_rollouts() -> None:
    rollout = {
        "cluster": "data",
        "phase": "progressing",
        "stable": "v1",
        "stable_is_down": False,
        "reason": "because",
        "waits_for": None,
        "store_problem": None,
    }

    def of(**changes: Any) -> list[tuple[str, str, str]]:
        return found(rollouts=[{**rollout, **changes}])

    assert of() == of(phase="paused") == of(phase="promoted") == []
    assert of(phase="rolled_back") == [("warning", "rollout of data went back to v1", "because")]
    assert of(phase="paused", waits_for="50.0") == [("notice", "rollout of data waits for a person", "because")]
    assert of(stable_is_down=True, store_problem="timeout") == [
        ("critical", "rollout of data: stable does not serve, the candidate takes everything", "because"),
        ("warning", "rollout of data does not advance: the store does not answer", "timeout"),
    ]


def test_a_late_loop_and_a_drain() -> None:
    assert found(process={"loop_lag_seconds": 0.3}, state="draining") == [
        ("warning", "the event loop is 0.30 s late", "the processor is busy, or something blocks"),
        ("notice", "draining", "3 RPCs still run"),
    ]
