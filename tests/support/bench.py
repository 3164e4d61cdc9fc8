"""A bench: one policy alone, in the real data path: real connection, `Call`, routing, chain, refusals; an agent that waits.

What the agent answers, and how bytes travel, is for a scene (`scene.py`).

```python
bench = of(RateLimit, "[{name: a, rate: 2/1s, per: [identity]}]")
assert bench.request(identity="spiffe://mesh.local/agent/a") is None      # let pass
bench.end(StatusCode.OK)
bench.clock.advance(1)
```
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import yaml

from sidecar.clock import Deadlines
from sidecar.grpc_wire.status import StatusCode
from sidecar.http2.connection import Connection, Limits
from sidecar.http2.errors import ErrorCode
from sidecar.listeners import inbound
from sidecar.listeners.peer import Peer
from sidecar.proxy.attempt import Attempt
from sidecar.proxy.call import Call
from sidecar.proxy.edge import Edge
from sidecar.proxy.holding import Holding
from sidecar.proxy.plan import Plan
from sidecar.proxy.policy import Answer, Origin, Outcome, Policy, Verdict
from sidecar.proxy.rejection import Rejection
from sidecar.proxy.routing import Match, RouteTable
from sidecar.runtime import Runtime
from sidecar.telemetry.metrics import Metrics
from tests.support.clock import FakeClock
from tests.support.wire import ScriptedStream, Wire, client_connection, request_block, server_connection
from tests.support.wire import message as framed

P = TypeVar("P", bound=Policy[Any])
Metadata: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]

METHOD = "/test.Service/Method"
CALLER = "spiffe://mesh.local/agent/caller"


class BenchEndpoint:
    """An agent that is never connected: what reaches it has passed, and waits."""

    address = "bench"
    attempt_type = Attempt

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def connection(self) -> None:
        return None

    def enqueue(self, attempt: Any) -> None:
        self.waiting.append(attempt)

    def started(self, attempt: Any) -> None:
        raise AssertionError("nothing starts on a bench")

    def finished(self, attempt: Any, outcome: Outcome) -> None:
        """Nothing started, nothing finishes."""


class BenchCluster:
    """Always picks its one endpoint."""

    name = "bench"

    def __init__(self) -> None:
        self.endpoint = BenchEndpoint()

    def pick(self, call: Call, avoid: Any = ()) -> BenchEndpoint:
        return self.endpoint


class _Ends(Policy[None]):
    name = "ends"

    def __init__(self, outcomes: list[Outcome]) -> None:
        self._outcomes = outcomes

    def on_end(self, call: Call, outcome: Outcome) -> None:
        self._outcomes.append(outcome)


class Bench(Generic[P]):
    """One policy on one route. `calls` are all calls so far, `outcomes` how they ended, `streams` what callers saw."""

    def __init__(self, policy: P, runtime: Runtime, clock: FakeClock, max_metadata: int) -> None:
        self.policy = policy
        self.runtime = runtime
        self.clock = clock
        self.metrics = runtime.metrics
        self.outcomes: list[Outcome] = []
        self.calls: list[Call] = []
        self.streams: list[ScriptedStream] = []
        self.verdicts: list[Verdict] = []
        self.cluster = BenchCluster()
        self.plan = self._plan("bench", [policy, _Ends(self.outcomes)], self.cluster)
        # What the policy says is kept on its way to the chain.
        self.plan.on_request = tuple(map(self._kept, self.plan.on_request))
        self.plan.on_request_message = tuple(map(self._kept, self.plan.on_request_message))
        self.plan.on_request_end = tuple(map(self._kept, self.plan.on_request_end))
        unrouted = self._plan("", [_Ends(self.outcomes)], None)
        self.edge = Edge(
            name="bench", direction="inbound", routes=RouteTable([(Match(), self.plan)], unrouted), runtime=runtime
        )
        self._peer: Peer
        self._prepare: Callable[[Call], None]
        limits = Limits(max_concurrent_streams=1_000_000, max_header_list=max_metadata)
        self.wire = Wire(client_connection(), server_connection(self._accept, limits), now=clock.monotonic)
        self.wire.start()

    def _plan(self, route: str, policies: list[Policy[Any]], cluster: BenchCluster | None) -> Plan:
        return Plan(listener="bench", route=route, policies=policies, cluster=cluster, runtime=self.runtime)

    def _kept(self, hook: Callable[..., Verdict]) -> Callable[..., Verdict]:
        def kept(*arguments: Any) -> Verdict:
            verdict = hook(*arguments)
            self.verdicts.append(verdict)
            return verdict

        return kept

    def _accept(self, connection: Connection) -> Call:
        call = Call(self._peer)
        self.calls.append(call)
        self._prepare(call)
        return call

    # ── the caller ──

    def request(
        self,
        identity: str | None = CALLER,
        method: str = METHOD,
        metadata: Metadata = (),
        *,
        end: bool = True,
        address: str = "10.0.0.9:5000",
        peek: bool = False,
        notes: Mapping[str, Any] | None = None,
    ) -> Verdict:
        """A caller starts an RPC: the policy's verdict, None = it passed. `end`: it half-closes at once.

        The refusal of the data path itself, if the call never came to the policy. A verdict that is a coroutine is
        being awaited by the chain (in a running loop); how it ends shows in `outcomes` or `forwarded`.
        """

        def prepare(call: Call) -> None:
            call.peek = peek
            for name, value in (notes or {}).items():
                call.note(name, value)

        self._prepare = prepare
        self._peer = Peer(
            self.edge,
            identity=identity,
            address=address,
            certificate=None,
            to_agent=inbound.told_agent(identity),
            ends=math.inf,
            refused=None,
        )
        stream = ScriptedStream()
        self.streams.append(stream)
        self.wire.client.open(stream)
        pairs = metadata.items() if isinstance(metadata, Mapping) else metadata
        seen, ended = len(self.verdicts), len(self.outcomes)
        stream.send_headers(request_block(method, *pairs), end)
        self.wire.run()
        assert not self.metrics.defects, f"an exception, see the log: {dict(self.metrics.defects)}"
        if len(self.verdicts) > seen:
            return self.verdicts[-1]
        if len(self.outcomes) > ended:
            outcome = self.outcomes[-1]
            assert outcome.reason is not None, f"the call ended without a reason: {outcome}"
            return outcome.reason.reject(outcome.message, code=outcome.code)
        return None

    def message(self, body: bytes, *, end: bool = False) -> Verdict:
        """The caller of the last call sends a message: the verdict on it, or on the end that came with it."""
        return self._send(framed(body), end=end)

    def half_close(self) -> Verdict:
        """The caller of the last call ends its side: the policy's verdict."""
        return self._send(b"", end=True)

    def _send(self, data: bytes, *, end: bool) -> Verdict:
        seen = len(self.verdicts)
        self.streams[-1].send_data(data, end)
        self.wire.run()
        assert not self.metrics.defects, f"an exception, see the log: {dict(self.metrics.defects)}"
        return self.verdicts[-1] if len(self.verdicts) > seen else None

    def end(self, code: StatusCode = StatusCode.OK, call: Call | None = None, *, message: str = "") -> None:
        """The last call, or `call`, ends with `code` of the agent."""
        (call or self.calls[-1]).end(Outcome(code, message, Origin.AGENT))

    def cancel(self) -> None:
        """The caller of the last call goes away."""
        self.streams[-1].reset(ErrorCode.CANCEL)
        self.wire.run()

    @property
    def last(self) -> Call:
        """The newest call."""
        return self.calls[-1]

    @property
    def forwarded(self) -> int:
        """How many calls went on to the agent."""
        return len(self.cluster.endpoint.waiting)


def of(
    policy: type[P],
    text: str = "{}",
    *,
    directory: Path | None = None,
    clock: FakeClock | None = None,
    max_metadata: int = 16 * 1024,
    prepare: Callable[[Runtime], Runtime] = lambda runtime: runtime,
) -> Bench[P]:
    """A bench for `policy` with the section `text`, as it would stand in the file. Paths are relative to `directory`.

    `prepare` gives the runtime what this policy needs of it beside the rest. Raises what the model and the policy raise.
    """
    clock = clock or FakeClock()
    runtime = Runtime(
        clock=clock,
        deadlines=Deadlines(clock),
        holding=Holding(clock),
        random=random.Random(7),
        metrics=Metrics(),
        log=logging.getLogger("bench"),
    ).scoped(listener="bench", route="bench", direction="inbound")
    runtime = prepare(runtime)
    return Bench(policy(config_of(policy, text, directory=directory), runtime), runtime, clock, max_metadata)


def config_of(policy: type[Policy[Any]], text: str, *, directory: Path | None = None) -> Any:
    """The configuration of `policy` from its section, read as the loader reads it."""
    data = json.dumps(yaml.safe_load(text))
    return policy.config_model.model_validate_json(data, context={"directory": directory or Path.cwd()})


def refused(verdict: Verdict) -> Rejection:
    """`verdict`, which must be a refusal."""
    assert isinstance(verdict, Rejection), f"not a refusal: {verdict!r}"
    return verdict


def answered(verdict: Verdict) -> Answer:
    """`verdict`, which must be an answer."""
    assert isinstance(verdict, Answer), f"not an answer: {verdict!r}"
    return verdict
