"""A webhook gets everything as JSON: `{"version": 1, "node": …, "state": "firing" | "resolved", "alerts": [{…}, …]}`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.alerts.senders.http import post

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.alerts.alert import Alert
    from sidecar.alerts.config import ReceiverConfig
    from sidecar.alerts.senders.secret import Secret


class Webhook:
    kind = "webhook"
    batch = 50

    def __init__(self, url: Secret, config: ReceiverConfig, node: str) -> None:
        self._url = url
        self._config = config
        self._node = node

    def send(self, alerts: Sequence[Alert]) -> None:
        config = self._config
        body = {
            "version": 1,
            "node": self._node,
            "state": "firing" if any(each.is_firing for each in alerts) else "resolved",
            "alerts": [each.as_dict() for each in alerts],
        }
        headers = {name: value.get_secret_value() for name, value in config.headers.items()}
        post(self._url.read(), body, timeout=config.timeout, headers=headers, trusted_ca=config.trusted_ca)
