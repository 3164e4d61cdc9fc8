"""Header changes by configuration: fields that every request to the agent carries, and fields that end here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sidecar.config.model import Model
from sidecar.config.units import MetadataName, MetadataValue
from sidecar.http2.hpack import encode_field
from sidecar.proxy.policy import Policy

if TYPE_CHECKING:
    from sidecar.proxy.call import Call
    from sidecar.runtime import Runtime


class HeadersConfig(Model):
    """Request metadata to set and to remove."""

    set: dict[MetadataName, MetadataValue] = Field(
        default_factory=dict, description="fields the agent gets, replacing the caller's"
    )
    remove: tuple[MetadataName, ...] = Field(default=(), description="fields of the caller that the agent does not get")


class Headers(Policy[HeadersConfig]):
    """Rewrites what goes upstream; what the caller sent stays visible to the policies."""

    name = "headers"
    config_model = HeadersConfig

    def __init__(self, config: HeadersConfig, runtime: Runtime) -> None:
        self._set = [encode_field(name.encode(), value.encode()) for name, value in config.set.items()]
        self._gone = frozenset(name.encode() for name in (*config.set, *config.remove))

    def on_request(self, call: Call) -> None:
        gone = self._gone
        call.fields = [field for field in call.fields if field[0] not in gone]
        call.fields += self._set
