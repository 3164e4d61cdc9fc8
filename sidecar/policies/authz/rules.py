"""The rules: deny, then allow (grants of roles included), then the default; every one of them compiled at load.

How 20 rules stay cheap: for one caller and one method everything is decided but what metadata says. `resolve` finds
that once, as a `Permit`, or as `Steps` that have nothing left to look at but metadata; the policy remembers either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from pydantic import Field

from sidecar.config.model import Model
from sidecar.config.units import MetadataName, Name
from sidecar.policies.authz.conditions import (
    CalledPattern,
    CallerPattern,
    Condition,
    Holds,
    MetadataCondition,
    Patterns,
    anonymous_is,
    any_of,
    claim_is,
    identity_is,
    sent_texts,
)
from sidecar.policies.authz.roles import GrantedName, Roles, fold

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sidecar.http2.blocks import HeaderBlock
    from sidecar.policies.authz.conditions import Caller
    from sidecar.policies.authz.jwt import Token
    from sidecar.proxy.rejection import Rejection
    from sidecar.proxy.selectors import Matcher
    from sidecar.telemetry.metrics import Counter

DEFAULT = "default"
"""The `rule` of a decision that no rule made."""
_PATHS_KEPT = 4096
_SEEN_KEPT = 4096
_LONGEST_SEEN = 256

Decision = Literal["allow", "deny", "would_deny"]
Sent: TypeAlias = "str | tuple[str, ...] | None"
Seen: TypeAlias = "dict[tuple[Steps, tuple[Sent, ...]], Permit]"


class SourceConfig(Model):
    """Who calls: values of one field are alternatives, fields hold together; what is left out is not asked."""

    identities: tuple[CallerPattern, ...] | None = Field(
        default=None, min_length=1, description="identities of certificates"
    )
    roles: tuple[GrantedName, ...] | None = Field(
        default=None, min_length=1, description="roles, one of which the caller has"
    )
    claims: dict[str, Patterns] | None = Field(
        default=None, min_length=1, description="claims of its token, all of which hold"
    )
    metadata: dict[MetadataName, Patterns] | None = Field(
        default=None, min_length=1, description="metadata as sent, all of which hold; not grpc-*, not *-bin"
    )
    anonymous: bool | None = Field(
        default=None, description="true: neither a certificate nor a token; false: one of them"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        for name in self.metadata or ():
            # Base64 has several spellings of the same bytes; a comparison of text would be evaded.
            if name.endswith("-bin"):
                yield (
                    f"metadata.{name}",
                    "holds bytes, which cannot be compared as text; name a metadata entry without -bin",
                )

    @property
    def is_everybody(self) -> bool:
        return all(each is None for each in (self.identities, self.roles, self.claims, self.metadata, self.anonymous))


class RuleConfig(Model):
    """One rule: whoever it is from, for these methods."""

    name: Name = Field(description="shown wherever this rule decides")
    source: SourceConfig = Field(default_factory=SourceConfig, alias="from", description="left out: everybody")
    methods: tuple[CalledPattern, ...] = Field(default=("/*",), min_length=1, description="left out: all of them")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.source.is_everybody and "methods" not in self.model_fields_set:
            yield "from", "is about everybody and everything; name whom (from) or what (methods) the rule is about"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, compiled. A grant is one, too: its name is `role:permission`."""

    name: str
    denies: bool
    methods: Matcher
    conditions: tuple[Condition, ...] = ()
    metadata: tuple[MetadataCondition, ...] = ()

    def judge(self, caller: Caller) -> Holds:
        """Do all conditions but those on metadata hold?"""
        known = Holds.YES
        for condition in self.conditions:
            holds = condition(caller)
            if holds is Holds.NO:
                return holds
            known = max(known, holds)
        return known


class Permit:
    """What was decided about a call, by which rule, for whom; shared by all calls alike, read by audit and access log.

    `rejection`: what the caller is told; None = it passes.
    """

    __slots__ = ("counter", "decision", "rejection", "roles", "rule", "token")

    def __init__(
        self,
        decision: Decision,
        rule: str,
        roles: tuple[str, ...],
        *,
        token: Token | None,
        counter: Counter,
        rejection: Rejection | None,
    ) -> None:
        self.decision = decision
        self.rule = rule
        self.roles = roles
        self.token = token
        self.counter = counter
        self.rejection = rejection

    def __repr__(self) -> str:
        return f"Permit({self.decision}, {self.rule}, roles={self.roles})"


class Judgement(Protocol):
    """Makes the permits of one caller and one method; the policy knows what to tell."""

    def allowed(self, rule: str) -> Permit: ...

    def denied(self, rule: Rule, known: Holds) -> Permit: ...

    def unproven(self, rule: Rule) -> Permit: ...

    def by_default(self, default: Literal["deny", "allow"]) -> Permit: ...


class Steps:
    """What is left to look at, in order, when caller and method are known: rules that read metadata. Then `last`.

    A name may be repeated, and which value the agent takes is its own affair: a deny rule looks for one value that
    matches, an allow rule wants all of them to. Absent matches for the former, and does not for the latter.
    """

    __slots__ = ("_names", "_seen", "_steps", "last")

    def __init__(self, steps: Sequence[tuple[Rule, Permit, bool]], last: Permit, seen: Seen) -> None:
        """Each step: a rule, what follows if its metadata suits, and whether that is certain (or a token needed).

        `seen` remembers what was decided for which values, for all steps of a policy.
        """
        self._steps = tuple((rule.metadata, rule.denies, permit, is_certain) for rule, permit, is_certain in steps)
        self._names = tuple(dict.fromkeys(name for rule, _, _ in steps for name, _ in rule.metadata))
        self._seen = seen
        self.last = last

    def decide(self, headers: HeaderBlock) -> Permit:
        # With many rules on one method, looking at each again costs more than all the rest.
        sent = tuple([sent_texts(headers, name) for name in self._names])
        permit = self._seen.get((self, sent))
        if permit is None:
            permit = self._decide(dict(zip(self._names, sent, strict=True)))
            # Values are the caller's: neither many nor long ones may fill memory.
            if sum(map(_length, sent)) <= _LONGEST_SEEN:
                if len(self._seen) >= _SEEN_KEPT:
                    self._seen.clear()
                self._seen[self, sent] = permit
        return permit

    def _decide(self, sent: Mapping[bytes, Sent]) -> Permit:
        wanting: Permit | None = None
        for conditions, denies, permit, is_certain in self._steps:
            if all(_suits(matches, sent[name], denies=denies) for name, matches in conditions):
                if is_certain:
                    return permit
                wanting = wanting or permit
        return wanting or self.last


def _suits(matches: Matcher, sent: Sent, *, denies: bool) -> bool:
    if sent is None:
        return denies
    if isinstance(sent, str):
        return matches(sent)
    return any(map(matches, sent)) if denies else all(map(matches, sent))


def _length(sent: Sent) -> int:
    return 0 if sent is None else len(sent) if isinstance(sent, str) else sum(map(len, sent))


class Rules:
    """All rules of one policy."""

    __slots__ = ("_by_path", "_rules", "_seen", "default", "roles")

    def __init__(
        self,
        *,
        deny: Sequence[RuleConfig],
        allow: Sequence[RuleConfig],
        roles: Mapping[str, Sequence[str]],
        permissions: Mapping[str, Sequence[str]],
        grants: Mapping[str, Sequence[str]],
        default: Literal["deny", "allow"],
    ) -> None:
        """The names in here have been checked: every role and permission exists."""
        self.roles = Roles(roles)
        self.default = default
        methods = {fold(name): any_of(patterns) for name, patterns in permissions.items()}
        granted = [
            Rule(
                f"{role}:{fold(each)}",
                denies=False,
                methods=methods[fold(each)],
                conditions=(self.roles.condition(role),),
            )
            for role, names in grants.items()
            for each in names
        ]
        self._rules = (
            *(self._compile(each, denies=True) for each in deny),
            *(self._compile(each, denies=False) for each in allow),
            *granted,
        )
        self._by_path: dict[str, tuple[Rule, ...]] = {}
        self._seen: Seen = {}

    def _compile(self, config: RuleConfig, *, denies: bool) -> Rule:
        source = config.source
        conditions: list[Condition] = []
        if source.anonymous is not None:
            conditions.append(anonymous_is(source.anonymous))
        if source.identities is not None:
            conditions.append(identity_is(source.identities))
        if source.roles is not None:
            conditions.append(self._in_one_of(source.roles))
        conditions += [claim_is(name, patterns) for name, patterns in (source.claims or {}).items()]
        metadata = [
            MetadataCondition(name.encode("ascii"), any_of(patterns))
            for name, patterns in (source.metadata or {}).items()
        ]
        return Rule(config.name, denies, any_of(config.methods), tuple(conditions), tuple(metadata))

    def _in_one_of(self, names: Sequence[str]) -> Condition:
        conditions = [self.roles.condition(name) for name in names]
        return lambda caller: min(holds(caller) for holds in conditions)

    def about(self, path: str) -> tuple[Rule, ...]:
        """The rules for the method at `path`, compared as sent; remembered, as callers keep to few methods."""
        found = self._by_path.get(path)
        if found is None:
            found = tuple(rule for rule in self._rules if rule.methods(path))
            if len(self._by_path) >= _PATHS_KEPT:
                self._by_path.clear()
            self._by_path[path] = found
        return found

    def resolve(self, caller: Caller, path: str, judgement: Judgement) -> Permit | Steps:
        """Decide as far as caller and method decide."""
        steps: list[tuple[Rule, Permit, bool]] = []
        last: Permit | None = None
        wanting: Permit | None = None
        for rule in self.about(path):
            known = rule.judge(caller)
            if rule.denies:
                if known is Holds.NO:
                    continue
                permit = judgement.denied(rule, known)
            elif known is Holds.YES:
                permit = judgement.allowed(rule.name)
            else:
                if known is Holds.UNPROVEN and self.default == "deny":
                    # With a token this rule might allow the call: if nothing else does, that is what is missing.
                    if rule.metadata:
                        steps.append((rule, judgement.unproven(rule), False))
                    elif wanting is None:
                        wanting = judgement.unproven(rule)
                continue
            if not rule.metadata:
                last = permit
                break
            steps.append((rule, permit, True))
        if last is None:
            last = wanting or judgement.by_default(self.default)
        else:
            steps = [each for each in steps if each[2]]
        return Steps(steps, last, self._seen) if steps else last
