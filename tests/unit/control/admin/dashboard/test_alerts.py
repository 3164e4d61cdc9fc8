"""The panel of alerts and recoveries."""

from __future__ import annotations

from typing import Any

from sidecar.control.admin.dashboard.alerts import SHOWN, events, happened


def alert(name: str, began: float, ended: float | None = None, **more: Any) -> dict[str, Any]:
    state = "firing" if ended is None else "resolved"
    return {
        "key": f"sidecar/orders-1/{name}",
        "name": name,
        "state": state,
        "severity": "critical",
        "summary": "the agent was given up",
        "rule": "agent_given_up above 0.0",
        "began": began,
        "ended": ended,
        **more,
    }


RECOVERY = {
    "symptom": "store_lost",
    "action": "reconnect",
    "result": "done",
    "cause": "unreachable",
    "seconds": 0.25,
    "at": 20.0,
}


def picture(*history: dict[str, Any], firing: int = 0, recoveries: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {
        "alerts": {"firing": list(history[:firing]), "history": list(history), "problems": {}},
        "agent": {"recoveries": list(recoveries)} if recoveries else {},
    }


def test_nothing_has_happened() -> None:
    assert "No alert so far, and nothing had to be repaired." in events(picture())


def test_alerts_and_recoveries_in_the_order_of_time() -> None:
    shown = picture(alert("slow", 30.0), alert("slow", 1.0, 10.0), firing=1, recoveries=(RECOVERY,))
    assert [each.get("symptom", each.get("state")) for each in happened(shown)] == ["firing", "store_lost", "resolved"]
    html = events(shown)
    assert "1 alert firing" in html
    assert html.index(">firing<") < html.index("recovery: store lost") < html.index(">resolved<")


def test_what_is_tried_again_and_again_is_one_line() -> None:
    recoveries = tuple({**RECOVERY, "at": float(at)} for at in range(10, 20))
    shown = picture(alert("slow", 30.0), recoveries=(*recoveries, {**RECOVERY, "at": 5.0, "result": "failed"}))
    assert [(each.get("result"), each["times"]) for each in happened(shown)] == [(None, 1), ("done", 10), ("failed", 1)]
    assert ">done × 10<" in events(shown)


def test_texts_of_others_are_no_markup() -> None:
    html = events(picture(alert("slow", 1.0, summary="<script>alert(1)</script>")))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_there_is_an_end_to_it() -> None:
    assert len(happened(picture(*(alert(f"a{i}", float(i)) for i in range(100))))) == SHOWN
