"""What is wrong now, the worst first: the first thing that whoever is on call wants to know."""

from __future__ import annotations

from typing import Any

_FEW = 20
"""RPCs in the window below which a share says nothing."""
_BAD_SHARE = 0.05
_SOON_DAYS = 7.0
_LATE_SECONDS = 0.25

CRITICAL, WARNING, NOTICE = "critical", "warning", "notice"


def troubles(picture: dict[str, Any]) -> list[dict[str, str]]:
    """Of `picture`: severity, what, and why, each."""
    found = [
        *_process(picture),
        *_agent(picture.get("agent") or {}),
        *_alerts(picture.get("alerts") or {}),
        *_certificates(picture),
        *_traffic(picture),
        *_clusters(picture),
        *_rollouts(picture),
    ]
    return sorted(found, key=lambda each: (CRITICAL, WARNING, NOTICE).index(each["severity"]))


def _trouble(severity: str, what: str, why: str = "") -> dict[str, str]:
    return {"severity": severity, "what": what, "why": why}


def _process(picture: dict[str, Any]) -> list[dict[str, str]]:
    found = []
    if picture["state"] == "draining":
        found.append(_trouble(NOTICE, "draining", f"{picture['totals']['active']} RPCs still run"))
    problem = picture["generation"]["last_reload_problem"]
    if problem is not None:
        number = picture["generation"]["number"]
        found.append(_trouble(WARNING, f"the new configuration was rejected; generation {number} stays", problem))
    lag = picture["process"]["loop_lag_seconds"]
    if lag > _LATE_SECONDS:
        found.append(
            _trouble(WARNING, f"the event loop is {lag:.2f} s late", "the processor is busy, or something blocks")
        )
    return found


def _agent(agent: dict[str, Any]) -> list[dict[str, str]]:
    """Of the supervised one; empty = none is."""
    if not agent or agent["serving"]:
        return []
    severity = CRITICAL if agent["given_up"] else WARNING
    return [_trouble(severity, f"the agent is {agent['state']}", agent["cause"])]


def _alerts(alerts: dict[str, Any]) -> list[dict[str, str]]:
    """Receivers that cannot be reached: people may not know of what is wrong. What fires has a panel of its own."""
    return [
        _trouble(WARNING, f"alerts do not reach {name}", problem)
        for name, problem in alerts.get("problems", {}).items()
    ]


def _certificates(picture: dict[str, Any]) -> list[dict[str, str]]:
    found = []
    for each in picture["certificates"]:
        days = each["days_left"]
        if days <= 0:
            found.append(_trouble(CRITICAL, "a certificate has expired", each["file"]))
        elif days < _SOON_DAYS:
            found.append(_trouble(WARNING, f"a certificate ends in {days:.1f} days", each["file"]))
        if each["problem"]:
            found.append(_trouble(WARNING, "a certificate was not reloaded", f"{each['file']}: {each['problem']}"))
    return found


def _traffic(picture: dict[str, Any]) -> list[dict[str, str]]:
    found = []
    seconds = picture["totals"]["over_seconds"]
    for listener in picture["listeners"]:
        for route in listener["routes"]:
            success = route["success"]
            if success is None or route["rpcs_per_second"] * seconds < _FEW:
                continue
            if 1 - success > _BAD_SHARE:
                found.append(
                    _trouble(
                        CRITICAL,
                        f"{(1 - success) * 100:.0f} % of RPCs fail on {listener['name']} / {route['name']}",
                        f"{route['failed_per_second']:.1f} failures per second",
                    )
                )
    return found


def _clusters(picture: dict[str, Any]) -> list[dict[str, str]]:
    found = []
    for cluster in picture["clusters"]:
        name, endpoints = cluster["name"], cluster["endpoints"]
        bad = [each for each in endpoints if each["state"] not in {"serving", "probing", "connecting"}]
        for host, why in cluster["unresolved"].items():
            found.append(_trouble(WARNING, f"{name}: the name {host} is not known", why))
        if endpoints and len(bad) == len(endpoints):
            found.append(_trouble(CRITICAL, f"cluster {name}: no endpoint takes RPCs", _why(bad[0])))
            continue
        found.extend(_trouble(WARNING, f"{name}: {each['address']} is {each['state']}", _why(each)) for each in bad)
        if cluster["panic"]:
            found.append(_trouble(WARNING, f"cluster {name}: so few endpoints are fit that health is ignored"))
    return found


def _rollouts(picture: dict[str, Any]) -> list[dict[str, str]]:
    found = []
    for each in picture["rollouts"]:
        name = f"rollout of {each['cluster']}"
        if each["stable_is_down"]:
            found.append(
                _trouble(CRITICAL, f"{name}: stable does not serve, the candidate takes everything", each["reason"])
            )
        elif each["phase"] == "rolled_back":
            found.append(_trouble(WARNING, f"{name} went back to {each['stable']}", each["reason"]))
        elif each["phase"] == "paused" and each["waits_for"] is not None:
            found.append(_trouble(NOTICE, f"{name} waits for a person", each["reason"]))
        if each["store_problem"]:
            found.append(
                _trouble(WARNING, f"{name} does not advance: the store does not answer", each["store_problem"])
            )
    return found


def _why(endpoint: dict[str, Any]) -> str:
    tripped = endpoint.get("breaker_tripped_by")
    if endpoint["state"] == "circuit open" and tripped:
        return f"{endpoint['address']}: opened by {tripped.get('method', '')} {tripped.get('code', '')}".strip()
    cause = {
        "unreachable": endpoint["last_error"],
        "unhealthy": endpoint.get("health_cause"),
        "ejected": endpoint.get("ejected_cause"),
    }.get(endpoint["state"])
    return f"{endpoint['address']}: {cause}" if cause else endpoint["address"]
