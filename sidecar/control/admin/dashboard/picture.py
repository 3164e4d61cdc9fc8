"""The whole sidecar at one moment, as plain data: what the page draws, `/status` answers and `sidecar status` prints."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

from sidecar import __version__
from sidecar.control.admin import view
from sidecar.control.admin.dashboard.troubles import troubles

if TYPE_CHECKING:
    from sidecar.control.admin.dashboard.history import History
    from sidecar.control.process import Process
    from sidecar.listeners.listener import Listener

_CONNECTIONS_READ = 2000
"""Connections of a listener that are looked at for who calls; more would hold up the loop."""
_CALLERS_SHOWN = 6
_REFUSALS_SHOWN = 30
_ALERTS_SHOWN = 30


def picture(process: Process, history: History) -> dict[str, Any]:
    """Everything at a glance, secrets left out. Call it on the data loop."""
    now, wall = process.runtime.clock.monotonic(), process.runtime.clock.wall()
    generation = process.generation
    found: dict[str, Any] = {
        "node": generation.root.node.name if generation is not None else "",
        "version": __version__,
        "state": process.state.value,
        "at": wall,
        "generation": {
            "number": generation.number if generation is not None else 0,
            "sha256": generation.source_hash if generation is not None else "",
            "loaded_at": process.loaded_at,
            "last_reload_problem": process.last_reload_problem,
            "warnings": list(process.warnings),
        },
        "totals": {
            **history.whole().as_dict(),
            "active": process.active_calls,
            "connections": sum(len(each.connections) for each in process.listeners.values()),
            "refused": process.runtime.refusals.total,
            "over_seconds": round(history.seconds, 1),
        },
        "process": {
            "cpu_cores": round(history.points[-1].cpu, 4) if history.points else None,
            "memory_bytes": history.points[-1].memory if history.points else None,
            "loop_lag_seconds": round(process.runtime.lag.seconds, 4),
            "tasks": len(process.runtime.tasks),
        },
        "listeners": _listeners(process, history),
        "clusters": _clusters(process, history),
        "rollouts": process.rollouts.all(),
        "agent": view.agent(process),
        "alerts": _alerts(process),
        "certificates": [
            {"file": str(each.files.certificate), "days_left": days, "problem": each.problem}
            for each in process.certificates.contexts
            if (days := each.days_left()) is not None
        ],
        "refusals": [
            {**each._asdict(), "at": round(wall - now + each.at, 3), "times": times}
            for each, times in process.runtime.refusals.newest(_REFUSALS_SHOWN)
        ],
    }
    found["troubles"] = troubles(found)
    return found


def _alerts(process: Process) -> dict[str, Any]:
    """What fires, and the newest of what has changed; the rules and receivers have a page of their own."""
    found = view.alerts(process)
    return {
        "firing": found["firing"],
        "history": found["history"][:_ALERTS_SHOWN],
        "problems": {each["name"]: each["problem"] for each in found["receivers"] if each["problem"] is not None},
    }


def _listeners(process: Process, history: History) -> list[dict[str, Any]]:
    shown = view.listeners(process)
    for each in shown:
        name = each["name"]
        each.update(history.listener(name).as_dict())
        each.update(_callers(process.listeners[name]))
        each["limits"] = [
            {"name": limit, "per_second": round(rate, 3), "total": total} for limit, rate, total in history.limits(name)
        ]
        for route in each["routes"]:
            route_name = "" if route["name"] == "(no route)" else route["name"]
            route.update(history.route(name, route_name).as_dict())
        # Calls without a route are worth a line only where there are some.
        each["routes"] = [
            route
            for route in each["routes"]
            if route["cluster"] is not None or route["active"] or route["rpcs_per_second"]
        ]
    return shown


def _callers(listener: Listener) -> dict[str, Any]:
    """Who is connected: identities, most connections first, with what they run."""
    connections: Counter[str] = Counter()
    active: Counter[str] = Counter()
    for inlet in islice(listener.connections, _CONNECTIONS_READ):
        if inlet.peer is not None:
            who = inlet.peer.identity or "without an identity"
            connections[who] += 1
            active[who] += inlet.active_calls
    return {
        "callers": [
            {"identity": who, "connections": count, "active": active[who]}
            for who, count in connections.most_common(_CALLERS_SHOWN)
        ],
        "callers_more": max(0, len(connections) - _CALLERS_SHOWN),
    }


def _clusters(process: Process, history: History) -> list[dict[str, Any]]:
    shown = view.clusters(process)
    for cluster in shown:
        # Each version is shown as a cluster of its own; names have no slash.
        whole, _, version = cluster["name"].partition("/")
        cluster["of"], cluster["version"] = whole, version or None
        cluster.update(history.cluster(cluster["name"]).as_dict())
        for endpoint in cluster["endpoints"]:
            endpoint.update(history.endpoint(cluster["name"], endpoint["address"]).as_dict())
            endpoint["state"] = _state(endpoint)
    return shown


def _state(endpoint: dict[str, Any]) -> str:
    """One word on an endpoint, the worst first."""
    if not endpoint["ready"]:
        return "connecting" if endpoint["last_error"] is None else "unreachable"
    if endpoint.get("breaker") == "open":
        return "circuit open"
    if endpoint.get("health") == "unhealthy":
        return "unhealthy"
    if endpoint.get("ejected"):
        return "ejected"
    if endpoint.get("breaker") == "half-open":
        return "probing"
    return "serving"
