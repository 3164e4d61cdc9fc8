"""The `policies:` section, built from the list of policies: a field for each, whose model stands beside its code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, Field, create_model

from sidecar.config.model import Model


class Configured(Protocol):
    """What is asked of a policy class here."""

    name: ClassVar[str]
    config_model: ClassVar[type[Any]]
    always_on: ClassVar[bool]


class Policies(Model):
    """Policies by name; one that is absent is taken from the level above, or is off."""

    def named(self) -> dict[str, BaseModel]:
        """The policies that are named here, in the order of enforcement."""
        return {
            field.alias or name: value
            for name, field in type(self).model_fields.items()
            if isinstance(value := getattr(self, name), BaseModel)
        }


def policies_model(order: Iterable[type[Configured]]) -> type[Policies]:
    """The model of `policies:` for these policies; one that is always on has nothing to configure and no field."""
    fields: dict[str, Any] = {}
    for policy in order:
        if not policy.always_on:
            model = policy.config_model
            about = (model.__doc__ or policy.name).strip().splitlines()[0]
            # `validate` is a method of every model; in the file, and in problems, the policy has its own name.
            attribute = f"{policy.name}_section" if hasattr(Policies, policy.name) else policy.name
            alias = policy.name if attribute != policy.name else None
            fields[attribute] = (model | None, Field(default=None, alias=alias, description=about))
    return create_model("Policies", __base__=Policies, __doc__=Policies.__doc__, **fields)
