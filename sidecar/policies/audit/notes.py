"""Records of what is no call: decisions about the mesh itself, which belong into the same chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.policies.audit.policy import Audit
from sidecar.policies.audit.trail import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sidecar.policies.audit.trail import TrailSettings
    from sidecar.proxy.policy import Policy


class Note:
    """A record that is complete already."""

    __slots__ = ("_record", "settings")

    def __init__(self, settings: TrailSettings, record: dict[str, Any]) -> None:
        self.settings = settings
        self._record = record

    def describe(self, wall_offset: float) -> dict[str, Any]:
        return self._record


def note(policies: Iterable[Policy[Any]], kind: str, facts: Mapping[str, Any], wall: float) -> None:
    """Append `facts` to every audit log that `policies` write, once each; `wall` in seconds since the epoch."""
    record = {"kind": kind, "time": rfc3339(wall), **facts}
    seen = set()
    for policy in policies:
        if isinstance(policy, Audit) and policy.writer not in seen:
            seen.add(policy.writer)
            # Never sampled, never dropped: there are few of them.
            policy.writer.queue.append(Note(policy.settings, record))
            if policy.writer.asleep:
                policy.writer.wake()
