"""The `listeners:` section: where calls come from, and the routes they take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from sidecar.config.model import Model
from sidecar.config.policies import Policies
from sidecar.config.units import (
    METHOD_SCHEMA,
    BindAddress,
    Duration,
    FilePath,
    HostName,
    MetadataName,
    MethodPattern,
    Name,
    Size,
    TextPattern,
    duration_between,
    size_between,
)


class ListenerTlsConfig(Model):
    """TLS of a listener: what it shows, and whom it lets in."""

    certificate: FilePath = Field(description="PEM file with the certificate and what leads to its root")
    private_key: FilePath = Field(description="PEM file with the private key of the certificate")
    trusted_ca: FilePath | None = Field(
        default=None,
        description="PEM file with the CAs that sign callers; several in one file = overlap during rotation",
    )
    client_certificate: Literal["require", "optional", "none"] = Field(
        default="require", description="must a caller show a certificate: require, optional, or none"
    )
    trust_domains: tuple[HostName, ...] = Field(
        default=(),
        description="callers of other SPIFFE trust domains are refused; absent = any that a trusted CA signs",
    )
    revoked: FilePath | None = Field(
        default=None, description="file of certificate serials and identities that are refused, one per line"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.trusted_ca is None and self.client_certificate != "none":
            yield (
                "trusted_ca",
                f"is missing, but client_certificate is {self.client_certificate}; "
                "name the file of the CAs that sign callers, or set client_certificate: none",
            )


class LimitsConfig(Model):
    """What one peer, and all peers together, may use."""

    max_concurrent_streams: int = Field(
        default=1000, ge=1, le=2**31 - 1, description="RPCs at a time on one connection"
    )
    max_connections: int = Field(default=10_000, ge=1, le=1_000_000, description="connections at a time")
    max_metadata: Annotated[Size, size_between("1KiB", "1MiB")] = Field(
        default=16 * 1024, description="metadata of one RPC, as HTTP/2 counts it"
    )
    max_message: Annotated[Size, size_between("1KiB", "2GiB")] = Field(
        default=4 * 1024 * 1024, description="one message"
    )
    idle_timeout: Annotated[Duration, duration_between("1ms", "87600h")] = Field(
        default=3600.0, description="a connection without RPCs is closed after"
    )
    max_connection_age: Duration = Field(default=0.0, description="a connection is replaced after; 0s = never")
    header_timeout: Annotated[Duration, duration_between("1ms", "10m")] = Field(
        default=10.0, description="a handshake or a header block must be complete within"
    )


def _several(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


class MatchConfig(Model):
    """Which calls a route takes: all that is named must match."""

    method: Annotated[
        tuple[MethodPattern, ...],
        BeforeValidator(_several),
        WithJsonSchema({"anyOf": [METHOD_SCHEMA, {"type": "array", "minItems": 1, "items": METHOD_SCHEMA}]}),
    ] = Field(min_length=1, description="/package.Service/Method, /package.Service/Get*, /* or a list of such")
    authority: TextPattern = Field(
        default="*", description="the host the caller asked for: exact, prefix*, *suffix or *"
    )
    metadata: Mapping[MetadataName, TextPattern] = Field(
        default_factory=dict, description="metadata of the call: exact, prefix*, *suffix or * (present)"
    )

    @property
    def methods(self) -> tuple[str, ...]:
        """The patterns for the method; any of them may match."""
        return self.method


class RouteConfig(Model):
    """Where calls that match go; the first route that matches is taken."""

    name: Name = Field(description="name in logs and metrics, unique in its listener")
    match: MatchConfig = Field(description="the calls this route takes")
    to: Name = Field(description="the cluster they go to")
    policies: Policies = Field(
        default_factory=Policies, description="a policy named here replaces the listener's and the default one whole"
    )
    idempotent: bool = Field(default=False, description="the methods of this route may be repeated (retry, hedge)")


class ListenerConfig(Model):
    """An address where calls arrive."""

    name: Name = Field(description="name in logs and metrics, unique")
    direction: Literal["inbound", "outbound"] = Field(
        description="inbound: in front of our agent; outbound: from our app to the mesh"
    )
    bind: BindAddress = Field(description="where to listen: host:port or unix:/path")
    tls: ListenerTlsConfig | None = Field(default=None, description="absent = clear text")
    limits: LimitsConfig = Field(default_factory=LimitsConfig, description="what peers may use")
    policies: Policies = Field(default_factory=Policies, description="for every route of this listener")
    routes: tuple[RouteConfig, ...] = Field(min_length=1, description="the first that matches is taken")
