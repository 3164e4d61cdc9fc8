"""The settings of a server: from a YAML file, the environment (AGENT_SERVER_*) and the command line, the later ones first."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from agent_server.agents import BUILT_IN
from agent_server.service.binding import is_local, parse_address, tcp_address
from agent_server.tools.declare import BUILT_IN as TOOLS

if TYPE_CHECKING:
    from collections.abc import Mapping


def _secret(value: Any) -> Any:
    """A secret stands for itself, or is taken from the environment (`{env: NAME}`) or from a file (`{file: /path}`)."""
    if not isinstance(value, dict):
        return value
    match value:
        case {"env": str(name)} if len(value) == 1:
            if name not in os.environ:
                msg = f"the environment has no {name}"
                raise ValueError(msg)
            return os.environ[name]
        case {"file": str(name)} if len(value) == 1:
            try:
                return Path(name).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                msg = f"{name}: {error.strerror if isinstance(error, OSError) else 'no UTF-8'}"
                raise ValueError(msg) from None
    msg = "expected a text, {env: NAME} or {file: PATH}"
    raise ValueError(msg)


Secret = Annotated[SecretStr, BeforeValidator(_secret)]


class SettingsError(Exception):
    """Settings that cannot be used; the text has one line for each, naming it."""


def _network(text: str) -> str:
    ipaddress.ip_network(text)
    return text


def _address(text: str) -> str:
    parse_address(text)
    return text


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(_Part):
    """An OpenAI-compatible endpoint."""

    base_url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$")]
    name: str = Field(min_length=1)
    api_key: Secret | None = None
    timeout: float = Field(default=60.0, gt=0, le=600)
    max_tokens: int = Field(default=4096, ge=1)


class BrowserSettings(_Part):
    """The browser."""

    pages: int = Field(default=4, ge=1, le=64)
    recycle_after: int = Field(default=200, ge=1)
    max_page_bytes: int = Field(default=16 << 20, ge=1024)
    executable: str = ""
    sandbox: bool | None = None
    """Chromium's own sandbox; none: yes, unless we are root, for whom it does not work. Containers may forbid what it needs."""


class MemorySettings(_Part):
    """What is remembered per session."""

    ttl: float = Field(default=30 * 24 * 3600.0, gt=0)
    max_bytes: int = Field(default=1 << 20, ge=1024)


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
    metrics: Annotated[str, AfterValidator(_address)] | None = None
    """host:port where Prometheus finds `digital_employee_*` at /metrics; none: nowhere."""
    otlp: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/@]+:[0-9]+/?$")] | None = None
    """Collector that gets spans by OTLP/gRPC; none: there are none."""
    trace_sample: float = Field(default=1.0, ge=0, le=100)
    """Percent of the calls without a trace that begin one here; the others follow their caller."""
    reflection: bool = True
    """Answer server reflection."""
    environment: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")] = "production"
    """Which overlay is laid over the file: of `agent.yaml` it is `agent.production.yaml` beside it, where there is one."""
    name: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,64}$")] = "agent-server"
    """Name of the employee, for logs and the user agent."""
    model: Model | None = None
    """Endpoint that plans what no template fits; none: templates and rules only."""
    max_retries: int = Field(default=3, ge=1, le=20)
    """Attempts of a step, in all."""
    retry_delay: float = Field(default=1.0, ge=0, le=300)
    """Seconds before the second attempt."""
    retry_factor: float = Field(default=2.0, ge=1, le=10)
    """By which each wait is longer than the one before."""
    timeout: float = Field(default=30.0, gt=0, le=3600)
    """Seconds of one attempt of a step."""
    tools: tuple[str, ...] = TOOLS
    """Modules that declare tools for workflows."""
    workflows: Path | None = None
    """Folder of workflows, besides those that are shipped."""
    databases: dict[str, Secret] = Field(default_factory=dict)
    """URLs (SQLAlchemy's) of databases by name; `main` is the embedded one."""
    browser: BrowserSettings = Field(default_factory=lambda: BrowserSettings())
    http_per_host: int = Field(default=20, ge=1, le=1000)
    """Calls of tools at the same time to one host."""
    memory: MemorySettings = Field(default_factory=lambda: MemorySettings())
    state: Path | None = None
    """File of tasks, checkpoints and memory; none: beside `database`, or a temporary one."""
    encryption_keys: tuple[Secret, ...] = ()
    """Fernet keys of what is stored, the newest first; none: one is made and kept beside `state`."""
    task_concurrency: int = Field(default=4, ge=1, le=1000)
    """Submitted tasks that run at the same time."""

    task_keep: float = Field(default=7 * 24 * 3600.0, gt=0)
    """Seconds for which a task that has ended is known."""

    @property
    def secrets(self) -> list[str]:
        """All that must not be read in logs and errors."""
        found = [each.get_secret_value() for each in self.encryption_keys]
        if self.model is not None and self.model.api_key is not None:
            found.append(self.model.api_key.get_secret_value())
        for url in self.databases.values():
            found.append(url.get_secret_value())
            if password := urlsplit(url.get_secret_value()).password:
                found.append(password)
        return found

    @model_validator(mode="after")
    def _bind_is_local(self) -> Settings:
        if not self.allow_remote and not is_local(parse_address(self.bind)):
            msg = f"bind: {self.bind} can be reached from other machines, in clear text; set allow_remote if that is meant"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _metrics_are_local(self) -> Settings:
        if self.metrics is None:
            return self
        if not self.allow_remote and not is_local(tcp_address(self.metrics)):
            msg = f"metrics: {self.metrics} can be reached from other machines; set allow_remote if that is meant"
            raise ValueError(msg)
        return self


def load_settings(file: Path | None, given: Mapping[str, Any]) -> Settings:
    """The settings of a file, overridden by those that are `given` and not None. Raises SettingsError."""
    values: dict[str, Any] = {}
    where = str(file) if file is not None else "settings"
    if file is not None:
        values = _read(file)
    environment = str(given.get("environment") or values.get("environment") or "production")
    if file is not None:
        overlay = file.with_name(f"{file.stem}.{environment}{file.suffix}")
        if overlay.exists():
            values = laid_over(values, _read(overlay))
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


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings are merged, all else is replaced."""
    merged = dict(below)
    for name, value in above.items():
        earlier = merged.get(name)
        is_merged = isinstance(earlier, dict) and isinstance(value, dict)
        merged[name] = laid_over(earlier, value) if is_merged and earlier is not None else value
    return merged


def settings_files(file: Path | None, environment: str) -> tuple[Path, ...]:
    """The files that settings come from, also those that are not there yet."""
    return () if file is None else (file, file.with_name(f"{file.stem}.{environment}{file.suffix}"))


def state_file(settings: Settings) -> Path | None:
    """Where tasks, checkpoints and memory are; None: in a temporary file."""
    if settings.state is None and settings.database is not None:
        return settings.database.with_name(settings.database.name + ".state")
    return settings.state


def _read(file: Path) -> dict[str, Any]:
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
    return loaded or {}
