"""The access log: a line for each RPC that ended; of those that went well a sample, of those that failed every one.

Its words are those of metrics, audit records and refusals: `reason` is ErrorInfo.reason. A stream that lasts has a line every
minute (control/long_calls.py asks for it), so that nobody has to wait for its end to know of it.
"""

from __future__ import annotations

import functools
import logging
import re
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sidecar.config.model import Model
from sidecar.config.units import Percent
from sidecar.grpc_wire.status import StatusCode
from sidecar.proxy.attempt import OK_BY_AGENT
from sidecar.proxy.policy import Policy
from sidecar.telemetry import masking
from sidecar.telemetry.trace_context import TRACEPARENT, parse_traceparent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.proxy.call import Call
    from sidecar.proxy.policy import Outcome
    from sidecar.runtime import Runtime
    from sidecar.telemetry.logs import Mask

_LONGEST = 1024
"""Characters of any one text."""
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?)(?:[0-9a-fA-F]{4}\1){3}[0-9a-fA-F]{12}", re.ASCII)


class AccessLogConfig(Model):
    """A line in the log for RPCs that ended."""

    sample: Percent = Field(default=100, description="percent of the RPCs that end OK; those that fail are all logged")


class AccessLine:
    """The facts of one call, taken on the data path; put into words by the log's thread."""

    __slots__ = (
        "active",
        "address",
        "attempts",
        "created",
        "endpoint",
        "event",
        "identity",
        "level",
        "listener",
        "method",
        "notes",
        "outcome",
        "request_id",
        "route",
        "seconds",
        "sizes",
        "traceparent",
    )

    def __init__(self, call: Call, outcome: Outcome | None, *, created: float, listener: str, route: str) -> None:
        """`outcome`: None while it still runs."""
        now = call.connection.now
        attempt = call.attempt
        is_well = outcome is None or outcome.code is StatusCode.OK
        self.created = created
        self.level = "info" if is_well else "warning"
        self.event = "rpc" if outcome is not None else "rpc runs"
        self.listener = listener
        self.route = route
        self.method = call.path
        self.identity = call.identity
        self.address = call.peer.address
        self.outcome = outcome
        self.notes = call.notes
        self.seconds = now - call.started
        self.active = now - call.active
        self.sizes = (call.request_messages, call.response_messages, call.bytes_in, call.bytes_out)
        self.request_id = call.request_id[1]
        self.traceparent = call.headers.get(TRACEPARENT)
        self.endpoint = attempt.endpoint.address if attempt is not None else None
        self.attempts = call.attempts

    def fields(self, mask: Mask) -> Mapping[str, Any]:
        """In the words of an audit record. What is not known is left out."""
        outcome, notes = self.outcome, self.notes
        messages_in, messages_out, bytes_in, bytes_out = self.sizes
        said: dict[str, Any] = {"listener": self.listener}
        if self.route:
            said["route"] = self.route
        if self.method:
            said["method"] = _clean(self.method)
        if self.identity:
            said["identity"] = _clean(self.identity)
        said["remote"] = self.address
        permit = notes.get("authz") if notes else None
        if permit is not None:
            said["decision"] = str(permit.decision)
            said["rule"] = _clean(str(permit.rule))
        if outcome is not None:
            said["status"] = outcome.code.name
            if outcome.reason is not None:
                said["reason"] = outcome.reason.name
            said["origin"] = outcome.origin.value
            if outcome.message:
                said["message"] = _short(mask(outcome.message))
        else:
            said["silent_ms"] = round(self.active * 1000)
        said["duration_ms"] = round(self.seconds * 1000, 3)
        said["received"] = {"messages": messages_in, "bytes": bytes_in}
        said["sent"] = {"messages": messages_out, "bytes": bytes_out}
        if self.endpoint is not None:
            said["endpoint"] = self.endpoint
        said["attempts"] = self.attempts
        if self.request_id:
            said["request_id"] = _request_id(self.request_id)
        trace_id = self._trace_id()
        if trace_id is not None:
            said["trace_id"] = trace_id
        return said

    def _trace_id(self) -> str | None:
        trace = self.notes.get("tracing") if self.notes else None
        if trace is not None:
            return str(trace.trace_id, "ascii")
        context = parse_traceparent(self.traceparent) if self.traceparent is not None else None
        return context.trace_id.decode() if context is not None else None


class AccessLog(Policy[AccessLogConfig]):
    """An observer; what it does on the path of a call is to take facts."""

    name = "access_log"
    config_model = AccessLogConfig
    observes = True

    def __init__(self, config: AccessLogConfig, runtime: Runtime) -> None:
        self._share = config.sample / 100
        self._draw = runtime.random.random
        self._wall = runtime.clock.wall
        self._log = runtime.log
        self._lines = runtime.lines
        self._listener = runtime.listener
        self._route = runtime.route

    def on_end(self, call: Call, outcome: Outcome) -> None:
        level = logging.INFO
        if outcome is not OK_BY_AGENT and outcome.code is not StatusCode.OK:
            level = logging.WARNING
        elif self._share < 1.0 and self._draw() >= self._share:
            return
        lines = self._lines
        if lines is None or call.peek or not self._log.isEnabledFor(level):
            return
        lines.add(AccessLine(call, outcome, created=self._wall(), listener=self._listener, route=self._route))

    def still_runs(self, call: Call) -> None:
        """`call` has lasted for another minute."""
        if self._lines is not None and self._log.isEnabledFor(logging.INFO):
            line = AccessLine(call, None, created=self._wall(), listener=self._listener, route=self._route)
            self._lines.add(line)


# Callers, methods and rules repeat; looking for secrets in them is most of what a line costs.
@functools.lru_cache(maxsize=2048)
def _clean(text: str) -> str:
    return _short(masking.mask(text))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _request_id(value: bytes) -> str:
    text = value.decode("ascii", "replace")
    # Most are UUIDs, which hold no secret; they differ each time, so nothing is remembered.
    return text if _UUID.fullmatch(text) else masking.mask(text)
