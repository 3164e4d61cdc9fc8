"""The agents that are served."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from agent_server.agents.declare import spec_of
from agent_server.core.catalogue import Catalogue, CatalogueError, load_specs
from agent_server.core.failure import Failure


def test_built_in_agents_are_found() -> None:
    assert [spec.name for spec in load_specs(["agent_server.agents.data"])] == ["data"]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("agent_server.agents.nothing", "cannot import 'agent_server.agents.nothing'"),
        ("agent_server.agents.declare", "'agent_server.agents.declare' declares no agent"),
    ],
)
def test_modules_that_cannot_be_served(module: str, text: str) -> None:
    with pytest.raises(CatalogueError, match=text):
        load_specs([module])


def test_agents_a_module_only_imports_are_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("borrower")
    module.DataAgent = load_specs(["agent_server.agents.data"])[0].cls
    monkeypatch.setitem(sys.modules, "borrower", module)
    with pytest.raises(CatalogueError, match="declares no agent"):
        load_specs(["borrower"])


def test_two_agents_of_one_name() -> None:
    spec = load_specs(["agent_server.agents.data"])[0]
    tools: Any = None
    with pytest.raises(CatalogueError, match="two agents are named 'data'"):
        Catalogue([spec, spec], tools)


def test_an_agent_must_be_named_where_there_are_several() -> None:
    spec = load_specs(["agent_server.agents.data"])[0]
    other = type(spec)("other", "", spec.cls, spec.operations)
    tools: Any = None
    catalogue = Catalogue([spec, other], tools)
    assert [each.name for each in catalogue] == ["data", "other"]
    with pytest.raises(Failure, match="must name one of: data, other"):
        catalogue.agent("")
    assert spec_of(catalogue.agent("data").cls) is spec
