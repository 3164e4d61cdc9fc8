"""The whole file: joins the models of the sections with those of the policies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, Field, SecretStr, create_model

from sidecar.alerts.config import AlertsConfig
from sidecar.config.clusters import ClusterConfig
from sidecar.config.listeners import ListenerConfig, RouteConfig
from sidecar.config.model import Model
from sidecar.config.policies import Configured, Policies, policies_model
from sidecar.config.redaction import redacted
from sidecar.config.units import BindAddress, Duration, HostName, Name, is_loopback
from sidecar.store.config import EncryptionConfig, StoreConfig
from sidecar.supervision.config import AgentConfig

__all__ = [
    "AdminConfig",
    "AgentConfig",
    "AlertsConfig",
    "ClusterConfig",
    "EncryptionConfig",
    "ListenerConfig",
    "NodeConfig",
    "Root",
    "RouteConfig",
    "build_root",
    "default_root",
    "effective_policies",
    "redacted",
]

M = TypeVar("M", bound=Model)


def _without_default(schema: dict[str, Any]) -> None:
    """The default is the host name, which is not the same everywhere."""
    del schema["default"]


class NodeConfig(Model):
    """Who this sidecar is."""

    name: HostName = Field(
        default="",
        description="name of this sidecar in metrics, logs and records; default: the host name",
        json_schema_extra=_without_default,
    )


class AdminConfig(Model):
    """The admin endpoint: probes, metrics, state, drain."""

    bind: BindAddress = Field(default="127.0.0.1:9901", description="loopback or unix:/path, unless there is a token")
    token: SecretStr | None = Field(
        default=None, min_length=16, description="bearer token that every request but the probes must carry"
    )

    grpc: BindAddress | None = Field(
        default=None, description="where the gRPC service sidecar.v1.Admin is served; absent = it is not"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        for field, address in (("bind", self.bind), ("grpc", self.grpc)):
            if self.token is None and address is not None and not is_loopback(address):
                yield field, "can be reached from other machines; bind to 127.0.0.1 or unix:/path, or set admin.token"


class Root(Model):
    """Configuration of a sidecar."""

    node: NodeConfig = Field(default_factory=NodeConfig, description="who this sidecar is")
    admin: AdminConfig = Field(default_factory=AdminConfig, description="probes, metrics, state, drain")
    store: StoreConfig | None = Field(None, description="what workers and hosts share; default: nothing is shared")
    encryption: EncryptionConfig = Field(
        default_factory=EncryptionConfig, description="of what is kept of calls in the store"
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="processes that share the ports; what is to hold across them needs `store` and `shared: true`",
    )
    drain_timeout: Duration = Field(
        default=30.0, description="RPCs in flight get so long to finish when the sidecar stops"
    )
    listeners: tuple[ListenerConfig, ...] = Field(min_length=1, description="where calls come from")
    policies: Policies = Field(default_factory=Policies, description="defaults for every route of every listener")
    clusters: Mapping[Name, ClusterConfig] = Field(default_factory=dict, description="where calls go, by name")
    agent: AgentConfig | None = Field(default=None, description="the agent's process, if we are to start and watch it")
    alerts: AlertsConfig = Field(default_factory=AlertsConfig, description="what people are told, and how")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.admin.grpc is not None and self.workers > 1:
            yield "admin.grpc", "is not served by several workers; set workers: 1, or use the admin pages"
        if self.workers > 1 and (self.store is None or self.store.url == "memory://"):
            for name, each in self.clusters.items():
                if each.rollout is not None:
                    yield f"clusters.{name}.rollout", "needs a `store` that the workers share, to lead as one"
        for name, each in self.clusters.items():
            if self.workers > 1 and any(version.agent is not None for version in each.versions.values()):
                yield (
                    f"clusters.{name}.versions",
                    "cannot be started by several workers; set workers: 1, or name endpoints",
                )
        yield from self._unknown_to_alerts()
        if self.agent is None:
            return
        cluster = self.clusters.get(self.agent.cluster)
        if cluster is None:
            known = ", ".join(sorted(self.clusters)) or "none"
            yield "agent.cluster", f"is no cluster; known: {known}"
        elif len(cluster.endpoints) != 1:
            yield "agent.cluster", "has not just one endpoint, so which of them the agent is cannot be known"
        if self.workers > 1:
            yield "agent", "cannot be supervised by several workers; set workers: 1"

    def _unknown_to_alerts(self) -> Iterator[tuple[str, str]]:
        """A rule about what does not exist would never fire."""
        listeners = {each.name: {route.name for route in each.routes} for each in self.listeners}
        routes = set().union(*listeners.values())
        for i, rule in enumerate(self.alerts.rules):
            if rule.listener is not None and rule.listener not in listeners:
                yield f"alerts.rules.{i}.listener", f"is no listener; known: {', '.join(sorted(listeners))}"
            elif rule.route is not None and rule.route not in listeners.get(rule.listener or "", routes):
                known = ", ".join(sorted(listeners.get(rule.listener or "", routes)))
                yield f"alerts.rules.{i}.route", f"is no route there; known: {known}"


def build_root(order: Iterable[type[Configured]]) -> type[Root]:
    """The model of the whole file, with a field for each of these policies on every level that may name policies."""
    policies = policies_model(order)
    route = _with(RouteConfig, policies=policies)
    listener = _with(ListenerConfig, policies=policies, routes=tuple[route, ...])  # type: ignore[valid-type]
    return _with(Root, policies=policies, listeners=tuple[listener, ...])  # type: ignore[valid-type]


@cache
def default_root() -> type[Root]:
    """The model of the whole file with the policies that are built in."""
    # Not above: policies take their `Model` from this package.
    from sidecar.policies import ORDER

    return build_root(ORDER)


def effective_policies(root: Root, listener: ListenerConfig, route: RouteConfig) -> dict[str, BaseModel]:
    """The policies of a route by name: its own, else the listener's, else the default ones; each replaced whole.

    In the order of enforcement.
    """
    named = root.policies.named() | listener.policies.named() | route.policies.named()
    order = (field.alias or name for name, field in type(root.policies).model_fields.items())
    return {name: named[name] for name in order if name in named}


def _with(base: type[M], **types: Any) -> type[M]:
    """`base` with other types for some fields; what is said of them stays."""
    fields: dict[str, Any] = {}
    for name, annotation in types.items():
        about = base.model_fields[name].description
        is_section = isinstance(annotation, type) and issubclass(annotation, Policies)
        how = (
            Field(default_factory=annotation, description=about)
            if is_section
            else Field(min_length=1, description=about)
        )
        fields[name] = (annotation, how)
    return create_model(base.__name__, __base__=base, __doc__=base.__doc__, **fields)
