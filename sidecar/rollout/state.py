"""Where a rollout stands, as it is kept in the store: a restart, or another sidecar, goes on from here."""

from __future__ import annotations

import enum
import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.rollout.config import RolloutConfig, VersionConfig

_HISTORY = 20


class Phase(enum.Enum):
    """What is being done with the candidate."""

    IDLE = "idle"
    VERIFYING = "verifying"
    PROGRESSING = "progressing"
    PAUSED = "paused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"


RUNNING = frozenset({Phase.VERIFYING, Phase.PROGRESSING, Phase.PAUSED})


@dataclass(frozen=True, slots=True)
class Transition:
    """One change, with the figures that decided it; `at` in seconds since the epoch, `percent` the candidate's share after it."""

    at: float
    phase: str
    percent: float
    reason: str
    by: str
    figures: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class State:
    """All that a sidecar needs to know to go on. Durations in seconds."""

    revision: str
    """Which versions this is about; others begin anew."""
    number: int = 0
    """Rises with every change, so that whoever reads it knows whether anything has."""
    run: int = 0
    """How often this was started."""
    phase: Phase = Phase.IDLE
    step: int = -1
    """Index of the step that is in force; -1 = the candidate gets nothing yet."""
    served: float = 0.0
    """How long this step (or, before the first, the verification) has been in force, pauses left out."""
    failed_checks: int = 0
    passed: bool = False
    """Has an analysis of this step passed last?"""
    gates: tuple[float | str, ...] = ()
    """Manual gates that a person has opened."""
    waits_for: str | None = None
    """The gate at which it is paused; None = a person paused it, or it is not paused."""
    percent: float = 0.0
    """What the candidate gets now."""
    is_rescue: bool = False
    """Stable cannot serve, so the candidate gets everything."""
    since: float = 0.0
    """When this phase and step began, in seconds since the epoch."""
    kept_until: float | None = None
    """Until when the version that lost is kept, in seconds since the epoch; None = for as long as this state."""
    reference: Mapping[str, Any] | None = None
    """The last counts of stable that were enough to compare with (`Counts.as_dict`)."""
    history: tuple[Transition, ...] = ()

    @property
    def reason(self) -> str:
        """Why it stands where it stands."""
        return self.history[-1].reason if self.history else "nothing was rolled out yet"

    @property
    def is_running(self) -> bool:
        return self.phase in RUNNING

    def moved(
        self,
        phase: Phase,
        percent: float,
        reason: str,
        by: str,
        at: float,
        figures: Mapping[str, Any] | None,
        **more: Any,
    ) -> State:
        """The state after a transition, which is noted."""
        entry = Transition(at, phase.value, percent, reason, by, figures)
        history = (*self.history, entry)[-_HISTORY:]
        # Figures of long ago are in the log; the record stays small.
        history = (*(replace(each, figures=None) for each in history[:-3]), *history[-3:])
        return replace(self, phase=phase, percent=percent, since=at, history=history, number=self.number + 1, **more)

    def encoded(self) -> bytes:
        data = asdict(self)
        data["phase"] = self.phase.value
        return json.dumps(data, separators=(",", ":")).encode()

    @staticmethod
    def decoded(record: bytes) -> State:
        """What `encoded` gave. Raises ValueError for what is none, or is of a sidecar that knows more."""
        try:
            data = json.loads(record)
            known = {each.name for each in fields(State)}
            if not isinstance(data, dict) or not known.issuperset(data):
                raise ValueError("fields that are not known")
            history = tuple(Transition(**each) for each in data.pop("history"))
            phase = Phase(data.pop("phase"))
            gates = tuple(data.pop("gates"))
            return State(**data, phase=phase, gates=gates, history=history)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"is no state of a rollout: {error}") from None


def revision_of(config: RolloutConfig, versions: Mapping[str, VersionConfig]) -> str:
    """What tells one rollout from the next: its two versions, and where or how they run. Steps and bounds may change on the way."""
    what = [
        (name, sorted(versions[name].endpoints), list(agent.command) if (agent := versions[name].agent) else None)
        for name in (config.stable, config.candidate)
    ]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
