"""The panel of rollouts: where each stands, how both versions fare, and what a person may do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from sidecar.control.admin.dashboard import words
from sidecar.control.admin.dashboard.html import Child, Html, tag
from sidecar.control.admin.dashboard.marks import CSRF, chip

if TYPE_CHECKING:
    from collections.abc import Mapping

_KINDS = {"promoted": "good", "rolled_back": "bad", "paused": "warn", "idle": "calm"}
_ORDERS = {
    "idle": ("start",),
    "rolled_back": ("start",),
    "verifying": ("pause", "promote", "abort"),
    "progressing": ("pause", "promote", "abort"),
    "paused": ("resume", "promote", "abort"),
    "promoted": ("abort",),
}
_HISTORY = 4


def rollouts(picture: Mapping[str, Any]) -> Html:
    """All of them; nothing where nothing is rolled out."""
    found = picture["rollouts"]
    if not found:
        return Html("")
    return tag("div", [_rollout(each, picture["at"]) for each in found], class_="rollouts")


def _rollout(rollout: Mapping[str, Any], now: float) -> Html:
    phase = rollout["phase"]
    return tag(
        "article",
        tag(
            "div",
            tag("h2", f"Rollout of {rollout['cluster']}"),
            chip(phase.replace("_", " "), _KINDS.get(phase, "good")),
            tag(
                "span",
                f"{rollout['stable']} → {rollout['candidate']}, {rollout['strategy'].replace('_', ' ')}",
                class_="soft",
            ),
            tag("span", f"for {words.age(now - rollout['since'])}" if rollout["since"] else "", class_="soft push"),
            class_="title",
        ),
        tag(
            "div",
            _steps(rollout),
            tag("p", _standing(rollout), class_="soft"),
            tag("p", rollout["reason"]),
            tag("div", [_order(rollout["cluster"], each) for each in _allowed(rollout, now)], class_="actions"),
        ),
        tag("div", _versions(rollout), _history(rollout)),
        class_="box rollout",
        data_key=rollout["cluster"],
        aria_label=f"rollout of {rollout['cluster']}",
    )


def _steps(rollout: Mapping[str, Any]) -> Html:
    """The way to 100 %: what is done, where it stands."""
    now = rollout["step"]
    rows: list[Child] = []
    for number, percent in enumerate(rollout["steps"], 1):
        is_done = number < now or rollout["phase"] == "promoted"
        is_now = number == now and not is_done
        rows.append(
            tag(
                "li",
                f"{percent:g} %",
                class_="done" if is_done else "now" if is_now else None,
                aria_current="step" if is_now else None,
            )
        )
    return tag("ol", rows, class_="steps", aria_label="steps")


def _standing(rollout: Mapping[str, Any]) -> str:
    parts = [f"{rollout['candidate']} gets {rollout['percent']:g} %, measured {rollout['measured_percent']:.1f} %"]
    if rollout["step_lasts_seconds"]:
        lasts = words.age(rollout["step_lasts_seconds"])
        parts.append(f"{words.age(rollout['step_served_seconds'])} of {lasts} served")
    if rollout["failed_checks"]:
        parts.append(f"{rollout['failed_checks']} of {rollout['max_failed_checks']} failed checks")
    if not rollout["leads"]:
        parts.append("another sidecar leads")
    return "; ".join(parts)


def _allowed(rollout: Mapping[str, Any], now: float) -> tuple[str, ...]:
    if rollout["phase"] == "promoted" and rollout["kept_until"] is not None and now >= rollout["kept_until"]:
        return ()
    return _ORDERS.get(rollout["phase"], ())


def _order(cluster: str, order: str) -> Html:
    """A button that posts; the script asks first where there is no way back."""
    questions = {
        "promote": f"Send all new RPCs of {cluster} to the candidate now?",
        "abort": f"Send all new RPCs of {cluster} back to the stable version now?",
    }
    return tag(
        "form",
        tag("input", type="hidden", name="csrf", value=CSRF),
        tag("button", order.capitalize(), class_={"abort": "danger", "resume": "main", "start": "main"}.get(order)),
        method="post",
        action=f"/rollout/{order}?{urlencode({'cluster': cluster, 'by': 'dashboard'})}",
        data_change=order,
        data_confirm=questions.get(order),
        data_key=order,
    )


def _versions(rollout: Mapping[str, Any]) -> Html:
    heads = ("version", "share", "RPCs", "success", "p99", "running", "state")
    return tag(
        "div",
        tag(
            "table",
            tag(
                "thead",
                tag("tr", [tag("th", head, scope="col", class_="text" if head == "state" else None) for head in heads]),
            ),
            tag("tbody", [_version(each) for each in rollout["versions"]]),
            aria_label=f"versions of {rollout['cluster']}",
        ),
        class_="scroll",
    )


def _version(version: Mapping[str, Any]) -> Html:
    figures = version["figures"]
    success = figures["success_rate"]
    return tag(
        "tr",
        tag("th", version["name"], scope="row", title=version["role"]),
        tag("td", f"{version['measured_percent']:.1f} %"),
        tag("td", words.count(figures["rpcs"])),
        tag("td", words.share(None if success is None else success / 100)),
        tag("td", words.seconds(figures["latency_p99"])),
        tag("td", words.count(version["in_flight"])),
        tag(
            "td",
            chip("serving", "good") if version["serving"] else chip("not serving", "bad"),
            tag("small", version["problem"]) if version["problem"] else None,
            class_="text",
        ),
        data_key=version["name"],
    )


def _history(rollout: Mapping[str, Any]) -> Html:
    return tag(
        "ol",
        [
            tag(
                "li",
                tag("time", words.clock(each["at"]), title="UTC"),
                tag("b", f"{each['percent']:g} %"),
                tag("span", each["reason"]),
                tag("span", each["by"], class_="soft"),
            )
            for each in reversed(rollout["history"][-_HISTORY:])
        ],
        class_="events history",
        aria_label="what happened to it",
    )
