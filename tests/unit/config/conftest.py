"""Two policies to configure, and what most tests ask: which problems does this text have?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field

from sidecar.config.load import Loaded, parse
from sidecar.config.model import Model
from sidecar.config.policies import Configured
from sidecar.config.problems import ConfigError
from sidecar.config.units import Duration, MetadataName, MetadataValue, Rate

Order = tuple[type[Configured], ...]


class DeadlineConfig(Model):
    """How long an RPC may take."""

    default: Duration = Field(default=30.0, gt=0, description="of a caller that sets none")
    max: Duration = Field(default=600.0, gt=0, description="no RPC runs longer")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.default > self.max:
            yield "default", "is longer than max; lower it, or raise max"


class HeadersConfig(Model):
    """What is set and removed."""

    set: dict[MetadataName, MetadataValue] = Field(default_factory=dict, description="fields the agent gets")
    remove: tuple[MetadataName, ...] = Field(default=(), description="fields the agent does not get")
    rate: Rate | None = Field(default=None, description="how many")


class Deadline:
    name: ClassVar[str] = "deadline"
    config_model: ClassVar[type[Model]] = DeadlineConfig
    always_on: ClassVar[bool] = False


class Headers:
    name: ClassVar[str] = "headers"
    config_model: ClassVar[type[Model]] = HeadersConfig
    always_on: ClassVar[bool] = False


class Metrics:
    name: ClassVar[str] = "metrics"
    config_model: ClassVar[type[Model]] = Model
    always_on: ClassVar[bool] = True


@pytest.fixture
def order() -> Order:
    return (Deadline, Headers, Metrics)


@pytest.fixture
def read(order: Order) -> Callable[..., Loaded]:
    """Reads a text as `c.yaml` in /etc/sidecar."""

    def read(text: str, **environ: str) -> Loaded:
        return parse(text, file="c.yaml", base=Path("/etc/sidecar"), environ=environ, host="host-1", order=order)

    return read


@pytest.fixture
def problems(read: Callable[..., Loaded]) -> Callable[..., list[str]]:
    """The problems of a text, each as it is shown; none if it is right."""

    def problems(text: str, **environ: str) -> list[str]:
        try:
            read(text, **environ)
        except ConfigError as error:
            return [str(each) for each in error.problems]
        return []

    return problems
