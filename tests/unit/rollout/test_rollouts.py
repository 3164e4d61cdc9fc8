from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from sidecar.config.clusters import ClusterConfig
from sidecar.rollout.rollouts import NoSuchRollout, Refused, Rollouts
from sidecar.store.memory import MemoryStore
from tests.support.versions import VersionsScene


def cluster_config(**rollout: Any) -> ClusterConfig:
    versions = {"a": {"endpoints": ("10.0.0.1:50051",)}, "b": {"endpoints": ("10.0.0.2:50051",)}}
    rules = {"stable": "a", "candidate": "b", "begin": "manual", **rollout}
    return ClusterConfig.model_validate({"versions": versions, "rollout": rules}, strict=False)


class Stage:
    """Rollouts over one cluster of two versions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scene = VersionsScene(monkeypatch)
        self.store = MemoryStore(self.scene.clock)
        self.moves: list[dict[str, Any]] = []
        self.rollouts = self.another()

    def another(self) -> Rollouts:
        """Of a process that begins, with the same store."""
        return Rollouts(dataclasses.replace(self.scene.runtime, store=self.store), self.moves.append)

    async def turn(self, seconds: float = 0.0) -> None:
        self.scene.advance(seconds)
        for _ in range(20):
            await asyncio.sleep(0)
        self.scene.run()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


async def test_an_order_is_done_and_what_is_unknown_is_refused(stage: Stage) -> None:
    stage.rollouts.adopt({"agent": (cluster_config(), stage.scene.versions)})
    await stage.turn()
    assert [each["phase"] for each in stage.rollouts.all()] == ["idle"]
    assert (await stage.rollouts.order("agent", "start", by="ada"))["phase"] == "verifying"
    assert [each["by"] for each in stage.moves] == ["ada"]
    with pytest.raises(Refused, match="allowed: start, pause, resume, promote, abort"):
        await stage.rollouts.order("agent", "undo", by="ada")
    with pytest.raises(NoSuchRollout, match="'other'; known: agent"):
        stage.rollouts.one("other")
    stage.rollouts.close()
    await stage.turn(1.0)
    assert len(stage.scene.runtime.tasks) == 0


async def test_it_runs_by_itself(stage: Stage) -> None:
    stage.rollouts.adopt({"agent": (cluster_config(begin="auto", steps=(25, 100)), stage.scene.versions)})
    for _ in range(10):
        await stage.turn(0.3)
    assert stage.rollouts.one("agent")["percent"] == 25
    stage.rollouts.close()
    await stage.turn(1.0)


async def test_a_process_that_begins_asks_the_store_first(stage: Stage) -> None:
    config = cluster_config()
    stage.rollouts.adopt({"agent": (config, stage.scene.versions)})
    await stage.rollouts.order("agent", "start", by="ada")
    await stage.rollouts.order("agent", "promote", by="ada")
    stage.rollouts.close()
    later = stage.another()
    assert later.split("agent", config).percent == 0, "not asked yet"
    await later.recall({"agent": config})
    assert later.split("agent", config).percent == 100
    other = cluster_config(candidate="a", stable="b")
    assert later.split("agent", other).percent == 0, "another rollout begins anew"
    await stage.turn(1.0)


async def test_a_reload_keeps_what_is_the_same_and_closes_what_is_gone(stage: Stage) -> None:
    config, cluster = cluster_config(), stage.scene.versions
    stage.rollouts.adopt({"agent": (config, cluster)})
    await stage.rollouts.order("agent", "start", by="ada")
    stage.rollouts.adopt({"agent": (config, cluster)})
    assert stage.rollouts.one("agent")["phase"] == "verifying"
    # The same versions in a cluster that was built anew: the rollout goes on where it stood.
    longer = cluster_config(step_for=77.0)
    rebuilt = stage.scene.make(stage.rollouts.split("agent", longer))
    stage.rollouts.adopt({"agent": (longer, rebuilt)})
    assert stage.rollouts.one("agent")["phase"] == "verifying"
    stage.rollouts.adopt({})
    assert stage.rollouts.all() == []
    await stage.turn(1.0)
    assert len(stage.scene.runtime.tasks) == 0
