"""A scene before a cluster of two versions, `a` and `b`, with one scripted agent each, and what drives a rollout there."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sidecar.clusters.upstream import UpstreamOptions
from sidecar.clusters.versions import Selection, Split, VersionedCluster
from sidecar.rollout.config import RolloutConfig
from sidecar.transport.socket import Flusher
from tests.support.cluster import Agent, ClusterScene


def rollout_config(**more: Any) -> RolloutConfig:
    base = {"stable": "a", "candidate": "b", "steps": (50, 100), "first_step_for": 1.0, "step_for": 1.0}
    analysis = {"interval": 0.2, "min_rpcs": 10, "compare_to_stable": None}
    return RolloutConfig.model_validate({**base, "analysis": analysis, **more}, strict=False)


class VersionsScene(ClusterScene):
    """`versions` is where its route leads; `stable` and `candidate` are the two agents."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        split: Split | None = None,
        selection: Selection | None = None,
        **more: Any,
    ) -> None:
        super().__init__(monkeypatch, 2, **more)
        self.real.close()
        self.run()
        self.versions = self.make(split or Split("a", "b"), selection or Selection())
        self.plan.cluster = self.versions
        self.run()

    def make(self, split: Split, selection: Selection | None = None) -> VersionedCluster:
        """Another cluster of the same two agents."""
        made = VersionedCluster(
            "agent",
            dict(zip("ab", [(each,) for each in self.net.agents], strict=True)),
            split=split,
            selection=selection or Selection(),
            runtime=dataclasses.replace(self.runtime, tasks=self.loop),
            flusher=Flusher(self.loop),  # type: ignore[arg-type]  # as much of a loop as it uses
            options=UpstreamOptions(),
            rules=self.real.rules,
        )
        made.start()
        return made

    @property
    def stable(self) -> Agent:
        return self.agents[0]

    @property
    def candidate(self) -> Agent:
        return self.agents[1]
