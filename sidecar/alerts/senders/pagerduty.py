"""PagerDuty, Events API v2: one event for each alert; the same `dedup_key` opens, repeats and resolves one incident."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.alerts.alert import said_time
from sidecar.alerts.senders.http import post

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.alerts.alert import Alert
    from sidecar.alerts.config import ReceiverConfig
    from sidecar.alerts.senders.secret import Secret

_SEVERITIES = {"critical": "critical", "warning": "warning", "notice": "info"}
_LONGEST_SUMMARY = 1024


class PagerDuty:
    kind = "pagerduty"
    batch = 1

    def __init__(self, key: Secret, config: ReceiverConfig) -> None:
        self._key = key
        self._config = config

    def send(self, alerts: Sequence[Alert]) -> None:
        config = self._config
        for alert in alerts:
            post(config.url, event(alert, self._key.read()), timeout=config.timeout, trusted_ca=config.trusted_ca)


def event(alert: Alert, routing_key: str) -> dict[str, Any]:
    """The body of one event."""
    found: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": "trigger" if alert.is_firing else "resolve",
        "dedup_key": alert.key,
        "payload": {
            "summary": alert.title[:_LONGEST_SUMMARY],
            "source": alert.node,
            "severity": _SEVERITIES.get(alert.severity, "info"),
            "timestamp": said_time(alert.began if alert.ended is None else alert.ended),
            "component": "sidecar",
            "class": alert.name,
            "custom_details": {"rule": alert.rule, "value": alert.value, **dict(alert.labels)},
        },
    }
    if alert.runbook is not None:
        found["links"] = [{"href": alert.runbook, "text": "what to do"}]
    return found
