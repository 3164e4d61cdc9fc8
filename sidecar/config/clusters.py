"""The `clusters:` section: where calls go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from sidecar.clusters.balancing import Balancing, BalancingRule
from sidecar.clusters.breaker import CircuitBreakerConfig
from sidecar.clusters.concurrency import ConcurrencyConfig
from sidecar.clusters.ejection import OutlierEjectionConfig
from sidecar.clusters.health import HealthCheckConfig
from sidecar.config.model import Model
from sidecar.config.units import Address, Duration, FilePath, HostName, IdentityPattern, Name, Percent, duration_between
from sidecar.rollout.config import RolloutConfig, VersionConfig


class ClusterTlsConfig(Model):
    """TLS towards a cluster: what we show, and whom we believe to be there."""

    certificate: FilePath | None = Field(default=None, description="PEM file with our certificate; needs private_key")
    private_key: FilePath | None = Field(default=None, description="PEM file with the private key of the certificate")
    trusted_ca: FilePath = Field(description="PEM file with the CAs that sign the endpoints")
    peer_identities: tuple[IdentityPattern, ...] = Field(
        default=(), description="whom an endpoint's certificate may name; absent = its host name is checked instead"
    )
    server_name: HostName | None = Field(
        default=None,
        description="name asked for in the handshake (SNI) and looked for in the certificate; default: the host",
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.certificate is not None and self.private_key is None:
            yield "private_key", "is missing, but there is a certificate; name the file of its private key"
        if self.private_key is not None and self.certificate is None:
            yield "certificate", "is missing, but there is a private_key; name the file of its certificate"


class KeepaliveConfig(Model):
    """PING on connections that have been silent, so that a dead peer is noticed (gRFC A8)."""

    # gRFC A8: a server may end connections that ask more often than every 5 minutes.
    interval: Annotated[Duration, duration_between("10s", "24h")] = Field(
        default=300.0, description="ask after so much silence"
    )
    timeout: Annotated[Duration, duration_between("10ms", "10m")] = Field(
        default=20.0, description="a connection that does not answer within is dead"
    )


class ClusterConfig(Model):
    """A set of endpoints that serve the same."""

    endpoints: tuple[Address, ...] = Field(
        default=(), min_length=1, description="host:port (DNS names are resolved again and again) or unix:/path"
    )
    versions: Mapping[Name, VersionConfig] = Field(
        default_factory=dict, description="in place of endpoints: several versions side by side, by name"
    )
    rollout: RolloutConfig | None = Field(
        default=None, description="how one version takes over from another; absent = everything to the first version"
    )
    tls: ClusterTlsConfig | None = Field(default=None, description="absent = clear text (h2c)")
    connections: int = Field(default=1, ge=1, le=64, description="HTTP/2 connections per endpoint")
    keepalive: KeepaliveConfig = Field(default_factory=KeepaliveConfig, description="PINGs on silent connections")
    connect_timeout: Annotated[Duration, duration_between("1ms", "5m")] = Field(
        default=5.0, description="a connection, with its handshake, must stand within"
    )
    balancing: BalancingRule = Field(
        default=Balancing(), description="round_robin, least_request, or ring_hash: {key: identity or metadata.NAME}"
    )
    slow_start: Annotated[Duration, duration_between("0s", "1h")] = Field(
        default=0.0, description="an endpoint that has just come gets its full share only after; 0s = at once"
    )
    panic_below: Percent = Field(
        default=50.0,
        description="when fewer of the connected endpoints (percent) are fit, health and ejection are ignored; 0 = never",
    )
    health_check: HealthCheckConfig | None = Field(default=None, description="ask endpoints whether they can serve")
    outlier_ejection: OutlierEjectionConfig | None = Field(
        default=None, description="leave out endpoints that do worse than they should"
    )
    circuit_breaker: CircuitBreakerConfig | None = Field(
        default=None, description="send nothing to an endpoint that fails, until a probe succeeds"
    )
    concurrency: ConcurrencyConfig | None = Field(
        default=None, description="how much may run and wait at a time; absent = no limit but 1024 that wait"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from self._where()
        for index, endpoint in enumerate(self.endpoints):
            first = self.endpoints.index(endpoint)
            if first < index:
                yield f"endpoints.{index}", f"is given twice (as endpoints.{first}, too); keep one of them"
        if self.tls and not self.tls.peer_identities and not self.tls.server_name:
            for index, endpoint in enumerate(self.endpoints):
                if endpoint.startswith("unix:"):
                    yield (
                        f"endpoints.{index}",
                        "has no host name to look for in its certificate; set tls.peer_identities or tls.server_name",
                    )

    def _where(self) -> Iterator[tuple[str, str]]:
        if not self.endpoints and not self.versions:
            yield "endpoints", "is required; add it (or versions: where it runs, by version)"
        if self.endpoints and self.versions:
            yield "versions", "stand beside endpoints; give one of them"
        if self.rollout is None:
            return
        for field, version in (("stable", self.rollout.stable), ("candidate", self.rollout.candidate)):
            if version not in self.versions:
                known = ", ".join(self.versions) or "none"
                yield f"rollout.{field}", f"is no version of this cluster; known: {known}"
