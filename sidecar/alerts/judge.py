"""From values to alerts: wrong for long enough is an alert, right for long enough is its end.

    (right) → pending → firing → (right for `resolve_after`) → over
                 ↘ right again: forgotten, nobody was told

Time comes in; nothing here waits. Each subject of a rule stands for itself.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sidecar.alerts.alert import Alert, condition, key_of, said_duration, summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.alerts.config import RuleConfig
    from sidecar.alerts.measures import Measures, Subject, Values

KEPT = 100
"""Changes that can still be looked at."""
_SUBJECTS = 25
"""Of one rule that can stand at a time: a hundred endpoints that are all open are one piece of news."""


@dataclass(slots=True)
class _Standing:
    """One subject of one rule that is not simply right."""

    value: float
    wrong_since: float
    """Monotonic seconds."""
    began: float
    """Wall seconds."""
    right_since: float | None = None
    alert: Alert | None = None
    """While it fires."""


class Judge:
    """All rules in force and where they stand."""

    def __init__(self, measures: Measures) -> None:
        self.node = ""
        self.history: deque[Alert] = deque(maxlen=KEPT)
        """Oldest first; an alert, and its end."""
        self._measures = measures
        self._rules: dict[str, RuleConfig] = {}
        self._standing: dict[str, dict[Subject, _Standing]] = {}

    def adopt(self, rules: Sequence[RuleConfig], node: str, wall: float) -> list[Alert]:
        """These are in force now. What fires by a rule that has gone or changed ends here; its ends are returned."""
        former, self._rules = self._rules, {each.name: each for each in rules}
        ended: list[Alert] = []
        for name, standing in self._standing.items():
            if self._rules.get(name) != former.get(name) or node != self.node:
                ended.extend(
                    self._ended(each, wall, "its rule has changed") for each in standing.values() if each.alert
                )
        self._standing = {
            name: self._standing.get(name, {}) if former.get(name) == rule and node == self.node else {}
            for name, rule in self._rules.items()
        }
        self.node = node
        self._measures.adopt(rules)
        self.history.extend(ended)
        return ended

    def resume(self, alerts: Sequence[Alert], now: float) -> list[Alert]:
        """These fired when we were last here: they go on, or are over in time. Those that go on."""
        resumed = []
        for alert in alerts:
            standing = self._standing.get(alert.name)
            if standing is not None and alert.node == self.node and alert.rule == condition(self._rules[alert.name]):
                standing[alert.labels] = _Standing(alert.value, now, alert.began, alert=alert)
                resumed.append(alert)
        return resumed

    def look(self, now: float, wall: float) -> list[Alert]:
        """Judge by the values of now. The alerts that began or ended by it."""
        self._measures.look(now, wall)
        changes: list[Alert] = []
        for name, rule in self._rules.items():
            changes.extend(self._judge(rule, self._standing[name], now, wall))
        self.history.extend(changes)
        return changes

    def _judge(self, rule: RuleConfig, standing: dict[Subject, _Standing], now: float, wall: float) -> list[Alert]:
        changes = []
        values = {subject: value for subject, value in self._measures.values(rule).items() if not math.isnan(value)}
        wrong = {subject: value for subject, value in values.items() if rule.is_wrong(value)}
        for subject, value in _most(rule, wrong, standing).items():
            found = standing.get(subject)
            if found is None:
                found = standing[subject] = _Standing(value, now, wall)
            found.value, found.right_since = value, None
            if found.alert is None and now - found.wrong_since >= rule.length:
                found.alert = self._alert(rule, subject, found)
                changes.append(found.alert)
            elif found.alert is not None:
                found.alert = replace(found.alert, value=value, summary=summary(rule, subject, value))
        for subject in [each for each in standing if each not in wrong]:
            found = standing[subject]
            if found.alert is None:
                del standing[subject]
                continue
            found.value = values.get(subject, found.value)
            if found.right_since is None:
                found.right_since = now
            if now - found.right_since >= rule.resolve_after:
                changes.append(self._ended(found, wall))
                del standing[subject]
        return changes

    def _alert(self, rule: RuleConfig, subject: Subject, found: _Standing) -> Alert:
        return Alert(
            key=key_of(self.node, rule.name, subject),
            name=rule.name,
            severity=rule.severity,
            summary=summary(rule, subject, found.value),
            rule=condition(rule),
            labels=subject,
            value=found.value,
            node=self.node,
            began=found.began,
            runbook=rule.runbook,
        )

    def _ended(self, found: _Standing, wall: float, why: str = "") -> Alert:
        assert found.alert is not None
        after = f"over after {said_duration(max(0.0, wall - found.began))}" + (f", as {why}" if why else "")
        return replace(found.alert, ended=wall, value=found.value, summary=f"{found.alert.summary}: {after}")

    # ── what is shown ──

    def firing(self) -> list[Alert]:
        """With the values they have now."""
        return [
            each.alert for standing in self._standing.values() for each in standing.values() if each.alert is not None
        ]

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with where it stands: ok, pending, firing."""
        shown = []
        for name, rule in self._rules.items():
            standing = self._standing[name].values()
            state = "firing" if any(each.alert for each in standing) else "pending" if standing else "ok"
            shown.append({"name": name, "rule": condition(rule), "severity": rule.severity, "state": state})
        return shown


def _most(rule: RuleConfig, wrong: Values, standing: dict[Subject, _Standing]) -> Values:
    """So many as may stand: those that do already, then the worst."""
    if len(wrong) <= _SUBJECTS:
        return wrong
    sign = -1.0 if rule.above is not None else 1.0
    order = sorted(wrong, key=lambda subject: (subject not in standing, sign * wrong[subject], subject))
    return {subject: wrong[subject] for subject in order[:_SUBJECTS]}
