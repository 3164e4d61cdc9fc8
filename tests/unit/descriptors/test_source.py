"""Where descriptors come from: a file shared by all who read it, or the agent, followed as it changes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError

from sidecar.config.model import Model
from sidecar.descriptors import source as module
from sidecar.descriptors.descriptor_set import parse_set
from sidecar.descriptors.source import DescriptorsFrom, Fields
from sidecar.policies.mask import Mask
from tests.support.bench import of
from tests.support.descriptors import NASTY, agent_set, compiled


def runtime() -> Any:
    return of(Mask, "{fields: [a], in: [logs]}").runtime


def fields(
    where: Path | Literal["reflection"], selector: str, found: Any, side: Literal["request", "response"] = "response"
) -> Fields[bool]:
    return Fields(where, {selector: True}, found, side=side, rooted=True)


class Cluster:
    """A cluster that has no connection."""

    def __init__(self, name: str = "local") -> None:
        self.name = name

    def connection(self) -> None:
        return None


def test_requests_and_responses_have_types_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "a.binpb"
    file.write_bytes(agent_set())
    for side, selector, name in (("request", "task", "ExecuteRequest"), ("response", "result", "ExecuteResponse")):
        view = fields(file, selector, runtime(), side).view  # type: ignore[arg-type]
        assert view is not None
        found = view.type("/agent.v1.AgentService/Execute")
        assert found is not None
        assert found.name == f"agent.v1.{name}"
        assert view.type("/agent.v1.AgentService/Execute") is found
        assert view.type("/agent.v1.AgentService/Nothing") is None


def test_a_file_is_parsed_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    monkeypatch.setattr(module, "parse_set", lambda data: parsed.append(1) or parse_set(data))
    file = tmp_path / "a.binpb"
    file.write_bytes(compiled(NASTY))
    shared = runtime()
    one, other = fields(file, "password", shared), fields(file, "ssn", shared)
    assert len(parsed) == 1
    file.write_bytes(compiled(NASTY.replace("message Plain", "message Extra {} message Plain")))
    assert one.reload()
    assert other.reload()
    assert not one.reload()
    assert len(parsed) == 2


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST", 10)
    file = tmp_path / "a.binpb"
    file.write_bytes(bytes(11))
    with pytest.raises(ValueError, match="is larger than"):
        fields(file, "a", runtime())


def test_the_agents_descriptors_are_followed() -> None:
    found = fields("reflection", "password", runtime())
    assert found.files == ()
    assert not found.reload()
    assert found.view is None
    assert found.problem == "the route leads nowhere yet"
    found.begin(None)
    found.begin(Cluster())
    assert found.view is None
    assert found.problem == "the agent has not been asked yet"
    reflection = found._reflection
    assert reflection is not None
    reflection.current = parse_set(compiled(NASTY))
    first = found.view
    assert first is not None
    assert found.view is first
    reflection.current = parse_set(compiled(NASTY))
    assert found.view is not first


def test_what_the_agent_lacks_leaves_no_view(caplog: pytest.LogCaptureFixture) -> None:
    found = fields("reflection", "password", runtime())
    found.begin(Cluster())
    assert found._reflection is not None
    found._reflection.problem = ""
    found._reflection.current = parse_set(agent_set())
    with caplog.at_level(logging.ERROR):
        assert found.view is None
        assert found.view is None
    assert [record.message for record in caplog.records] == ["the agent's descriptors lack what is configured"]
    assert found.problem == "what is configured is not in what the agent describes"
    found._reflection.current = parse_set(compiled(NASTY))
    assert found.view is not None


def test_routes_to_one_cluster_share_what_it_says() -> None:
    shared = runtime()
    one, other, third = (fields("reflection", "password", shared) for _ in range(3))
    one.begin(Cluster())
    other.begin(Cluster())
    third.begin(Cluster("another"))
    assert one._reflection is other._reflection
    assert one._reflection is not third._reflection


class Section(Model):
    descriptors: DescriptorsFrom


@pytest.mark.parametrize(
    ("text", "value"), [("reflection", "reflection"), ("./reflection", Path("/x/reflection")), ("a.b", Path("/x/a.b"))]
)
def test_in_the_file(text: str, value: object) -> None:
    section: BaseModel = Section.model_validate({"descriptors": text}, context={"directory": "/x"})
    assert section.descriptors == value  # type: ignore[attr-defined]


def test_neither_a_path_nor_reflection() -> None:
    with pytest.raises(ValidationError, match="is not a path"):
        Section.model_validate({"descriptors": 5})
