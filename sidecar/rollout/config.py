"""`versions:` and `rollout:` of a cluster: two versions side by side, and how one of them takes over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, WithJsonSchema

from sidecar.config.model import Model
from sidecar.config.units import (
    Address,
    Duration,
    MetadataName,
    MethodPattern,
    Name,
    Percent,
    duration_between,
    parse_metadata_name,
)

_SERVER_FAULTS = (
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
    "UNKNOWN",
    "DATA_LOSS",
    "ABORTED",
    "RESOURCE_EXHAUSTED",
    "UNIMPLEMENTED",
)


class VersionAgentConfig(Model):
    """An agent that the sidecar starts by itself, on a free port of this machine."""

    command: tuple[str, ...] = Field(
        min_length=1, description="program and arguments; {port} and {address} stand for where it is to listen"
    )
    drain_timeout: Annotated[Duration, duration_between("0s", "1h")] = Field(
        default=10.0, description="between TERM and KILL when it is retired"
    )


class VersionConfig(Model):
    """One version of what a cluster serves."""

    endpoints: tuple[Address, ...] = Field(default=(), min_length=1, description="where it runs; or agent")
    agent: VersionAgentConfig | None = Field(default=None, description="start it here; or endpoints")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.agent is None and not self.endpoints:
            yield "endpoints", "is missing, and so is agent; give one of them"
        if self.agent is not None and self.endpoints:
            yield "agent", "stands beside endpoints; give one of them"


class SuccessRateConfig(Model):
    """How many RPCs must go well."""

    min: Percent = Field(description="percent of the RPCs that end with no failure code")


class LatencyConfig(Model):
    """How long RPCs may take."""

    max: Duration = Field(gt=0, description="longer is too slow")


class AbortedConfig(Model):
    """How many streams may break off."""

    max: Percent = Field(description="percent of the RPCs that begin to answer and end without a status")


class RatingsConfig(Model):
    """What callers think of the work: scores that agents tell in a trailer, as the answer to a rating."""

    trailer: MetadataName = Field(
        default="x-task-score", description="the trailer with the score, a whole number 0 to 100"
    )
    poor: int = Field(default=2, ge=0, le=100, description="a score up to it is poor")
    max_poor: Percent = Field(description="percent of the ratings that may be poor")
    min_ratings: int = Field(default=5, ge=1, description="fewer judge nothing: callers need not rate")


class ComparisonConfig(Model):
    """How much worse than stable the candidate may be."""

    success_rate_drop: Percent | None = Field(default=None, description="percentage points below stable's success rate")
    refused_rise: Percent | None = Field(
        default=None, description="percentage points above stable's share of RPCs that end with the caller's fault"
    )
    latency_p50_ratio: float | None = Field(default=None, ge=1, le=1000, description="times stable's median")
    latency_p99_ratio: float | None = Field(default=None, ge=1, le=1000, description="times stable's p99")
    first_message_p99_ratio: float | None = Field(
        default=None, ge=1, le=1000, description="times stable's p99 of the time to a stream's first message"
    )
    latency_slack: Duration = Field(
        default=0.01, ge=0, description="a difference in latency below this is none: the noise of machines"
    )


class AnalysisConfig(Model):
    """How a candidate is judged, on this sidecar's own counters."""

    interval: Annotated[Duration, duration_between("100ms", "1h")] = Field(default=10.0, description="between checks")
    min_rpcs: int = Field(default=50, ge=1, description="fewer = inconclusive: wait, never fail, never promote")
    max_failed_checks: int = Field(default=3, ge=1, description="so many failed checks in a step roll back")
    failure_codes: tuple[str, ...] = Field(default=_SERVER_FAULTS, description="what counts against a version")
    success_rate: SuccessRateConfig | None = Field(default=SuccessRateConfig(min=99.0), description="absolute bound")
    latency_p50: LatencyConfig | None = Field(default=None, description="bound for half of the RPCs")
    latency_p99: LatencyConfig | None = Field(default=None, description="bound for 99 of 100 RPCs")
    first_message_p99: LatencyConfig | None = Field(
        default=None, description="bound for 99 of 100 streams: from their start to the first message"
    )
    aborted_streams: AbortedConfig | None = Field(default=None, description="streams that end without a status")
    ratings: RatingsConfig | None = Field(default=None, description="bound for poor ratings by callers")
    compare_to_stable: ComparisonConfig | None = Field(
        default=ComparisonConfig(success_rate_drop=1.0, latency_p99_ratio=1.5), description="bounds relative to stable"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        from sidecar.grpc_wire.status import StatusCode

        for i, code in enumerate(self.failure_codes):
            if code not in StatusCode.__members__ or code == "OK":
                yield f"failure_codes.{i}", "is no failure; write a gRPC status code such as UNAVAILABLE"


def _parse_sticky(text: str) -> str:
    if text.startswith("metadata."):
        parse_metadata_name(text.removeprefix("metadata."))
    elif text not in {"identity", "off"}:
        raise ValueError("is no way to tell callers apart; allowed: identity, metadata.NAME, off")
    return text


StickyBy: TypeAlias = Annotated[
    str,
    AfterValidator(_parse_sticky),
    WithJsonSchema({"type": "string", "pattern": "^(identity|off|metadata\\..+)$", "examples": ["identity"]}),
]


class StickyConfig(Model):
    """Who stays with a version."""

    by: StickyBy = Field(default="off", description="identity | metadata.NAME | off")


class OverrideConfig(Model):
    """Who may choose a version with the metadata `x-sidecar-version`. Authorization must have let the call pass by one of these."""

    roles: tuple[str, ...] = Field(default=(), description="roles of policies.authz that may")
    rules: tuple[str, ...] = Field(default=(), description="allow rules of policies.authz whose callers may")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if not self.roles and not self.rules:
            yield "roles", "is missing, and so is rules; name who may, or leave override out"


class ActionConfig(Model):
    """Something to tell: a webhook gets the transition as JSON (POST)."""

    webhook: str = Field(pattern=r"^https?://[^\s]+$", description="http:// or https:// URL")
    timeout: Annotated[Duration, duration_between("10ms", "5m")] = Field(default=10.0, description="then it has failed")


Command: TypeAlias = Annotated[tuple[str, ...], Field(min_length=1)]
Actions: TypeAlias = "tuple[ActionConfig | Command, ...]"


class SmokeConfig(Model):
    """One RPC that must succeed before the candidate gets any traffic."""

    method: MethodPattern = Field(description="/package.Service/Method")
    message: str = Field(default="", description="the request message in base64; empty = an empty message")
    timeout: Annotated[Duration, duration_between("10ms", "5m")] = Field(default=5.0, description="must answer within")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        import base64
        import binascii

        if "*" in self.method or self.method.count("/") != 2:
            yield "method", "names no single method; write /package.Service/Method"
        try:
            base64.b64decode(self.message, validate=True)
        except binascii.Error:
            yield "message", "is no base64"


Gate: TypeAlias = "Percent | Literal['start', 'promote']"


class RolloutConfig(Model):
    """How a version takes over: step by step, or at once; and what sends it back."""

    strategy: Literal["canary", "blue_green"] = Field(
        default="canary", description="canary: step by step; blue_green: all at once"
    )
    stable: Name = Field(description="the version that serves now")
    candidate: Name = Field(description="the version that is to take over")
    begin: Literal["auto", "manual"] = Field(
        default="auto", description="auto: a candidate that was not rolled out yet begins by itself; manual: on command"
    )
    steps: tuple[Percent, ...] = Field(
        default=(10.0, 25.0, 50.0, 100.0), min_length=1, description="percent of new RPCs for the candidate"
    )
    first_step_for: Annotated[Duration, duration_between("100ms", "8760h")] = Field(
        default=1800.0, description="how long the first step lasts"
    )
    step_for: Annotated[Duration, duration_between("100ms", "8760h")] = Field(
        default=600.0, description="how long each other step lasts; blue_green: how long the switch is watched"
    )
    ready_within: Annotated[Duration, duration_between("100ms", "8760h")] = Field(
        default=600.0,
        description="a candidate that is not SERVING, and does not pass its smoke RPCs, within is rolled back",
    )
    analysis: AnalysisConfig = Field(default_factory=AnalysisConfig, description="how the candidate is judged")
    sticky: StickyConfig = Field(default_factory=StickyConfig, description="who stays with a version")
    override: OverrideConfig | None = Field(
        default=None, description="who may choose with x-sidecar-version; absent = nobody"
    )
    existing_streams: Literal["finish", "end"] = Field(
        default="finish", description="streams at a version that gets no more: let them finish, or end them"
    )
    smoke: tuple[SmokeConfig, ...] = Field(default=(), description="RPCs that must succeed before the first step")
    manual_gates: tuple[Gate, ...] = Field(
        default=(), description="wait for `resume` before these steps (percent), before the start, before promote"
    )
    keep_old_for: Annotated[Duration, duration_between("0s", "8760h")] = Field(
        default=86400.0, description="the old version stays warm for rollback"
    )
    on_start: Actions = Field(default=(), description="when the candidate gets its first traffic")
    on_step: Actions = Field(default=(), description="when its share changes")
    on_pause: Actions = Field(default=(), description="when it waits for a person")
    on_promote: Actions = Field(default=(), description="when it has taken over")
    on_rollback: Actions = Field(default=(), description="when it was sent back")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.stable == self.candidate:
            yield "candidate", "is the stable version, too; name another one"
        if any(later <= earlier for earlier, later in zip(self.steps, self.steps[1:], strict=False)):
            yield "steps", "do not rise; each step is larger than the one before"
        if 0.0 in self.steps:
            yield "steps", "begin with 0; the first step gives the candidate some traffic"
        for i, gate in enumerate(self.manual_gates):
            if not isinstance(gate, str) and gate not in self.shares:
                yield f"manual_gates.{i}", "is no step; name one of steps, start or promote"

    @property
    def shares(self) -> tuple[float, ...]:
        """What the candidate gets at each step, in percent; the last one is all of it."""
        if self.strategy == "blue_green":
            return (100.0,)
        return self.steps if self.steps[-1] == 100 else (*self.steps, 100.0)

    def length(self, step: int) -> float:
        """Seconds that a step lasts."""
        return self.first_step_for if step == 0 and self.strategy == "canary" else self.step_for
