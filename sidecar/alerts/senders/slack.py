"""An incoming webhook of Slack: one message, with a coloured bar for each alert."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.alerts.alert import said_time
from sidecar.alerts.senders.http import post

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.alerts.alert import Alert
    from sidecar.alerts.config import ReceiverConfig
    from sidecar.alerts.senders.secret import Secret

_COLOURS = {"critical": "#c62828", "warning": "#ef8f00", "notice": "#607d8b"}
_RESOLVED = "#2e7d32"
_LONGEST = 2000


class Slack:
    kind = "slack"
    batch = 20

    def __init__(self, url: Secret, config: ReceiverConfig) -> None:
        self._url = url
        self._config = config

    def send(self, alerts: Sequence[Alert]) -> None:
        text = escaped(alerts[0].title) if len(alerts) == 1 else f"{len(alerts)} alerts of {escaped(alerts[0].node)}"
        body = {"text": text, "attachments": [_attachment(each) for each in alerts]}
        post(self._url.read(), body, timeout=self._config.timeout, trusted_ca=self._config.trusted_ca)


def _attachment(alert: Alert) -> dict[str, Any]:
    lines = [escaped(alert.summary), f"_{escaped(alert.rule)}_, since {said_time(alert.began)}"]
    if alert.runbook is not None:
        lines.append(f"<{alert.runbook}|what to do>")
    return {
        "color": _COLOURS.get(alert.severity, _COLOURS["notice"]) if alert.is_firing else _RESOLVED,
        "fallback": escaped(alert.title),
        "title": escaped(f"{alert.name} {alert.state}"),
        "text": "\n".join(lines),
        "mrkdwn_in": ["text"],
    }


def escaped(text: str) -> str:
    """Slack takes these three characters for its own; nothing else is (docs.slack.dev, "Formatting message text")."""
    return text[:_LONGEST].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
