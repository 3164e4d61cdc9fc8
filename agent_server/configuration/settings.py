"""The settings of a server: from a YAML file, the environment (AGENT_SERVER_*) and the command line, the later ones first."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from agent_server.agents import BUILT_IN
from agent_server.service.binding import is_local, parse_address

if TYPE_CHECKING:
    from collections.abc import Mapping


class SettingsError(Exception):
    """Settings that cannot be used; the text has one line for each, naming it."""


def _network(text: str) -> str:
    ipaddress.ip_network(text)
    return text


def _address(text: str) -> str:
    parse_address(text)
    return text


class Settings(BaseModel):
    """All settings with their defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bind: Annotated[str, AfterValidator(_address)] = "127.0.0.1:50051"
    allow_remote: bool = False
    """Bind to addresses that other machines reach, in clear text. The place of the agent is behind its sidecar."""
    version: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,64}$")] = "v1"
    """Label of this deployment, sent as `x-agent-version`."""
    agents: tuple[str, ...] = Field(default=BUILT_IN, min_length=1)
    """Modules that declare the agents to serve."""
    database: Path | None = None
    """SQLite file; none: a temporary one, deleted at the end."""
    database_readers: int = Field(default=2, ge=1, le=64)
    """Queries that run at the same time."""
    allow_addresses: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    """Networks (CIDR) that may be fetched from besides the public internet."""
    max_message_bytes: int = Field(default=16 << 20, ge=1024, lt=2**31)
    """Largest message taken or sent."""
    max_concurrent_rpcs: int | None = Field(default=None, ge=1)
    """Calls at the same time; more are refused with RESOURCE_EXHAUSTED. None: no limit of our own."""
    max_sessions: int = Field(default=1000, ge=1)
    """Sessions that are remembered."""
    operation_timeout: float = Field(default=300.0, gt=0)
    """Seconds one operation may take, whatever the caller's deadline says."""
    grace: float = Field(default=30.0, ge=0)
    """Seconds that running calls have to end after SIGTERM."""
    reflection: bool = True
    """Answer server reflection."""

    @model_validator(mode="after")
    def _bind_is_local(self) -> Settings:
        if not self.allow_remote and not is_local(parse_address(self.bind)):
            msg = f"bind: {self.bind} can be reached from other machines, in clear text; set allow_remote if that is meant"
            raise ValueError(msg)
        return self


def load_settings(file: Path | None, given: Mapping[str, Any]) -> Settings:
    """The settings of a file, overridden by those that are `given` and not None. Raises SettingsError."""
    values: dict[str, Any] = {}
    where = str(file) if file is not None else "settings"
    if file is not None:
        try:
            loaded = yaml.safe_load(file.read_text())
        except OSError as error:
            msg = f"{file}: {error.strerror}"
            raise SettingsError(msg) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            msg = f"{file}: {' '.join(str(error).split())}"
            raise SettingsError(msg) from error
        if loaded is not None and not isinstance(loaded, dict):
            msg = f"{file}: expected a mapping of settings"
            raise SettingsError(msg)
        values = loaded or {}
    values |= {name: value for name, value in given.items() if value is not None}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = []
        for each in error.errors(include_url=False, include_context=False):
            path = ".".join(map(str, each["loc"]))
            text = each["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {path}: {text}" if path else f"{where}: {text}")
        raise SettingsError("\n".join(lines)) from None
