"""A name server that is lost after the start and comes back: the endpoints that were known last go on."""

from __future__ import annotations

import pytest

from sidecar.clusters import cluster as clusters
from tests.support.cluster import ClusterScene

NAME = "agents.mesh.test:50051"


def test_the_endpoints_known_last_go_on_and_new_ones_are_found_after(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ClusterScene(monkeypatch, 2)
    first, second = (agent.address for agent in scene.agents)
    known: list[str] = [first]

    async def resolve(address: str) -> tuple[str, ...]:
        assert address == NAME
        if not known:
            raise OSError("the name server does not answer")
        return tuple(known)

    monkeypatch.setattr(clusters, "is_name", lambda address: address == NAME)
    monkeypatch.setattr(clusters, "resolve", resolve)
    monkeypatch.setattr(scene.real, "_addresses", (NAME,))
    scene.real._resolve_again()
    scene.run()
    before = scene.agents[0].calls
    assert scene.codes(4) == {0: 4}
    assert scene.agents[0].calls == before + 4
    known.clear()
    scene.advance(120)
    assert scene.real.unresolved, "it has been tried"
    assert scene.codes(4) == {0: 4}, "the endpoints that were known last go on"
    known.append(second)
    scene.advance(120)
    assert not scene.real.unresolved
    assert scene.codes(4) == {0: 4}
    assert scene.agents[1].calls == 4, "the machine behind the name has changed"
    assert scene.close() == []
