"""The one central abstraction: a policy says what it wants to see of a call and gives a verdict.

A policy is a class with a name, a config model, and any of the hooks below. A hook that is not overridden is never
called: `plan.py` collects the bound methods that a class really defines, per hook, into tuples.

Verdicts of a hook
- `None`: go on (the fast case)
- `Rejection`: refuse the call
- `Answer`: reply with these recorded bytes
- `bytes` (message hooks only): the message, changed
- a coroutine that returns any of these: wait for it. Only then is a task made; the direction is paused meanwhile.
"""

from __future__ import annotations

from collections.abc import Coroutine
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

from sidecar.proxy.rejection import Rejection

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sidecar.grpc_wire.status import StatusCode
    from sidecar.http2.hpack import Field
    from sidecar.proxy.attempt import Attempt
    from sidecar.proxy.call import Call
    from sidecar.proxy.plan import Cluster
    from sidecar.proxy.rejection import Reason
    from sidecar.runtime import Runtime

C = TypeVar("C")


class Answer:
    """A whole response to give instead of asking the agent: header fields, framed messages, trailer fields."""

    __slots__ = ("headers", "messages", "trailers")

    def __init__(self, headers: list[Field], messages: bytes, trailers: list[Field]) -> None:
        self.headers = headers
        self.messages = messages
        self.trailers = trailers


Verdict: TypeAlias = "Rejection | Answer | bytes | Coroutine[Any, Any, Rejection | Answer | bytes | None] | None"


class Origin(Enum):
    """Who made the status a call ended with."""

    AGENT = "agent"
    SIDECAR = "sidecar"
    CALLER = "caller"


class Outcome:
    """How a call or an attempt ended: status code, message, who made it and, if we did, why."""

    __slots__ = ("code", "message", "origin", "reason")

    def __init__(self, code: StatusCode, message: str, origin: Origin, reason: Reason | None = None) -> None:
        self.code = code
        self.message = message
        self.origin = origin
        self.reason = reason

    def __repr__(self) -> str:
        why = f", {self.reason.name}" if self.reason else ""
        return f"Outcome({self.code.name}, {self.message!r}, by the {self.origin.value}{why})"


class Policy(Generic[C]):
    """One enforcement on the path of a call; made once per route and generation, immutable afterwards."""

    name: ClassVar[str]
    config_model: ClassVar[type[Any]]
    always_on: ClassVar[bool] = False
    """In every plan, without a section in the configuration."""
    before_start: bool = False
    """With message hooks: the agent hears nothing before the first message has passed (or the caller half-closed)."""
    observes: ClassVar[bool] = False
    """Has `on_request`, and gets `on_end` of every call all the same: of those it never saw, too."""
    replay: int = 0
    """Bytes of the request to keep, so that another attempt can be made; 0 = as few as every route keeps."""

    def __init__(self, config: C, runtime: Runtime) -> None:
        """Compile the configuration. Raises ValueError, naming the field, for what the model could not check."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that were read; `reload` is called when one of them changes."""
        return ()

    def reload(self) -> bool:
        """Read `files` again; were they different? Raises ValueError saying what is wrong; nothing has changed then."""
        return False

    def reach(self, clusters: Mapping[str, Cluster]) -> None:
        """All clusters there are, by name, for a policy that leads to another one. Raises ValueError if it is none of them."""
        return

    def begin(self, cluster: Cluster | None) -> None:
        """The route is in force and leads to `cluster`: start what runs beside calls. Again after each reload."""
        return

    def recheck(self, call: Call) -> Rejection | None:
        """Rules have changed since `call` was let pass: must it end now?"""
        return None

    def forget(self) -> int:
        """Drop the answers that are kept to be given again; how many there were."""
        return 0

    # ── hooks ──

    def on_request(self, call: Call) -> Verdict:
        """Headers are here, nothing went upstream."""
        raise NotImplementedError

    def on_request_message(self, call: Call, message: bytes) -> Verdict:
        """Each message of the caller, with its five-byte prefix."""
        raise NotImplementedError

    def on_request_end(self, call: Call) -> Verdict:
        """The caller half-closed."""
        raise NotImplementedError

    def on_attempt_start(self, call: Call, attempt: Attempt, now: float) -> None:
        """An attempt begins at `now` (monotonic seconds); its headers have not gone out yet."""
        raise NotImplementedError

    def on_attempt_end(self, call: Call, attempt: Attempt, outcome: Outcome) -> bool:
        """An attempt ended before anything went to the caller; True = another one runs, or will, so this end is not the call's."""
        raise NotImplementedError

    def on_attempt_over(self, call: Call, attempt: Attempt, outcome: Outcome) -> None:
        """An attempt that had started is over, whatever comes of the call."""
        raise NotImplementedError

    def on_response_headers(self, call: Call, fields: list[Field]) -> None:
        """Before they go to the caller; `fields` may be changed in place. Must not wait."""
        raise NotImplementedError

    def on_response_message(self, call: Call, message: bytes) -> Verdict:
        """Each message of the agent, with its five-byte prefix."""
        raise NotImplementedError

    def on_trailers(self, call: Call, fields: list[Field]) -> Verdict:
        """Before the caller learns the end; `fields` may be changed in place."""
        raise NotImplementedError

    def on_end(self, call: Call, outcome: Outcome) -> None:
        """Exactly once, after everything, if this policy let the call pass (observers: always). Cannot fail the call."""
        raise NotImplementedError


REQUEST_HOOKS = ("on_request", "on_request_message", "on_request_end")
RESPONSE_HOOKS = ("on_response_headers", "on_response_message", "on_trailers")


def defines(policy: Policy[Any], hook: str) -> bool:
    """Does the class of `policy` override `hook`?"""
    return getattr(type(policy), hook) is not getattr(Policy, hook)
