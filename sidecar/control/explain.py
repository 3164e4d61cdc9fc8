"""Why a call would be allowed or refused: the same plan and the same hooks, on a call that goes nowhere.

No second implementation that could drift: a `Call` without a connection to answer on passes the request hooks one by one, and each
verdict is noted. Hooks see `call.peek` and take nothing (no token, no budget, no count).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sidecar.http2.blocks import HeaderBlock
from sidecar.http2.connection import Connection
from sidecar.http2.hpack import encode_field
from sidecar.listeners.peer import Peer
from sidecar.policies.authz import Authz
from sidecar.proxy.call import Call, no_route
from sidecar.proxy.rejection import Reason, Rejection

if TYPE_CHECKING:
    from sidecar.control.generation import Generation
    from sidecar.proxy.edge import Edge


@dataclass(frozen=True, slots=True)
class Question:
    """A call to be judged."""

    listener: str
    method: str
    identity: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    authority: str = "localhost"
    claims: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What one policy says: `pass`, `refuse` or `answer`, and why."""

    policy: str
    verdict: str
    why: str = ""


@dataclass(slots=True)
class Explanation:
    """What would happen, and who decides."""

    allowed: bool = True
    listener: str = ""
    method: str = ""
    identity: str | None = None
    route: str = ""
    cluster: str = ""
    reason: str = ""
    message: str = ""
    depends_on_metadata: bool = False
    steps: list[Step] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def refuse(self, rejection: Rejection) -> None:
        self.allowed = False
        self.reason = rejection.reason.name
        self.message = rejection.message


async def explain(generation: Generation, question: Question, *, only: str | None = None) -> Explanation:
    """Judge `question` by `generation`; `only` = ask this policy alone. Raises ValueError when there is no such listener."""
    edge = generation.edges.get(question.listener)
    if edge is None:
        known = ", ".join(generation.edges)
        raise ValueError(f"there is no listener {question.listener}; there is {known}")
    found = Explanation(listener=question.listener, method=question.method, identity=question.identity)
    method = edge.routes.method(question.method.encode())
    if method is None:
        found.refuse(Reason.METHOD_UNKNOWN.reject("the path is not the name of a method, /package.Service/Method"))
        return found
    call = _call(edge, question)
    call.method, call.path = method, method.path
    call.plan = plan = method.plan or method.match(call.headers.index, edge.routes.unrouted)
    found.route = plan.route
    if plan.cluster is None:
        found.refuse(no_route(call, closed=edge.routes.is_closed))
        return found
    found.cluster = plan.cluster.name
    for position, hook in zip(plan.positions["on_request"], plan.on_request, strict=True):
        policy = plan.policies[position]
        if only is not None and policy.name != only:
            continue
        verdict = hook(call)
        if inspect.iscoroutine(verdict):
            verdict = await verdict
        note = (call.notes or {}).get(policy.name)
        if isinstance(policy, Authz):
            found.depends_on_metadata = policy.asks_metadata(call)
        if verdict is None:
            found.steps.append(Step(policy.name, "pass", _why(note)))
            continue
        if isinstance(verdict, Rejection):
            found.steps.append(Step(policy.name, "refuse", verdict.message))
            found.refuse(verdict)
        else:
            found.steps.append(Step(policy.name, "answer", "a recorded answer"))
        break
    return found


def _why(note: Any) -> str:
    rule = getattr(note, "rule", None)
    if rule is None:
        return ""
    return f"rule {rule}, decision {getattr(note, 'decision', '')}"


def _call(edge: Edge, question: Question) -> Call:
    connection = Connection(accept=lambda _: Call(peer), wake=_silent)
    peer = Peer(
        edge,
        identity=question.identity,
        address="explain",
        certificate=None,
        to_agent=b"",
        ends=float("inf"),
        refused=None,
    )
    call = Call(peer)
    call.attach(connection, 1)
    call.peek = True
    fields = [
        encode_field(b":method", b"POST"),
        encode_field(b":scheme", b"http"),
        encode_field(b":path", question.method.encode()),
        encode_field(b":authority", question.authority.encode()),
        encode_field(b"te", b"trailers"),
        encode_field(b"content-type", b"application/grpc"),
        *(encode_field(name.lower().encode(), value.encode()) for name, value in question.metadata),
    ]
    call.headers = HeaderBlock(None, tuple(fields))
    call.request_id = encode_field(b"x-request-id", b"explain")
    connection.now = edge.runtime.clock.monotonic()
    call.started = call.active = connection.now
    if question.claims is not None:
        call.note("claims", dict(question.claims))
    return call


def _silent() -> None:
    """Nothing that an explained call writes is ever sent."""
