"""The `alerts:` section: what is judged, and who is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, SecretStr, WithJsonSchema

from sidecar.alerts.measures import MEASURES, OWN, Measure, measure_of
from sidecar.config.model import Model
from sidecar.config.units import (
    Address,
    Duration,
    FilePath,
    Name,
    duration_between,
    format_duration,
    is_loopback,
    parse_duration,
)
from sidecar.telemetry.names import RPC_BUCKETS

Severity: TypeAlias = Literal["critical", "warning", "notice"]

_BOUND_HELP = "write a number (0.05) or, for times, a duration (5s)"


class Bound(float):
    """What a value is held against; a duration is in seconds, and knows that it is one."""

    is_duration: bool

    def __new__(cls, value: float, *, is_duration: bool = False) -> Bound:
        made = super().__new__(cls, value)
        made.is_duration = is_duration
        return made

    def written(self) -> float | str:
        """As the file says it."""
        return format_duration(self) if self.is_duration else float(self)


def _bound(value: object) -> object:
    if isinstance(value, Bound):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"is no bound; {_BOUND_HELP}")  # noqa: TRY004 - pydantic takes ValueError
    if isinstance(value, str):
        return Bound(parse_duration(value), is_duration=True)
    return Bound(float(value))


BoundValue: TypeAlias = Annotated[
    Bound,
    PlainValidator(_bound),
    PlainSerializer(Bound.written, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^[0-9]{1,12}(\.[0-9]{1,3})?(ms|s|m|h)$"}],
            "examples": [0.05, "5s"],
        }
    ),
]


def _known_metric(text: str) -> str:
    measure_of(text)
    return text


MetricWord: TypeAlias = Annotated[
    str,
    AfterValidator(_known_metric),
    WithJsonSchema(
        {"type": "string", "pattern": f"^({'|'.join(MEASURES)}|{OWN.pattern})$", "examples": list(MEASURES)}
    ),
]


class RuleConfig(Model):
    """When people are told."""

    name: Name = Field(description="what the alert is called; the name of a built-in rule replaces it")
    metric: MetricWord = Field(
        description="what is judged: a word of docs/alerts.md, or a counter or gauge of /metrics"
    )
    above: BoundValue | None = Field(default=None, description="it is wrong while the value is above this")
    below: BoundValue | None = Field(default=None, description="it is wrong while the value is below this")
    length: Annotated[Duration, duration_between("0s", "24h")] = Field(
        default=0.0, alias="for", description="told when it has been wrong for so long without a break"
    )
    resolve_after: Annotated[Duration, duration_between("0s", "24h")] = Field(
        default=60.0, description="over when it has been right for so long without a break"
    )
    severity: Severity = Field(default="warning", description="critical | warning | notice")
    over: Annotated[Duration, duration_between("10s", "1h")] = Field(
        default=60.0, description="rates, shares and latencies: of the last so long"
    )
    min_rpcs: int = Field(
        default=5,
        ge=1,
        le=1_000_000,
        description="shares and latencies of fewer RPCs say nothing; then `for` is looked at",
    )
    listener: Name | None = Field(default=None, description="shares and latencies: of this listener only")
    route: Name | None = Field(default=None, description="shares and latencies: of this route only")
    labels: Mapping[str, str] = Field(default_factory=dict, description="of /metrics: series with these labels only")
    runbook: str | None = Field(
        default=None, pattern=r"^https?://[^\s]+$", description="URL that the message points to: what to do"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if (self.above is None) == (self.below is None):
            yield "above", "and below: give one of them"
            return
        field = "above" if self.above is not None else "below"
        measure, bound = self.measure, self.bound
        if measure.is_duration != bound.is_duration:
            allowed = "a duration, such as 5s" if measure.is_duration else "a number"
            yield field, f"does not fit {self.metric}; allowed: {allowed}"
        elif measure.kind == "latency" and not 0 < bound < RPC_BUCKETS[-1]:
            longest = format_duration(RPC_BUCKETS[-1])
            yield (
                field,
                f"cannot be told apart: latencies are counted up to {longest}; allowed: more than 0s, less than that",
            )
        elif measure.is_share and not 0 <= bound < 1:
            yield field, "is no share; allowed: 0 to less than 1 (0.05 is five percent)"
        if measure.kind not in {"share", "latency"}:
            for name in ("listener", "route"):
                if getattr(self, name) is not None:
                    yield name, f"says nothing of {self.metric}; allowed with error_rate and latencies (else: labels)"
        known = measure.source.labels if measure.kind not in {"share", "latency"} else ()
        for label in self.labels:
            if label not in known:
                yield f"labels.{label}", f"is no label of {self.metric}; allowed: {', '.join(known) or 'none'}"

    @property
    def measure(self) -> Measure:
        return measure_of(self.metric)

    @property
    def bound(self) -> Bound:
        given = self.above if self.above is not None else self.below
        assert given is not None
        return given

    def is_wrong(self, value: float) -> bool:
        return value > self.bound if self.above is not None else value < self.bound


class EmailConfig(Model):
    """A mail server, and who gets mail."""

    smtp: Address = Field(description="host:port of the mail server")
    sender: str = Field(
        default="",
        alias="from",
        pattern=r"^([^@\s]+@[^@\s]+)?$",
        description="who it is from; default: sidecar@ this node",
    )
    to: tuple[Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")], ...] = Field(min_length=1, description="who gets it")
    tls: Literal["starttls", "tls", "off"] = Field(
        default="starttls", description="starttls (port 587), tls (port 465), off (in clear)"
    )
    trusted_ca: FilePath | None = Field(default=None, description="CAs that sign the server; default: the system's")
    username: str | None = Field(default=None, min_length=1, description="to log in with")
    password: SecretStr | None = Field(default=None, description="of the user; from the environment: ${SMTP_PASSWORD}")
    password_file: FilePath | None = Field(default=None, description="file that holds it; read at each use")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.smtp.startswith("unix:"):
            yield "smtp", "is no mail server; allowed: host:port"
            return
        has_password = self.password is not None or self.password_file is not None
        if (self.username is not None) != has_password:
            yield "username", "and password (or password_file) belong together; give both, or none"
        if self.password is not None and self.password_file is not None:
            yield "password_file", "stands beside password; give one of them"
        if self.tls == "off" and has_password and not is_loopback(self.smtp):
            yield "tls", "sends the password in clear to another machine; allowed: starttls, tls"


Url: TypeAlias = Annotated[SecretStr, Field(min_length=1)]
_KINDS = ("webhook", "slack", "pagerduty")


class ReceiverConfig(Model):
    """Who is told, and how: one of webhook, slack, pagerduty, email. URLs and keys are secrets, and are never shown."""

    name: Name | None = Field(default=None, description="in logs, metrics and `sidecar alerts`; default: what it is")
    webhook: Url | None = Field(default=None, description="URL that gets JSON (POST)")
    webhook_file: FilePath | None = Field(default=None, description="file that holds the URL; read at each use")
    slack: Url | None = Field(default=None, description="URL of an incoming webhook of Slack")
    slack_file: FilePath | None = Field(default=None, description="file that holds the URL; read at each use")
    pagerduty: SecretStr | None = Field(
        default=None, min_length=1, description="routing key (Events API v2) of a PagerDuty service"
    )
    pagerduty_file: FilePath | None = Field(default=None, description="file that holds the key; read at each use")
    email: EmailConfig | None = Field(default=None, description="a mail server, and who gets mail")
    severities: tuple[Severity, ...] = Field(
        default=("critical", "warning", "notice"), min_length=1, description="only alerts of these go there"
    )
    headers: Mapping[str, SecretStr] = Field(default_factory=dict, description="webhook: fields of the request")
    trusted_ca: FilePath | None = Field(
        default=None, description="CAs that sign an https server; default: the system's"
    )
    url: str = Field(
        default="https://events.pagerduty.com/v2/enqueue",
        pattern=r"^https?://[^\s]+$",
        description="pagerduty: where events go",
    )
    timeout: Annotated[Duration, duration_between("100ms", "1m")] = Field(
        default=10.0, description="an answer must come within; else it is tried again, later and later"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        given = [name for name in self._ways() if getattr(self, name) is not None]
        if len(given) != 1:
            yield (
                given[1] if given else "webhook",
                (
                    f"stands beside {given[0]}; give one of them, and another entry for the other"
                    if given
                    else "is missing, and so are slack, pagerduty, email; give one of them"
                ),
            )
            return
        for kind in ("webhook", "slack"):
            secret: SecretStr | None = getattr(self, kind)
            if secret is not None and not secret.get_secret_value().startswith(("http://", "https://")):
                yield kind, "is no URL; it begins with https:// (or http://)"
        for field, kinds in (("headers", {"webhook"}), ("url", {"pagerduty"})):
            if field in self.model_fields_set and self.kind not in kinds:
                yield field, f"says nothing to {self.kind}; allowed with {', '.join(sorted(kinds))}"
        for header in self.headers:
            if not header.replace("-", "").isalnum() or not header.isascii():
                yield f"headers.{header}", "is no name of a field; letters, digits and - are allowed"

    @staticmethod
    def _ways() -> list[str]:
        return [each for kind in _KINDS for each in (kind, f"{kind}_file")] + ["email"]

    @property
    def kind(self) -> str:
        """webhook, slack, pagerduty or email."""
        for kind in _KINDS:
            if getattr(self, kind) is not None or getattr(self, f"{kind}_file") is not None:
                return kind
        return "email"


def files_of(receiver: ReceiverConfig) -> list[Path]:
    """What is read when it is told something."""
    email = receiver.email
    named = [receiver.webhook_file, receiver.slack_file, receiver.pagerduty_file, receiver.trusted_ca]
    if email is not None:
        named += [email.password_file, email.trusted_ca]
    return [each for each in named if each is not None]


class AlertsConfig(Model):
    """Judged from the sidecar's own counters, every few seconds; the built-in rules are always there."""

    rules: tuple[RuleConfig, ...] = Field(
        default=(), max_length=200, description="more rules, or built-in ones as they should be"
    )
    without: tuple[Name, ...] = Field(default=(), description="built-in rules that are not wanted")
    send: tuple[ReceiverConfig, ...] = Field(default=(), max_length=20, description="who is told; nobody, if none")
    group_wait: Annotated[Duration, duration_between("0s", "1h")] = Field(
        default=10.0, description="what comes within this goes in one message"
    )
    group_interval: Annotated[Duration, duration_between("0s", "24h")] = Field(
        default=60.0, description="between two messages to the same receiver"
    )
    repeat_interval: Annotated[Duration, duration_between("1m", "720h")] = Field(
        default=14_400.0, description="what is still wrong after this is told again"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        seen: set[str] = set()
        for i, rule in enumerate(self.rules):
            if rule.name in seen:
                yield f"rules.{i}.name", "is the name of another rule; names must differ"
            seen.add(rule.name)
        built_in = {rule.name for rule in BUILT_IN}
        for i, name in enumerate(self.without):
            if name not in built_in:
                yield f"without.{i}", f"is no built-in rule; allowed: {', '.join(sorted(built_in))}"
        names: set[str] = set()
        for i, receiver in enumerate(self.send):
            if receiver.name is not None and receiver.name in names:
                yield f"send.{i}.name", "is the name of another receiver; names must differ"
            names.add(receiver.name or "")

    def effective(self) -> tuple[RuleConfig, ...]:
        """The rules in force: built-in ones, unless replaced or not wanted, then the others."""
        own = {rule.name: rule for rule in self.rules}
        kept = tuple(own.pop(rule.name, rule) for rule in BUILT_IN if rule.name not in self.without or rule.name in own)
        return (*kept, *own.values())

    def receivers(self) -> dict[str, ReceiverConfig]:
        """By name; those without one are called what they are, numbered from the second on."""
        found: dict[str, ReceiverConfig] = {}
        taken = {each.name for each in self.send if each.name is not None}
        for each in self.send:
            name, number = each.name or each.kind, 1
            while each.name is None and (name in found or name in taken):
                number += 1
                name = f"{each.kind}-{number}"
            found[name] = each
        return found


def _rule(name: str, metric: str, *, severity: Severity, **more: Any) -> RuleConfig:
    return RuleConfig.model_validate({"name": name, "metric": metric, "severity": severity, **more})


BUILT_IN = (
    _rule("error-rate", "error_rate", above=0.05, severity="critical", **{"for": "5m"}),
    _rule("slow", "latency_p99", above="5s", severity="critical", **{"for": "5m"}),
    _rule("cpu", "cpu_usage", above=0.9, severity="warning", **{"for": "10m"}),
    _rule("memory", "memory_usage", above=0.9, severity="warning", **{"for": "10m"}),
    _rule("breaker-open", "breaker_open", above=0, severity="warning"),
    _rule("rollout-rolled-back", "rollout_rolled_back", above=0, severity="warning"),
    _rule("rollout-stable-down", "rollout_stable_down", above=0, severity="critical"),
    _rule("certificate-ends", "certificate_left", below="168h", severity="warning"),
    _rule("store-lost", "store_lost", above=0, severity="critical", **{"for": "30s"}),
    _rule("audit-dropping", "audit_dropped", above=0, severity="critical", resolve_after="5m"),
    _rule("agent-given-up", "agent_given_up", above=0, severity="critical"),
)
"""What is always judged, as in deploy/prometheus/alerts.yaml."""
