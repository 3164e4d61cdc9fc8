"""The page, panel by panel; each panel is redrawn when what it shows has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.control.admin.dashboard import words
from sidecar.control.admin.dashboard.alerts import events
from sidecar.control.admin.dashboard.charts import charts, spark
from sidecar.control.admin.dashboard.html import Child, Html, tag
from sidecar.control.admin.dashboard.marks import CSRF, MARKS, chip
from sidecar.control.admin.dashboard.rollouts import rollouts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sidecar.control.admin.dashboard.history import History

_ENDPOINTS_SHOWN = 24
_ROUTES_SHOWN = 40
_STATES = {"serving": "good", "probing": "warn", "connecting": "warn", "circuit open": "bad", "unreachable": "bad"}
_SEVERITIES = {"critical": "bad", "warning": "warn", "notice": "calm"}
_BAD_SHARE = 0.95
_POOR_SHARE = 0.99


def panels(picture: Mapping[str, Any], history: History) -> dict[str, Html]:
    """Every panel by its id."""
    return {
        "head": _head(picture),
        "troubles": _troubles(picture),
        "charts": charts(history.points),
        "path": _path(picture, history),
        "rollouts": rollouts(picture),
        "alerts": events(picture),
        "refusals": _refusals(picture),
    }


def page(drawn: Mapping[str, str], title: str, *, may_leave: bool) -> str:
    """The whole document. `may_leave`: there is a session to end."""
    links = [
        tag("a", name, href=f"/{name}")
        for name in ("metrics", "clusters", "listeners", "alerts", "certs", "config", "status")
    ]
    logout = tag(
        "form",
        tag("input", type="hidden", name="csrf", value=CSRF),
        tag("button", "Log out", class_="quiet"),
        method="post",
        action="/logout",
    )
    body = tag(
        "body",
        tag("a", "Skip to what is wrong", href="#troubles", class_="skip"),
        tag("header", Html(drawn["head"]), id="head"),
        tag(
            "main",
            tag("section", Html(drawn["troubles"]), id="troubles", aria_live="polite", aria_label="What is wrong now"),
            tag("section", Html(drawn["charts"]), id="charts", aria_label="The last 15 minutes"),
            tag("section", Html(drawn["path"]), id="path", aria_label="The path of calls"),
            tag("section", Html(drawn["rollouts"]), id="rollouts", aria_label="Rollouts"),
            tag("section", Html(drawn["alerts"]), id="alerts", aria_label="Alerts and recoveries"),
            tag("section", Html(drawn["refusals"]), id="refusals", aria_label="Refusals"),
        ),
        tag(
            "footer",
            tag("nav", links, aria_label="Raw views"),
            tag("span", "connecting …", id="live", role="status", class_="waiting"),
            logout if may_leave else None,
        ),
        tag("p", id="said", role="status"),
        tag("noscript", tag("p", "Without JavaScript this page shows the moment it was loaded.")),
    )
    return document(
        title, body, tag("script", src="/dashboard/app.js", defer=True), tag("meta", name="csrf", content=CSRF)
    )


def login_page(problem: str = "") -> str:
    """The form that asks for the admin token."""
    return document(
        "Log in – sidecar",
        tag(
            "body",
            tag(
                "main",
                tag(
                    "form",
                    tag("h1", "Sidecar"),
                    tag("label", "Admin token", for_="token"),
                    tag(
                        "input",
                        type="password",
                        id="token",
                        name="token",
                        required=True,
                        autofocus=True,
                        autocomplete="current-password",
                        aria_describedby="problem",
                    ),
                    tag("p", problem, id="problem", class_="problem", role="alert"),
                    tag("button", "Log in"),
                    method="post",
                    action="/login",
                    class_="login",
                ),
            ),
        ),
    )


def document(title: str, body: Html, *head: Html) -> str:
    return "<!doctype html>" + tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", title),
            tag("link", rel="icon", href="/dashboard/icon.svg", type="image/svg+xml"),
            tag("link", rel="stylesheet", href="/dashboard/style.css"),
            list(head),
        ),
        body,
        lang="en",
    )


# ── head ──


def _head(picture: Mapping[str, Any]) -> Html:
    totals, generation = picture["totals"], picture["generation"]
    state = picture["state"]
    days = [each["days_left"] for each in picture["certificates"]]
    memory, lag = picture["process"]["memory_bytes"], picture["process"]["loop_lag_seconds"]
    facts: list[tuple[str, str]] = [
        (
            "configuration",
            f"generation {generation['number']}, {generation['sha256'][:8]}, {words.clock(generation['loaded_at'])} UTC",
        ),
        ("certificates", f"{min(days):.0f} days left" if days else "none"),
        ("memory", words.size(memory)),
        ("loop lag", words.seconds(lag)),
        ("version", picture["version"]),
    ]
    return tag(
        "div",
        tag(
            "div",
            tag("h1", picture["node"] or "sidecar"),
            chip(state, {"ready": "good", "draining": "warn"}.get(state, "calm")),
            class_="name",
        ),
        tag(
            "dl",
            _figure("RPC/s", words.rate(totals["rpcs_per_second"])),
            _figure("success", words.share(totals["success"]), _quality(totals["success"])),
            _figure("p50", words.seconds(totals["p50_seconds"])),
            _figure("p99", words.seconds(totals["p99_seconds"])),
            _figure(
                "refused/s", words.rate(totals["refused_per_second"]), "warn" if totals["refused_per_second"] else ""
            ),
            _figure("active", words.count(totals["active"])),
            _figure("connections", words.count(totals["connections"])),
            class_="figures",
        ),
        tag("ul", [tag("li", tag("span", name), " ", text) for name, text in facts], class_="facts"),
        class_="head",
    )


def _figure(name: str, value: str, kind: str = "") -> Html:
    return tag("div", tag("dt", name), tag("dd", value, class_=kind or None))


def _quality(success: float | None) -> str:
    if success is None:
        return ""
    return "bad" if success < _BAD_SHARE else "warn" if success < _POOR_SHARE else ""


# ── troubles ──


def _troubles(picture: Mapping[str, Any]) -> Html:
    found = picture["troubles"]
    if not found:
        return tag(
            "p",
            tag("i", MARKS["good"], aria_hidden="true"),
            " Nothing is wrong that this sidecar can see.",
            class_="well",
        )
    return tag(
        "ul",
        [
            tag(
                "li",
                tag("i", MARKS[_SEVERITIES[each["severity"]]], aria_hidden="true"),
                tag("b", each["what"]),
                tag("span", each["why"]) if each["why"] else None,
                tag("em", each["severity"], class_="hidden"),
                class_=_SEVERITIES[each["severity"]],
            )
            for each in found
        ],
        class_="troubles",
    )


# ── the path ──


def _path(picture: Mapping[str, Any], history: History) -> Html:
    clusters: dict[str, list[Mapping[str, Any]]] = {}
    for each in picture["clusters"]:
        clusters.setdefault(each["of"], []).append(each)
    lanes = []
    for listener in picture["listeners"]:
        used = dict.fromkeys(route["cluster"] for route in listener["routes"] if route["cluster"] is not None)
        lanes.append(
            tag(
                "article",
                _callers(listener),
                tag("div", class_="arrow", aria_hidden="true"),
                _listener(listener, history),
                tag("div", class_="arrow", aria_hidden="true"),
                tag("div", [_cluster(part) for name in used for part in clusters.get(name, ())], class_="clusters"),
                class_="lane",
                data_key=listener["name"],
                aria_label=f"listener {listener['name']}",
            )
        )
    return tag("div", lanes)


def _callers(listener: Mapping[str, Any]) -> Html:
    rows: list[Child] = [
        tag(
            "li",
            tag("span", words.short_identity(each["identity"]), class_="id", title=each["identity"]),
            tag("span", f"{words.several(each['connections'], 'connection')}, {each['active']} active", class_="soft"),
        )
        for each in listener["callers"]
    ]
    if listener["callers_more"]:
        rows.append(tag("li", f"and {listener['callers_more']} more", class_="soft"))
    limits: list[Child] = [
        tag("li", tag("span", each["name"], class_="id"), _hits(each), class_="limit") for each in listener["limits"]
    ]
    return tag(
        "div",
        tag("h3", "callers"),
        tag("ul", rows) if rows else tag("p", "nobody is connected", class_="soft"),
        [tag("h3", "limits hit"), tag("ul", limits)] if limits else None,
        class_="box callers",
    )


def _hits(limit: Mapping[str, Any]) -> Html:
    now = limit["per_second"]
    text = f"{words.rate(now)}/s" if now else f"{words.count(limit['total'])} in all"
    return tag("span", text, class_="warn" if now else "soft")


def _listener(listener: Mapping[str, Any], history: History) -> Html:
    routes = listener["routes"]
    facts = words.several(listener["connections"], "connection")
    if listener["handshakes_failed"]:
        facts += f", {words.count(listener['handshakes_failed'])} handshakes failed"
    if listener["refused"]:
        facts += f", {words.count(listener['refused'])} refused"
    return tag(
        "div",
        tag(
            "div",
            tag("h2", listener["name"]),
            tag("span", listener["direction"], class_="tag") if listener["direction"] != listener["name"] else None,
            tag("code", listener["address"]),
            chip("draining", "warn") if listener["draining"] else None,
            tag("span", facts, class_="soft push"),
            class_="title",
        ),
        _table(
            f"routes of {listener['name']}",
            ["route", "", "RPC/s", "success", "p50", "p99", "refused/s", "active", "cluster"],
            [_route(listener["name"], each, history) for each in routes[:_ROUTES_SHOWN]],
        ),
        tag("p", f"and {len(routes) - _ROUTES_SHOWN} more routes", class_="soft")
        if len(routes) > _ROUTES_SHOWN
        else None,
        class_="box listener",
    )


def _route(listener: str, route: Mapping[str, Any], history: History) -> Html:
    name = "" if route["cluster"] is None else route["name"]
    policies = ", ".join(route["policies"])
    return tag(
        "tr",
        tag("th", route["name"], scope="row", title=f"policies: {policies}"),
        tag("td", spark(history.sparks.get((listener, name), ())), class_="sparkcell"),
        tag("td", words.rate(route["rpcs_per_second"])),
        tag("td", words.share(route["success"]), class_=_quality(route["success"]) or None),
        tag("td", words.seconds(route["p50_seconds"]), class_="wide"),
        tag("td", words.seconds(route["p99_seconds"])),
        tag(
            "td",
            words.rate(route["refused_per_second"]),
            class_="warn" if route["refused_per_second"] else "zero",
        ),
        tag("td", words.count(route["active"]), class_="wide" if route["active"] else "wide zero"),
        tag("td", route["cluster"] or "none", class_="text"),
        data_key=route["name"],
    )


def _cluster(cluster: Mapping[str, Any]) -> Html:
    endpoints = sorted(cluster["endpoints"], key=lambda each: (each["state"] == "serving", each["address"]))
    limit = cluster["attempts_limit"]
    facts = cluster["balancing"].replace("_", " ")
    facts += f" · {words.count(cluster['attempts_active'])}{f' of {words.count(limit)}' if limit else ''} active"
    if cluster["pending"]:
        facts += f" · {words.count(cluster['pending'])} wait"
    more = len(endpoints) - _ENDPOINTS_SHOWN
    return tag(
        "div",
        tag(
            "div",
            tag("h2", cluster["of"]),
            tag("span", cluster["version"], class_="tag") if cluster["version"] is not None else None,
            chip("panic", "bad") if cluster["panic"] else None,
            tag("span", facts, class_="soft push"),
            class_="title",
        ),
        _table(
            f"endpoints of {cluster['name']}",
            ["endpoint", "RPC/s", "success", "active", "state"],
            [_endpoint(each) for each in endpoints[:_ENDPOINTS_SHOWN]],
        )
        if endpoints
        else tag("p", "no endpoint is known", class_="bad"),
        tag("p", f"and {more} more", class_="soft") if more > 0 else None,
        class_="box cluster",
        data_key=cluster["name"],
    )


def _endpoint(endpoint: Mapping[str, Any]) -> Html:
    state = endpoint["state"]
    notes = [
        endpoint["last_error"] if state == "unreachable" else None,
        endpoint.get("health_cause") if state == "unhealthy" else None,
        endpoint.get("ejected_cause") if state == "ejected" else None,
        _until("again in", endpoint.get("breaker_probes_in_seconds")) if state == "circuit open" else None,
        _until("back in", endpoint.get("ejected_for_seconds")) if state == "ejected" else None,
    ]
    return tag(
        "tr",
        tag("th", tag("code", endpoint["address"]), scope="row"),
        tag("td", words.rate(endpoint["rpcs_per_second"])),
        tag("td", words.share(endpoint["success"]), class_=_quality(endpoint["success"]) or None),
        tag("td", words.count(endpoint["attempts_active"]), class_=None if endpoint["attempts_active"] else "zero"),
        tag(
            "td",
            chip(state, _STATES.get(state, "bad")),
            tag("small", "; ".join(filter(None, notes))) if any(notes) else None,
            class_="text",
        ),
        data_key=endpoint["address"],
    )


def _until(what: str, seconds: float | None) -> str | None:
    return None if seconds is None else f"{what} {words.age(seconds)}"


def _table(name: str, heads: list[str], rows: list[Html]) -> Html:
    narrow = {"p50", "active"} if "p50" in heads else set()
    text = {"cluster", "state"}
    return tag(
        "div",
        tag(
            "table",
            tag(
                "thead",
                tag(
                    "tr",
                    [
                        tag(
                            "th" if head else "td",
                            head,
                            scope="col" if head else None,
                            class_="wide"
                            if head in narrow
                            else "text"
                            if head in text
                            else None
                            if head
                            else "sparkcell",
                        )
                        for head in heads
                    ],
                ),
            ),
            tag("tbody", list(rows)),
            aria_label=name,
        ),
        class_="scroll",
    )


# ── what happened ──


def _refusals(picture: Mapping[str, Any]) -> Html:
    found = picture["refusals"]
    total = picture["totals"]["refused"]
    return _events(
        "Refused by this sidecar",
        f"{words.count(total)} since the start" if total else "",
        found,
        "No RPC was refused yet.",
        _refusal,
    )


def _refusal(each: Mapping[str, Any]) -> Html:
    return tag(
        "li",
        tag("time", words.clock(each["at"]), title="UTC"),
        tag("b", each["reason"], f" × {each['times']}" if each["times"] > 1 else ""),
        tag("code", each["method"] or "–"),
        tag("span", words.short_identity(each["identity"]) or each["address"], class_="soft id", title=each["address"]),
        tag("p", each["message"], tag("span", f" {each['request_id']}", class_="soft")),
        data_key=f"{each['route']} {each['reason']} {each['method']} {each['identity']}",
    )


def _events(
    title: str, note: str, found: list[Mapping[str, Any]], empty: str, drawn: Callable[[Mapping[str, Any]], Html]
) -> Html:
    return tag(
        "div",
        tag("div", tag("h2", title), tag("span", note, class_="soft push"), class_="title"),
        tag("ol", [drawn(each) for each in found], class_="events", tabindex="0", aria_label=title)
        if found
        else tag("p", empty, class_="soft"),
        class_="box",
    )
