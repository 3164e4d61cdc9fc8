"""The agents that are served, and finding the operation a call means."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING

from agent_server.agents.declare import Agent, AgentSpec, Kind, OperationSpec, spec_of
from agent_server.core.failure import invalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agent_server.tools.toolbox import Toolbox


class CatalogueError(Exception):
    """A module that was named in the setting `agents` cannot be served; the text says which and why."""


class Catalogue:
    """Agents by name."""

    def __init__(self, specs: Iterable[AgentSpec], tools: Toolbox) -> None:
        self._specs: dict[str, AgentSpec] = {}
        self._agents: dict[str, Agent] = {}
        for spec in specs:
            if spec.name in self._specs:
                msg = f"two agents are named {spec.name!r}: {self._specs[spec.name].cls!r} and {spec.cls!r}"
                raise CatalogueError(msg)
            self._specs[spec.name] = spec
            self._agents[spec.name] = spec.cls(tools)

    def __iter__(self) -> Iterator[AgentSpec]:
        return iter(sorted(self._specs.values(), key=lambda spec: spec.name))

    def agent(self, name: str) -> AgentSpec:
        """The agent of that name; an empty name means the only one. Raises Failure INVALID_ARGUMENT."""
        if not name:
            if len(self._specs) == 1:
                return next(iter(self._specs.values()))
            raise invalid("agent", f"must name one of: {', '.join(sorted(self._specs))}", reason="AGENT_UNKNOWN")
        spec = self._specs.get(name)
        if spec is None:
            served = ", ".join(sorted(self._specs))
            raise invalid("agent", f"no agent is named {name!r}; there is: {served}", reason="AGENT_UNKNOWN")
        return spec

    def operation(self, spec: AgentSpec, name: str, kind: Kind, *, has_text: bool = False) -> OperationSpec:
        """The operation of that name and kind. An empty name means the one that takes text (if there is text), or the only one.

        Raises Failure INVALID_ARGUMENT.
        """
        of_kind = [each for each in spec.operations.values() if each.kind is kind]
        if name:
            found = spec.operations.get(name)
            if found is None:
                served = ", ".join(each.name for each in of_kind)
                text = f"agent {spec.name} has no operation {name!r}; it has: {served}"
                raise invalid("operation", text, reason="OPERATION_UNKNOWN")
            if found.kind is not kind:
                rpc = "Ingest" if found.kind is Kind.INGEST else "Execute or ExecuteStream"
                raise invalid("operation", f"{name!r} is called by {rpc}", reason="OPERATION_UNKNOWN")
            return found
        fitting = [each for each in of_kind if each.text_parameter] if has_text else of_kind
        if len(fitting) == 1:
            return fitting[0]
        raise invalid(
            "operation", f"must name one of: {', '.join(each.name for each in of_kind)}", reason="OPERATION_UNKNOWN"
        )

    def instance(self, spec: AgentSpec) -> Agent:
        """The agent itself."""
        return self._agents[spec.name]


def load_specs(modules: Iterable[str]) -> list[AgentSpec]:
    """Import modules and collect the agents they declare. Raises CatalogueError naming the module."""
    specs = []
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            msg = f"agents: cannot import {name!r}: {error}"
            raise CatalogueError(msg) from error
        except TypeError as error:
            msg = f"agents: {name}: {error}"
            raise CatalogueError(msg) from error
        declared = [
            spec
            for _, cls in inspect.getmembers(module, inspect.isclass)
            if cls.__module__ == module.__name__ and issubclass(cls, Agent) and (spec := spec_of(cls))
        ]
        if not declared:
            msg = f"agents: {name!r} declares no agent"
            raise CatalogueError(msg)
        specs += declared
    return specs
