"""What is known of both versions since a step began: this sidecar's tallies, and what the others that share the store have told.

Counts are told as sums since the step began, so that a message that is lost or comes twice changes nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sidecar.clusters.tally import NOTHING, Counts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.clusters.versions import VersionedCluster

_FORGOTTEN_AFTER = 60.0
"""Seconds after which what a sidecar has told, and does not repeat, is left out of the register."""


class Evidence:
    """Of one cluster in one step; `enter` begins the next."""

    def __init__(self, cluster: VersionedCluster, owner: str) -> None:
        self._cluster = cluster
        self._owner = owner
        self._step = ""
        self._began: dict[str, Counts] = {}
        self._window: dict[str, Counts] = {}
        # By sidecar, by version; kept until the step ends, so that sums never fall.
        self._others: dict[str, dict[str, Counts]] = {}

    def enter(self, step: str, now: float) -> None:
        """Forget what was; `step` names the one that begins for all who share it."""
        self._step = step
        self._began = {each.name: each.tally.counts(now) for each in self._cluster.versions.values()}
        self._others.clear()
        self._window = dict.fromkeys(self._began, NOTHING)

    def own(self, version: str, now: float) -> Counts:
        """Since the step began, at this sidecar."""
        return self._cluster.versions[version].tally.counts(now) - self._began.get(version, NOTHING)

    def all(self, version: str, now: float) -> Counts:
        """Since the step began, at all that share it."""
        found = self.own(version, now)
        for told in self._others.values():
            found += told.get(version, NOTHING)
        return found

    def window(self, version: str, now: float) -> Counts:
        """Since the last conclusive check, or since the step began."""
        return self.all(version, now) - self._window.get(version, NOTHING)

    def conclude(self, now: float) -> None:
        """The next window begins."""
        self._window = {name: self.all(name, now) for name in self._window}

    # ── the register of all ──

    def told(self, record: bytes | None, now: float, at: float) -> bytes:
        """`record` with what this sidecar has counted; `at` in seconds since the epoch."""
        entries = {
            owner: entry
            for owner, entry in _entries(record).items()
            if owner != self._owner and at - float(entry.get("at", 0)) < _FORGOTTEN_AFTER
        }
        versions = {name: self.own(name, now).as_dict() for name in self._began}
        entries[self._owner] = {"at": at, "step": self._step, "versions": versions}
        return json.dumps(entries, separators=(",", ":")).encode()

    def hear(self, record: bytes | None) -> None:
        """Take in what the others have counted in this step."""
        for owner, entry in _entries(record).items():
            if owner == self._owner or entry.get("step") != self._step:
                continue
            try:
                self._others[owner] = {name: Counts.of(counts) for name, counts in entry["versions"].items()}
            except (KeyError, TypeError, ValueError, AttributeError):
                # Of a sidecar that counts otherwise; its RPCs are judged by nobody but itself.
                continue


def _entries(record: bytes | None) -> dict[str, Mapping[str, Any]]:
    try:
        found = json.loads(record or b"{}")
    except ValueError:
        return {}
    return (
        {owner: entry for owner, entry in found.items() if isinstance(entry, dict)} if isinstance(found, dict) else {}
    )
