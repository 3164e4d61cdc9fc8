"""The `store:` section of the configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, WithJsonSchema

from sidecar.config.model import Model
from sidecar.store.sealing import Sealing
from sidecar.store.url import check_store_url

StoreUrl = Annotated[
    str,
    AfterValidator(check_store_url),
    WithJsonSchema({"type": "string", "examples": ["sqlite:///./state/sidecar.db"]}),
]


def _fernet_key(key: SecretStr) -> SecretStr:
    if key.get_secret_value():
        Sealing([key.get_secret_value()])
    return key


class EncryptionConfig(Model):
    """Keys for what is kept of calls: recorded answers."""

    keys: tuple[Annotated[SecretStr, AfterValidator(_fernet_key)], ...] = Field(
        default=(),
        description="Fernet keys, newest first: it encrypts, each decrypts; none, or empty ones: kept in clear",
    )

    def sealing(self) -> Sealing:
        """What seals and opens with these keys."""
        return Sealing([each.get_secret_value() for each in self.keys if each.get_secret_value()])


class StoreConfig(Model):
    """What is shared with other workers and hosts, and outlives this process."""

    url: StoreUrl = Field(
        description="sqlite:///./state/sidecar.db (workers of one host), redis://host:6379/0 (also rediss://, "
        "unix:///path, redis+sentinel://host:26379/service, redis+cluster://host:6379,host:6379), memory:// (tests)"
    )
