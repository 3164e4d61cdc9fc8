"""How the picture is printed."""

from __future__ import annotations

from typing import Any

import click

from sidecar.cli.status import lines, table

FIGURES = {
    "rpcs_per_second": 12.0,
    "failed_per_second": 0.0,
    "refused_per_second": 0.0,
    "success": 0.5,
    "p50_seconds": 0.0012,
    "p99_seconds": 0.25,
}
PICTURE: dict[str, Any] = {
    "node": "orders-1",
    "state": "ready",
    "version": "1.2.3",
    "generation": {"number": 7},
    "totals": {**FIGURES, "active": 3, "connections": 1200},
    "troubles": [{"severity": "critical", "what": "cluster a: no endpoint takes RPCs", "why": "10.0.0.5:1: refused"}],
    "listeners": [
        {
            "name": "inbound",
            "address": "0.0.0.0:8443",
            "connections": 1,
            "routes": [{"name": "execute", "cluster": "local", "active": 3, **FIGURES}],
            "limits": [{"name": "per-caller", "per_second": 0.0, "total": 12}],
        }
    ],
    "clusters": [
        {
            "name": "local",
            "balancing": "round_robin",
            "attempts_active": 3,
            "pending": 2,
            "endpoints": [
                {
                    "address": "10.0.0.5:1",
                    "state": "unreachable",
                    "last_error": "refused",
                    "attempts_active": 0,
                    **FIGURES,
                }
            ],
        }
    ],
    "rollouts": [],
    "alerts": {"firing": [], "history": []},
    "refusals": [{"at": 60.0, "reason": "NO_ROUTE", "times": 2, "message": "x" * 500}],
}


def test_the_whole_picture() -> None:
    assert [click.unstyle(each) for each in lines(PICTURE, 60)] == [
        "orders-1  ready  generation 7  1.2.3",
        "12 RPC/s  success 50.0 %  p50 1.2 ms  p99 250 ms  refused 0/s  active 3  connections 1,200",
        "",
        "✕ cluster a: no endpoint takes RPCs  10.0.0.5:1: refused",
        "",
        "inbound 0.0.0.0:8443  1 connection",
        "  route    RPC/s  success     p50     p99  refused/s  active  cluster",
        "  execute     12   50.0 %  1.2 ms  250 ms          0       3  local",
        "  limit per-caller: 0/s, 12 in all",
        "",
        "local round_robin, 3 active, 2 wait",
        "  endpoint    RPC/s  success  active  state",
        "  10.0.0.5:1     12   50.0 %       0  unreachable: refused",
        "",
        "refused lately",
        "  00:01:00 NO_ROUTE × 2  " + "x" * 35,
    ]


def test_all_is_well() -> None:
    text = [click.unstyle(each) for each in lines({**PICTURE, "troubles": []}, 60)]
    assert "● nothing is wrong that this sidecar can see" in text


def test_alerts_and_recoveries() -> None:
    fires = {
        "name": "slow",
        "severity": "critical",
        "state": "firing",
        "summary": "too slow",
        "began": 60.0,
        "ended": None,
    }
    over = {"name": "cpu", "severity": "warning", "state": "resolved", "summary": "over", "began": 1.0, "ended": 90.0}
    repaired = {"symptom": "crash", "action": "restart", "result": "given_up", "cause": "exit code 1", "at": 75.0}
    picture = {
        **PICTURE,
        "troubles": [],
        "alerts": {"firing": [fires], "history": [over, fires]},
        "agent": {"recoveries": [repaired]},
    }
    text = [click.unstyle(each) for each in lines(picture, 60)]
    assert "! alert slow fires: too slow" in text
    assert "● nothing is wrong that this sidecar can see" not in text
    begin = text.index("alerts and recoveries")
    assert text[begin + 1 : begin + 4] == [
        "  00:01:30 cpu resolved  over",
        "  00:01:15 crash: restart given up  exit code 1",
        "  00:01:00 slow firing  too slow",
    ]


def test_colours_take_no_room() -> None:
    rows = [["a", "b"], [click.style("x", fg="red"), "1234"]]
    assert [click.unstyle(each) for each in table(rows, left={0})] == ["  a     b", "  x  1234"]
