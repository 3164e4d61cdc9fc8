"""A plan: the policies of one route, compiled into tuples of bound hooks. Immutable; a call keeps the plan it started with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from sidecar.proxy.policy import Policy, defines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.http2.connection import Connection
    from sidecar.http2.hpack import Field
    from sidecar.proxy.attempt import Attempt
    from sidecar.proxy.call import Call
    from sidecar.proxy.policy import Outcome, Verdict
    from sidecar.proxy.rejection import Rejection
    from sidecar.runtime import Runtime


_SMALL_REQUEST = 16 * 1024
"""Bytes of a request that are kept on every route, so that what an agent refuses unseen (GOAWAY) can go elsewhere."""


class Endpoint(Protocol):
    """One address, as the data path sees it."""

    @property
    def attempt_type(self) -> type[Attempt]:
        """What is made for each try here; a plain `Attempt` unless somebody wants to know more of it."""

    @property
    def address(self) -> str: ...

    def connection(self) -> Connection | None:
        """A connection that takes a stream now; None = there is none yet, `enqueue` instead."""

    def enqueue(self, attempt: Attempt) -> Rejection | None:
        """Launch `attempt` when a connection is ready, or fail it; a Rejection = not even that."""

    def started(self, attempt: Attempt) -> None:
        """`attempt` has been sent here."""

    def finished(self, attempt: Attempt, outcome: Outcome) -> None:
        """`attempt`, which had started, has ended."""


class Cluster(Protocol):
    """Where a route leads, as the data path sees it."""

    @property
    def name(self) -> str: ...

    def pick(self, call: Call, avoid: Sequence[Endpoint] = ()) -> Endpoint | Rejection:
        """An endpoint for the next attempt of `call`, another than those to `avoid` if there is one; never waits."""

    def connection(self) -> Connection | None:
        """A connection that takes a stream now, for what is no call (reflection)."""


def _each_start(
    hooks: tuple[Callable[[Call, Attempt, float], None], ...],
) -> Callable[[Call, Attempt, float], None] | None:
    """One function for all of them; None = there is none."""
    if len(hooks) < 2:
        return hooks[0] if hooks else None

    def begin(call: Call, attempt: Attempt, now: float) -> None:
        for hook in hooks:
            hook(call, attempt, now)

    return begin


class Plan:
    """What happens to the calls of one route."""

    __slots__ = (
        "active",
        "cluster",
        "idempotent",
        "listener",
        "max_message",
        "on_attempt_end",
        "on_attempt_over",
        "on_attempt_start",
        "on_request",
        "on_request_end",
        "on_request_message",
        "on_response_headers",
        "on_response_message",
        "on_trailers",
        "policies",
        "positions",
        "replay",
        "route",
        "runtime",
        "starts_late",
        "unwind",
        "wants_messages",
        "wants_request",
        "wants_response",
    )

    def __init__(
        self,
        *,
        listener: str,
        route: str,
        policies: Sequence[Policy[Any]],
        cluster: Cluster | None,
        runtime: Runtime,
        max_message: int = 4 * 1024 * 1024,
        idempotent: bool = False,
    ) -> None:
        self.listener = listener
        self.route = route
        self.policies = tuple(policies)
        self.cluster = cluster
        self.runtime = runtime
        self.max_message = max_message
        self.idempotent = idempotent
        self.active = 0
        # Position in `policies` of each hook, per tuple: an answer of policy i passes only response hooks of those before i.
        self.positions: dict[str, tuple[int, ...]] = {}
        self.on_request: tuple[Callable[[Call], Verdict], ...] = self._collect("on_request")
        self.on_request_message: tuple[Callable[[Call, bytes], Verdict], ...] = self._collect("on_request_message")
        self.on_request_end: tuple[Callable[[Call], Verdict], ...] = self._collect("on_request_end")
        self.on_response_headers: tuple[Callable[[Call, list[Field]], None], ...] = self._collect(
            "on_response_headers", backwards=True
        )
        self.on_response_message: tuple[Callable[[Call, bytes], Verdict], ...] = self._collect(
            "on_response_message", backwards=True
        )
        self.on_trailers: tuple[Callable[[Call, list[Field]], Verdict], ...] = self._collect(
            "on_trailers", backwards=True
        )
        starters = self._collect("on_attempt_start")
        self.on_attempt_start: Callable[[Call, Attempt, float], None] | None = _each_start(starters)
        watchers = self._collect("on_attempt_over")
        self.on_attempt_over: Callable[[Call, Attempt, Outcome], None] | None = watchers[0] if watchers else None
        owners = self._collect("on_attempt_end")
        if len(owners) > 1:
            raise ValueError(f"route {route}: only one policy may repeat an RPC; retry and hedge exclude each other")
        self.replay = max((policy.replay for policy in self.policies), default=0) or _SMALL_REQUEST
        self.on_attempt_end: Callable[[Call, Attempt, Outcome], bool] | None = owners[0] if owners else None
        self.unwind = self._compile_unwind()
        self.wants_request = bool(self.on_request_message or self.on_request_end)
        self.starts_late = self.wants_request and any(each.before_start for each in self.policies)
        self.wants_response = bool(self.on_response_message)
        self.wants_messages = self.wants_request or self.wants_response

    def _collect(self, hook: str, *, backwards: bool = False) -> tuple[Any, ...]:
        found = [(i, getattr(each, hook)) for i, each in enumerate(self.policies) if defines(each, hook)]
        if backwards:
            found.reverse()
        self.positions[hook] = tuple(i for i, _ in found)
        return tuple(bound for _, bound in found)

    def _compile_unwind(self) -> tuple[tuple[Callable[[Call, Outcome], None], ...], ...]:
        """For each number of request hooks that let a call pass: the `on_end` hooks that are due, last policy first.

        A policy that refused must not get `on_end`, or it releases what it never took. Observers (those without
        `on_request`) are in every tuple, so every call is seen exactly once.
        """
        unwinds = []
        for entered in range(len(self.on_request) + 1):
            due = []
            passed = 0
            for policy in self.policies:
                takes = defines(policy, "on_request")
                if defines(policy, "on_end") and (policy.observes or not takes or passed < entered):
                    due.append(policy.on_end)
                passed += takes
            unwinds.append(tuple(reversed(due)))
        return tuple(unwinds)
