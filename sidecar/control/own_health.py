"""The sidecar's own answer to `grpc.health.v1.Health` for the service `sidecar`, on every listener; all others are the agent's.

It stands in plans of its own, for these two methods alone: a twin of each route that would take them, with that route's policies.
No other RPC meets it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.clock import sleep
from sidecar.config.model import Model
from sidecar.grpc_wire.messages import frame
from sidecar.http2.hpack import encode_field
from sidecar.proxy.call import draining, no_route
from sidecar.proxy.plan import Plan
from sidecar.proxy.policy import Answer, Policy
from sidecar.proxy.routing import Match
from sidecar.proxy.selectors import compile_pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.http2.connection import Connection
    from sidecar.proxy.call import Call
    from sidecar.proxy.plan import Endpoint
    from sidecar.proxy.policy import Verdict
    from sidecar.proxy.rejection import Rejection
    from sidecar.runtime import Runtime

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
METHODS = (CHECK, WATCH)
_ASKED = frame(b"\x0a\x07sidecar")
"""HealthCheckRequest(service="sidecar")."""
_SERVING, _NOT_SERVING = frame(b"\x08\x01"), frame(b"\x08\x02")
_HEADERS = [encode_field(b":status", b"200"), encode_field(b"content-type", b"application/grpc")]
_OK = [encode_field(b"grpc-status", b"0")]
_LOOK = 0.2


class NoConfig(Model):
    """Nothing to configure."""


class OwnHealth(Policy[NoConfig]):
    """Answers what asks for us; the agent hears nothing of it."""

    name = "own_health"
    config_model = NoConfig
    before_start = True

    def __init__(self, config: NoConfig, runtime: Runtime) -> None:
        self._clock = runtime.clock
        self._readiness = runtime.readiness

    def on_request_message(self, call: Call, message: bytes) -> Verdict:
        if message != _ASKED or call.responded:
            return None
        if call.path == WATCH:
            return self._watch(call)
        return Answer(_HEADERS, self._status(), _OK)

    def _status(self) -> bytes:
        return _SERVING if self._readiness.holds() else _NOT_SERVING

    async def _watch(self, call: Call) -> Rejection:
        """Every change, until the caller goes, or we do."""
        call.responded = True
        call.send_headers(b"".join([field[2] for field in _HEADERS]) + call.request_id[2])
        told = b""
        while True:
            status = self._status()
            if status != told and call.pending is None:
                told = status
                call.send_data(status, False)
            if call.edge.draining:
                return draining()
            await sleep(self._clock, _LOOK)


class Nowhere:
    """Where health goes on a listener that has no route for it: what asks for us is answered, all else has no route."""

    name = ""

    def __init__(self, *, closed: bool) -> None:
        self._closed = closed

    def pick(self, call: Call, avoid: Sequence[Endpoint] = ()) -> Rejection:
        return no_route(call, closed=self._closed)

    def connection(self) -> Connection | None:
        return None


def twins(routes: Sequence[tuple[Match, Plan]], unrouted: Plan) -> list[tuple[Match, Plan]]:
    """Routes that come before `routes` and take health alone, each as the route would that it stands for."""
    found: list[tuple[Match, Plan]] = []
    for match, plan in routes:
        patterns = [compile_pattern(each) for each in match.methods]
        methods = tuple(each for each in METHODS if any(matches(each) for matches in patterns))
        if methods and plan.cluster is not None:
            found.append((Match(methods, match.authority, match.metadata), _twin(plan, plan.cluster)))
    closed = not any(compile_pattern(each)("/\0/") for match, _ in routes for each in match.methods)
    found.append((Match(METHODS), _twin(unrouted, Nowhere(closed=closed))))
    return found


def _twin(plan: Plan, cluster: Any) -> Plan:
    return Plan(
        listener=plan.listener,
        route=plan.route,
        # First among those that look at messages: nobody has to understand, mask or record this one.
        policies=[OwnHealth(NoConfig(), plan.runtime), *plan.policies],
        cluster=cluster,
        runtime=plan.runtime,
        max_message=plan.max_message,
        idempotent=plan.idempotent,
    )
