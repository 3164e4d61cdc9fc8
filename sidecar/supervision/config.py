"""The `agent:` section: the process beside us, and what is done when it fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from sidecar.config.model import Model
from sidecar.config.units import Duration, Name, Size, duration_between

Action = Literal["drain", "clear_cache", "restart"]
_ACTIONS = {"type": "string", "enum": ["drain", "clear_cache", "restart"]}


def _several(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Actions = Annotated[
    tuple[Action, ...],
    BeforeValidator(_several),
    WithJsonSchema({"anyOf": [_ACTIONS, {"type": "array", "minItems": 1, "items": _ACTIONS}]}),
]


class ReadyCheckConfig(Model):
    """Asking the agent whether it serves; where it has no health service, that it takes RPCs is enough."""

    service: str = Field(default="", max_length=255, description="which service to ask for; empty = the whole server")
    interval: Annotated[Duration, duration_between("100ms", "1h")] = Field(
        default=5.0, description="asked again and again, as long as it runs"
    )
    timeout: Annotated[Duration, duration_between("10ms", "1m")] = Field(
        default=1.0, description="an answer must come within"
    )


class ReadyConfig(Model):
    """When the agent gets traffic."""

    health_check: ReadyCheckConfig = Field(
        default_factory=ReadyCheckConfig, description="traffic only after it is SERVING"
    )
    within: Annotated[Duration, duration_between("100ms", "24h")] = Field(
        default=60.0, description="one that is not ready by then has failed, and is started again"
    )


class BackoffConfig(Model):
    """How long to wait before the next start: doubled each time, with some chance, until one has lived long enough."""

    initial: Annotated[Duration, duration_between("1ms", "1h")] = Field(
        default=1.0, description="before the first restart"
    )
    longest: Annotated[Duration, duration_between("1ms", "24h")] = Field(
        default=60.0, alias="max", description="never longer than this"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.longest < self.initial:
            yield "max", "is shorter than initial; allowed: at least as long"


class CrashConfig(Model):
    """The agent has ended, or does not get ready."""

    do: Literal["restart"] = Field(default="restart", description="restart")
    backoff: BackoffConfig = Field(default_factory=BackoffConfig, description="the wait before the next start")


class WedgedWhenConfig(Model):
    """What counts as wedged; any of these."""

    in_flight_without_progress: Annotated[Duration, duration_between("100ms", "24h")] | None = Field(
        default=None,
        description="RPCs wait for it, complete, and for so long not one has been answered; longer than the longest answer takes",
    )
    health_silent: Annotated[Duration, duration_between("100ms", "24h")] | None = Field(
        default=30.0, description="it has not answered its health check for so long"
    )


class WedgedConfig(Model):
    """The agent runs and does nothing."""

    when: WedgedWhenConfig = Field(default_factory=WedgedWhenConfig, description="what counts as wedged")
    do: Actions = Field(default=("restart",), min_length=1, description="in this order")


class MemoryWhenConfig(Model):
    """How much is too much."""

    rss_above: Size = Field(gt=0, description="resident memory of the agent and what it started")
    length: Annotated[Duration, duration_between("0s", "24h")] = Field(
        default=60.0, alias="for", description="for so long"
    )


class MemoryConfig(Model):
    """The agent grows."""

    when: MemoryWhenConfig = Field(description="how much is too much")
    do: Actions = Field(default=("drain", "clear_cache", "restart"), min_length=1, description="in this order")


class LostWhenConfig(Model):
    """For how long it must be lost."""

    length: Annotated[Duration, duration_between("100ms", "24h")] = Field(
        default=10.0, alias="for", description="lost for so long; then again and again after as long"
    )


class StoreLostConfig(Model):
    """The store gives no answer."""

    when: LostWhenConfig = Field(default_factory=LostWhenConfig, description="when it counts as lost")
    do: Literal["reconnect"] = Field(default="reconnect", description="reconnect")


class NetworkConfig(Model):
    """A cluster has endpoints, and none can be reached."""

    when: LostWhenConfig = Field(default_factory=LostWhenConfig, description="when it counts as lost")
    do: Literal["reset_connections"] = Field(
        default="reset_connections", description="dial anew at once, names looked up again"
    )


class GiveUpConfig(Model):
    """How often is too often."""

    restarts: int = Field(default=5, ge=1, le=1000, description="so many restarts …")
    within: Annotated[Duration, duration_between("1s", "24h")] = Field(
        default=600.0, description="… within this time, and the next one is left to people"
    )


class RecoveryConfig(Model):
    """Symptom → action, with a limit. What is not named is not watched for; a crash always is."""

    crash: CrashConfig = Field(default_factory=CrashConfig, description="it ended, or does not get ready")
    wedged: WedgedConfig | None = Field(default=None, description="it runs and does nothing")
    memory: MemoryConfig | None = Field(default=None, description="it grows")
    store_lost: StoreLostConfig | None = Field(default=None, description="the store gives no answer")
    network: NetworkConfig | None = Field(default=None, description="a cluster cannot be reached")
    give_up_after: GiveUpConfig = Field(
        default_factory=GiveUpConfig, description="then manual intervention is required, and nothing is served"
    )


class AgentConfig(Model):
    """The agent's process: started before traffic, watched, repaired."""

    command: tuple[str, ...] = Field(min_length=1, description="the program and its arguments; no shell")
    environment: Mapping[str, str] = Field(default_factory=dict, description="variables in addition to ours")
    cluster: Name = Field(default="local", description="the cluster whose only endpoint is this agent")
    grace: Annotated[Duration, duration_between("0s", "24h")] = Field(
        default=10.0, description="so long after TERM it is killed"
    )
    ready: ReadyConfig = Field(default_factory=ReadyConfig, description="when it gets traffic")
    recovery: RecoveryConfig = Field(default_factory=RecoveryConfig, description="symptom → action, with a limit")
