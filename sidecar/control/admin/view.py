"""Read models: the state of the process as plain data. The only place that shows state outside, so redaction has one home."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sidecar import __version__
from sidecar.config.redaction import redacted
from sidecar.control.explain import Question, explain
from sidecar.control.process import State

if TYPE_CHECKING:
    from sidecar.clusters.vitals import Vitals
    from sidecar.control.process import Process


def ready(process: Process) -> tuple[bool, list[tuple[str, bool, str]]]:
    """(ready?, checks): each check with its name, whether it holds, and a word on it."""
    checks = [("state", process.state is State.READY, process.state.value)]
    for name, listener in process.listeners.items():
        checks.append((f"listener {name}", not listener.edge.draining, process.addresses[name]))
    if process.agent is not None:
        checks.append(("agent", process.agent.is_serving, process.agent.state.value))
    for context in process.certificates.contexts:
        days = context.days_left()
        if days is not None:
            word = f"{days:.1f} days left" + (f"; not reloaded: {context.problem}" if context.problem else "")
            checks.append((f"certificate {context.files.certificate}", days > 0, word))
    generation = process.generation
    if generation is not None:
        problem = process.last_reload_problem
        # A rejected reload is worth telling, but the former configuration serves on.
        checks.append(
            ("configuration", True, f"generation {generation.number}" + (f"; rejected: {problem}" if problem else ""))
        )
    return all(holds for _, holds, _ in checks), checks


def config(process: Process) -> dict[str, Any]:
    """The effective configuration, secrets redacted, with its number and hash."""
    generation = process.generation
    if generation is None:
        return {}
    return {
        "generation": generation.number,
        "sha256": generation.source_hash,
        "loaded_at": process.loaded_at,
        "file": str(process.path),
        "warnings": list(process.warnings),
        "last_reload_problem": process.last_reload_problem,
        "config": redacted(generation.root),
    }


def clusters(process: Process) -> list[dict[str, Any]]:
    """Clusters with their endpoints."""
    generation = process.generation
    if generation is None:
        return []
    now = process.runtime.clock.monotonic()
    return [
        {
            "name": cluster.name,
            "endpoints": [
                {
                    "address": endpoint.address,
                    "ready": endpoint.is_ready,
                    "attempts_active": endpoint.in_flight,
                    **_vitals(endpoint.vitals, now),
                    "last_error": endpoint.last_error,
                    "retry_in_seconds": None
                    if endpoint.retry_at is None
                    else round(max(0.0, endpoint.retry_at - now), 3),
                }
                for endpoint in cluster.endpoints
            ],
            "unresolved": cluster.unresolved,
            "balancing": cluster.rules.balancing.rule,
            "attempts_active": cluster.load.in_flight,
            "attempts_limit": cluster.rules.max_in_flight,
            "pending": cluster.load.pending,
            "pending_limit": cluster.rules.max_pending,
            "panic": cluster.is_panicking,
        }
        for cluster in generation.parts
    ]


def _vitals(vitals: Vitals, now: float) -> dict[str, Any]:
    """What keeps an endpoint from getting RPCs; only what is configured."""
    found: dict[str, Any] = {}
    if vitals.health is not None:
        found["health"] = "unknown" if vitals.is_unknown else "healthy" if vitals.is_healthy else "unhealthy"
        found["health_cause"] = vitals.health.why
    if vitals.ejection is not None:
        until = vitals.ejection.until
        found["ejected"] = vitals.is_ejected
        found["ejected_for_seconds"] = None if until is None else round(max(0.0, until - now), 3)
        found["ejected_cause"] = vitals.ejection.why if until is not None else ""
        found["ejections"] = vitals.ejection.count
    if vitals.breaker is not None:
        at = vitals.breaker.probes_at
        found["breaker"] = vitals.breaker.state
        found["breaker_failures"] = vitals.breaker.failures
        found["breaker_probes_in_seconds"] = None if at is None else round(max(0.0, at - now), 3)
        found["breaker_tripped_by"] = vitals.tripped_by
    return found


def listeners(process: Process) -> list[dict[str, Any]]:
    """Listeners with their routes and what runs on them."""
    return [
        {
            "name": name,
            "direction": listener.edge.direction,
            "address": process.addresses[name],
            "connections": len(listener.connections),
            "accepted": listener.accepted,
            "refused": listener.refused,
            "handshakes_failed": listener.handshakes_failed,
            "draining": listener.edge.draining,
            "routes": [
                {
                    "name": plan.route or "(no route)",
                    "cluster": plan.cluster.name if plan.cluster is not None else None,
                    "policies": [policy.name for policy in plan.policies],
                    "active": plan.active,
                }
                for plan in listener.edge.routes.plans()
            ],
        }
        for name, listener in process.listeners.items()
    ]


def certificates(process: Process) -> list[dict[str, Any]]:
    """Certificates in use: file, names, serial, days left. Never a key."""
    return [context.describe() for context in process.certificates.contexts]


def question(query: Mapping[str, list[str]]) -> Question:
    """The call that `/explain?listener=…&method=…` asks about. Raises ValueError saying what is missing."""
    if "listener" not in query or "method" not in query:
        raise ValueError("give listener and method; also identity, authority, metadata=NAME=VALUE, claims=JSON")
    pairs = [each.partition("=") for each in query.get("metadata", [])]
    claims = json.loads(query["claims"][0]) if "claims" in query else None
    if claims is not None and not isinstance(claims, dict):
        raise ValueError("claims must be a JSON object")
    return Question(
        query["listener"][0],
        query["method"][0],
        query["identity"][0] if "identity" in query else None,
        tuple((name, value) for name, _, value in pairs),
        query.get("authority", ["localhost"])[0],
        claims,
    )


async def explained(process: Process, asked: Question) -> dict[str, Any]:
    """What would happen to a call, by what is in force now. Raises ValueError when there is no such listener."""
    if process.generation is None:
        raise ValueError("nothing is in force yet")
    return (await explain(process.generation, asked)).as_dict()


def agent(process: Process) -> dict[str, Any]:
    """The supervised agent: where it stands, and every attempt to repair it. Empty = none is supervised."""
    return process.agent.view() if process.agent is not None else {}


def alerts(process: Process) -> dict[str, Any]:
    """What fires, what has changed lately, the rules, the receivers without their secrets."""
    return process.alerts.view()


def drain(process: Process) -> dict[str, Any]:
    """How far a drain has come."""
    return {"state": process.state.value, "active_calls": process.active_calls}


def drill(process: Process) -> dict[str, Any]:
    """The drill that runs, and the last one."""
    return process.drills.view()


def version() -> dict[str, str]:
    import platform

    return {"sidecar": __version__, "python": platform.python_version(), "platform": platform.platform()}
