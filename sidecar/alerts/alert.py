"""One alert as it is told: what is wrong, with what, since when; or that it is over."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidecar.alerts.config import RuleConfig
    from sidecar.alerts.measures import Measure, Subject

_LONGEST_KEY = 200
"""PagerDuty takes 255 characters."""


@dataclass(frozen=True, slots=True)
class Alert:
    """A change: it fires, or it has ended. Times in seconds since the epoch."""

    key: str
    """The same for one subject of one rule at one node, always: what comes later is about the same thing."""
    name: str
    severity: str
    summary: str
    """In words, with the value that it had when it fired, or has when it is told again."""
    rule: str
    """What was judged, in the words of the file."""
    labels: Subject
    value: float
    node: str
    began: float
    ended: float | None = None
    runbook: str | None = None
    is_test: bool = False

    @property
    def is_firing(self) -> bool:
        return self.ended is None

    @property
    def state(self) -> str:
        return "firing" if self.is_firing else "resolved"

    @property
    def title(self) -> str:
        """One line for people."""
        return f"[{self.severity if self.is_firing else 'resolved'}] {self.node}: {self.summary}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "name": self.name,
            "state": self.state,
            "severity": self.severity,
            "summary": self.summary,
            "rule": self.rule,
            "labels": dict(self.labels),
            "value": self.value,
            "node": self.node,
            "began": self.began,
            "ended": self.ended,
            "runbook": self.runbook,
            "test": self.is_test,
        }


def key_of(node: str, name: str, subject: Subject) -> str:
    key = "/".join(("sidecar", node, name, *(value for _, value in subject)))
    if len(key) <= _LONGEST_KEY:
        return key
    return f"{key[: _LONGEST_KEY - 17]}~{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def condition(rule: RuleConfig) -> str:
    """`error_rate above 0.05 for 5m`."""
    from sidecar.config.units import format_duration

    where = "".join(
        f" {name} {value}" for name, value in (("of listener", rule.listener), ("of route", rule.route)) if value
    )
    bound = format_duration(rule.bound) if rule.bound.is_duration else f"{rule.bound:g}"
    how = "above" if rule.above is not None else "below"
    length = f" for {format_duration(rule.length)}" if rule.length else ""
    return f"{rule.metric}{where} {how} {bound}{length}"


def summary(rule: RuleConfig, subject: Subject, value: float) -> str:
    """What is wrong, in words."""
    measure = rule.measure
    words = dict(subject)
    said = measure.said.format_map({**words, "value": said_value(measure, value)})
    rest = [f"{name} {text}" for name, text in subject if f"{{{name}}}" not in measure.said]
    return f"{said} ({', '.join(rest)})" if rest else said


def said_value(measure: Measure, value: float) -> str:
    if measure.is_share:
        return f"{_short(value * 100)} %"
    return said_duration(value) if measure.is_duration else f"{value:g}"


def said_duration(seconds: float) -> str:
    """As people say it: one unit, few digits."""
    if seconds < 0:
        return f"−{said_duration(-seconds)}"
    for limit, length, unit in ((1, 0.001, "ms"), (120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{_short(seconds / length)} {unit}"
    return f"{_short(seconds / 86_400)} days"


def _short(value: float) -> str:
    return f"{float(f'{value:.3g}'):g}"


def said_time(at: float) -> str:
    """Wall seconds as RFC 3339, UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
