"""The panel of alerts and recoveries: what people were told, and what was repaired without them, in the order of time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.control.admin.dashboard import words
from sidecar.control.admin.dashboard.html import Html, tag
from sidecar.control.admin.dashboard.marks import chip

if TYPE_CHECKING:
    from collections.abc import Mapping

SHOWN = 30
_KINDS = {"critical": "bad", "warning": "warn", "notice": "calm"}
_SAME = ("symptom", "action", "result")
_RESULTS = {"done": "good", "failed": "warn", "given_up": "bad"}


def events(picture: Mapping[str, Any]) -> Html:
    """The newest first."""
    alerts = picture["alerts"]
    found = happened(picture)
    firing = len(alerts["firing"])
    note = (
        chip(words.several(firing, "alert") + " firing", "bad")
        if firing
        else tag("span", "nothing fires", class_="soft")
    )
    return tag(
        "div",
        tag("div", tag("h2", "Alerts and recoveries"), tag("span", note, class_="push"), class_="title"),
        tag(
            "ol",
            [_recovery(each) if "symptom" in each else _alert(each) for each in found],
            class_="events",
            tabindex="0",
            aria_label="Alerts and recoveries",
        )
        if found
        else tag("p", "No alert so far, and nothing had to be repaired.", class_="soft"),
        class_="box",
    )


def happened(picture: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Changes of alerts, and recoveries of the agent (those have a `symptom`, and `times`), newest first."""
    changes = [*picture["alerts"]["history"], *(picture.get("agent") or {}).get("recoveries", [])]
    found: list[dict[str, Any]] = []
    for change in sorted(changes, key=when, reverse=True):
        # What is tried again every few seconds would push all else away.
        if found and "symptom" in change and all(found[-1].get(name) == change[name] for name in _SAME):
            found[-1]["times"] += 1
        else:
            found.append({**change, "times": 1})
    return found[:SHOWN]


def when(change: Mapping[str, Any]) -> float:
    """Wall seconds."""
    if "symptom" in change:
        return float(change["at"])
    return float(change["began"] if change["ended"] is None else change["ended"])


def _alert(change: Mapping[str, Any]) -> Html:
    kind = _KINDS[change["severity"]] if change["state"] == "firing" else "good"
    return tag(
        "li",
        tag("time", words.clock(when(change)), title="UTC"),
        chip(change["name"], kind),
        tag("code", change["state"]),
        tag("span", change["severity"], class_="soft id"),
        tag("p", change["summary"], tag("span", f" {change['rule']}", class_="soft")),
        data_key=f"{change['key']} {change['state']} {when(change)}",
    )


def _recovery(change: Mapping[str, Any]) -> Html:
    return tag(
        "li",
        tag("time", words.clock(change["at"]), title="UTC"),
        chip(change["action"].replace("_", " "), _RESULTS.get(change["result"], "calm")),
        tag("code", outcome(change)),
        tag("span", f"recovery: {change['symptom'].replace('_', ' ')}", class_="soft id"),
        tag(
            "p",
            change["cause"],
            tag("span", f" took {words.seconds(change['seconds'])}", class_="soft") if change["seconds"] else None,
        ),
        data_key=f"{change['at']} {change['symptom']} {change['action']}",
    )


def outcome(recovery: Mapping[str, Any]) -> str:
    """What came of it, and how often in a row."""
    result: str = recovery["result"].replace("_", " ")
    return result if recovery["times"] == 1 else f"{result} × {recovery['times']}"
