"""The `store:` section of the configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from sidecar.config.model import Model
from sidecar.store.url import check_store_url

StoreUrl = Annotated[
    str,
    AfterValidator(check_store_url),
    WithJsonSchema({"type": "string", "examples": ["sqlite:///./state/sidecar.db"]}),
]


class StoreConfig(Model):
    """What is shared with other workers and hosts, and outlives this process."""

    url: StoreUrl = Field(
        description="sqlite:///./state/sidecar.db (workers of one host), redis://host:6379/0 (also rediss://, "
        "unix:///path, redis+sentinel://host:26379/service), memory:// (tests)"
    )
