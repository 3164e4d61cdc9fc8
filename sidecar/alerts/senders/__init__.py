"""How receivers are told: each sender blocks, and is used by a thread of its receiver alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.alerts.senders.mail import Mail
from sidecar.alerts.senders.pagerduty import PagerDuty
from sidecar.alerts.senders.secret import Secret
from sidecar.alerts.senders.slack import Slack
from sidecar.alerts.senders.webhook import Webhook

if TYPE_CHECKING:
    from sidecar.alerts.config import ReceiverConfig
    from sidecar.alerts.delivery import Sender


def sender_of(config: ReceiverConfig, node: str) -> Sender:
    """The sender that `config` describes; `node` is who we are."""
    if config.email is not None:
        return Mail(config.email, config.timeout, node)
    if config.kind == "slack":
        return Slack(Secret(config.slack, config.slack_file), config)
    if config.kind == "pagerduty":
        return PagerDuty(Secret(config.pagerduty, config.pagerduty_file), config)
    return Webhook(Secret(config.webhook, config.webhook_file), config, node)
