"""Builds the immutable snapshot of everything configured: routes with their plans, edges, clusters. The only builder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.clusters.cluster import Cluster, ClusterRules
from sidecar.clusters.health import HealthCheckConfig
from sidecar.clusters.upstream import UpstreamOptions
from sidecar.clusters.versions import Selection, VersionedCluster
from sidecar.clusters.vitals import EndpointRules
from sidecar.config.root import effective_policies
from sidecar.control.own_health import twins
from sidecar.http2.connection import Limits
from sidecar.http2.frames import DEFAULT_MAX_FRAME
from sidecar.listeners import inbound, outbound
from sidecar.listeners.listener import Direction, ListenerOptions
from sidecar.policies import ORDER
from sidecar.proxy.edge import Edge
from sidecar.proxy.plan import Plan
from sidecar.proxy.routing import Match, RouteTable
from sidecar.rollout.launches import Launches
from sidecar.rollout.rollouts import Rollouts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.config.root import ClusterConfig, ListenerConfig, Root
    from sidecar.control.certificates import Certificates
    from sidecar.control.revocations import RevocationLists
    from sidecar.proxy.policy import Policy
    from sidecar.runtime import Runtime
    from sidecar.transport.socket import Flusher


@dataclass(frozen=True, slots=True)
class Generation:
    """Everything configured, with its number. A call keeps the one it started with, because it holds its plan."""

    number: int
    root: Root
    source_hash: str
    edges: Mapping[str, Edge]
    clusters: Mapping[str, Cluster | VersionedCluster]

    @property
    def parts(self) -> list[Cluster]:
        """The clusters, each version as one of its own."""
        return [part for cluster in self.clusters.values() for part in cluster.parts]


class Builder:
    """Makes generations. Clusters whose configuration did not change are handed on, with their connections."""

    def __init__(
        self, runtime: Runtime, flusher: Flusher, certificates: Certificates, rollouts: Rollouts | None = None
    ) -> None:
        self._runtime = runtime
        self._flusher = flusher
        self._certificates = certificates
        # Whoever only checks or explains has none that run.
        self._rollouts = rollouts or Rollouts(runtime, lambda _: None)
        self.launches = Launches(runtime)
        self._clusters: dict[str, tuple[ClusterConfig, Cluster | VersionedCluster]] = {}
        # Those of the generation that is being built.
        self._reachable: Mapping[str, Cluster | VersionedCluster] = {}
        self._number = 0

    def build(self, root: Root, *, number: int, source_hash: str) -> Generation:
        """A complete generation, nothing started. Raises ValueError naming what cannot be built; nothing has changed then."""
        clusters = {name: self._cluster(name, config) for name, config in root.clusters.items()}
        self._reachable = clusters
        self._number = number
        edges = {config.name: self._edge(root, config, clusters) for config in root.listeners}
        return Generation(number, root, source_hash, edges, clusters)

    def adopt(self, generation: Generation) -> None:
        """`generation` is in force now: start its new clusters, let the ones it lacks finish."""
        former, self._clusters = self._clusters, {}
        for name, config in generation.root.clusters.items():
            cluster = generation.clusters[name]
            self._clusters[name] = (config, cluster)
            if name not in former or former[name][1] is not cluster:
                cluster.start()
        for name, (_, cluster) in former.items():
            if name not in self._clusters or self._clusters[name][1] is not cluster:
                cluster.drain()
        versioned = {
            name: (config, cluster)
            for name, (config, cluster) in self._clusters.items()
            if isinstance(cluster, VersionedCluster)
        }
        self._rollouts.adopt(versioned)
        self.launches.adopt(versioned, self._rollouts)
        for edge in generation.edges.values():
            for plan in edge.routes.plans():
                for policy in plan.policies:
                    policy.begin(plan.cluster)
        self._runtime.kept.sweep()
        self._certificates.sweep()

    def _cluster(self, name: str, config: ClusterConfig) -> Cluster | VersionedCluster:
        context = self._certificates.for_cluster(config)
        if name in self._clusters and self._clusters[name][0] == config:
            return self._clusters[name][1]
        options = UpstreamOptions(
            connect_timeout=config.connect_timeout,
            keepalive_interval=config.keepalive.interval,
            keepalive_timeout=config.keepalive.timeout,
            context=context,
            server_name=config.tls.server_name if config.tls else None,
            verify=self._certificates.verifier(config),
        )
        if config.versions:
            return VersionedCluster(
                name,
                {version: self.launches.endpoints(name, version, each) for version, each in config.versions.items()},
                split=self._rollouts.split(name, config),
                selection=selection_of(config),
                runtime=self._runtime,
                flusher=self._flusher,
                options=options,
                connections=config.connections,
                rules=cluster_rules(config),
                rated_by=rated_by(config),
            )
        return Cluster(
            name,
            tuple(config.endpoints),
            runtime=self._runtime,
            flusher=self._flusher,
            options=options,
            connections=config.connections,
            rules=cluster_rules(config),
        )

    def _edge(self, root: Root, config: ListenerConfig, clusters: Mapping[str, Cluster | VersionedCluster]) -> Edge:
        routes = []
        for route in config.routes:
            match = Match(
                methods=tuple(route.match.methods),
                authority=route.match.authority,
                metadata=dict(route.match.metadata),
            )
            policies = effective_policies(root, config, route)
            routes.append(
                (
                    match,
                    self._plan(root, config, route.name, policies, clusters[route.to], idempotent=route.idempotent),
                )
            )
        # Calls that no route takes are refused, and seen like all others.
        common = root.policies.named() | config.policies.named()
        observers = {kind.name: common[kind.name] for kind in ORDER if kind.observes and kind.name in common}
        unrouted = self._plan(root, config, "", observers, None, idempotent=False)
        runtime = self._scoped(root, config, "")
        return Edge(
            name=config.name,
            direction=config.direction,
            routes=RouteTable(routes, unrouted, twins(routes, unrouted)),
            runtime=runtime,
        )

    def _scoped(self, root: Root, config: ListenerConfig, route: str) -> Runtime:
        return self._runtime.scoped(
            listener=config.name,
            route=route,
            direction=config.direction,
            node=root.node.name,
            generation=self._number,
        )

    def _plan(
        self,
        root: Root,
        config: ListenerConfig,
        route: str,
        configured: Mapping[str, Any],
        cluster: Cluster | VersionedCluster | None,
        *,
        idempotent: bool,
    ) -> Plan:
        runtime = self._scoped(root, config, route)
        policies: list[Policy[Any]] = []
        for kind in ORDER:
            section = configured.get(kind.name)
            if section is None and kind.always_on:
                section = kind.config_model()
            if section is None:
                continue
            try:
                policy = kind(section, runtime)
                policy.reach(self._reachable)
                policies.append(policy)
            except ValueError as error:
                where = f"listeners.{config.name}.routes.{route}.policies.{kind.name}"
                raise ValueError(f"{where}: {error}") from error
        return Plan(
            listener=config.name,
            route=route,
            policies=policies,
            cluster=cluster,
            runtime=runtime,
            max_message=config.limits.max_message,
            idempotent=idempotent,
        )


def cluster_rules(config: ClusterConfig) -> ClusterRules:
    """What a cluster demands of its endpoints, and how it chooses among them."""
    ejection, concurrency = config.outlier_ejection, config.concurrency
    health, panic_below = config.health_check, config.panic_below
    if config.rollout is not None:
        # A version that does not serve is known by its health; what it cannot take goes to the other one.
        health = health or HealthCheckConfig()
        panic_below = panic_below if "panic_below" in config.model_fields_set else 0.0
    return ClusterRules(
        balancing=config.balancing,
        slow_start=config.slow_start,
        panic_below=panic_below,
        max_ejected_percent=ejection.max_ejected_percent if ejection is not None else 0.0,
        max_in_flight=concurrency.max_in_flight if concurrency is not None else None,
        max_pending=concurrency.max_pending if concurrency is not None else 1024,
        endpoint=EndpointRules(
            breaker=config.circuit_breaker,
            ejection=ejection,
            health=health,
            penalises=config.balancing.rule == "least_request",
        ),
    )


def selection_of(config: ClusterConfig) -> Selection:
    """How calls choose among the versions of a cluster."""
    rollout = config.rollout
    if rollout is None:
        return Selection()
    override = rollout.override
    return Selection(
        sticky=None if rollout.sticky.by == "off" else rollout.sticky.by,
        override_roles=frozenset(override.roles if override is not None else ()),
        override_rules=frozenset(override.rules if override is not None else ()),
    )


def rated_by(config: ClusterConfig) -> bytes | None:
    """The trailer that tells what callers think of an answer, if the rollout is judged by it."""
    ratings = None if config.rollout is None else config.rollout.analysis.ratings
    return None if ratings is None else ratings.trailer.encode()


def listener_options(config: ListenerConfig, revocations: RevocationLists) -> ListenerOptions:
    """Raises ValueError when the revocation list cannot be read."""
    limits, tls = config.limits, config.tls
    return ListenerOptions(
        limits=Limits(
            max_concurrent_streams=limits.max_concurrent_streams,
            max_header_list=limits.max_metadata,
            # RFC 9113's own size for what callers send, so that no frame of one holds up another's for long.
            max_frame=DEFAULT_MAX_FRAME,
        ),
        max_connections=limits.max_connections,
        idle_timeout=limits.idle_timeout,
        max_connection_age=limits.max_connection_age,
        header_timeout=limits.header_timeout,
        trust_domains=frozenset(tls.trust_domains) if tls is not None else frozenset(),
        is_revoked=revocations.checker(tls.revoked if tls is not None else None),
    )


def direction_of(config: ListenerConfig, node: str) -> Direction:
    if config.direction == "inbound":
        return Direction(inbound.identify, inbound.told_agent)
    return Direction(lambda certificate: outbound.identify(certificate, node), outbound.told_agent)
