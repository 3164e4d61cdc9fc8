"""Authorization: deny rules, then allow rules and grants, then the default; in `audit` mode it says so and lets pass.

What decided is kept with the call (`call.notes["authz"]`, a `Permit`): whoever tells about the call later reads it
there, and nobody decides again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sidecar.config.model import Model
from sidecar.config.problems import did_you_mean, listed
from sidecar.policies.authz.conditions import CalledPattern, Caller, Holds
from sidecar.policies.authz.jwt import JwtConfig, Token, Tokens
from sidecar.policies.authz.roles import GrantedName, Member, fold, is_claim
from sidecar.policies.authz.rules import DEFAULT, Permit, RuleConfig, Rules, Steps
from sidecar.proxy.policy import Policy
from sidecar.proxy.rejection import Reason, Rejection
from sidecar.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.policies.authz.rules import Decision, Rule
    from sidecar.proxy.call import Call
    from sidecar.runtime import Runtime
    from sidecar.telemetry.metrics import Counter

_DECISIONS_KEPT = 4096
JWT = "jwt"
"""The `rule` of a call that was refused for its token."""
CLAIMS = "claims"
"""A note on a call that is only explained: claims to judge it by (a mapping), as though a token had carried them."""


class AuthzConfig(Model):
    """Who may call what."""

    mode: Literal["enforce", "audit"] = Field(
        default="enforce", description="audit: decide and record, but let everything pass"
    )
    jwt: JwtConfig | None = Field(default=None, description="accept tokens; one that is sent must be valid")
    roles: dict[GrantedName, tuple[Member, ...]] = Field(
        default_factory=dict, description="role → identities and claims, one of which makes a member"
    )
    permissions: dict[GrantedName, tuple[CalledPattern, ...]] = Field(
        default_factory=dict, description="READ, WRITE, EXECUTE, ADMIN or own names, in any case → methods"
    )
    grants: dict[GrantedName, tuple[GrantedName, ...]] = Field(
        default_factory=dict, description="role → permissions; a grant is an allow rule named role:permission"
    )
    deny: tuple[RuleConfig, ...] = Field(default=(), description="looked at first; what is absent counts as matching")
    allow: tuple[RuleConfig, ...] = Field(
        default=(), description="looked at next; what is absent counts as not matching"
    )
    default: Literal["deny", "allow"] = Field(default="deny", description="when no rule matches")
    on_policy_change: Literal["keep", "end"] = Field(
        default="keep", description="open streams that new rules would refuse: keep them, or end them"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from self._names()
        yield from self._granted()
        for kind, rules in (("deny", self.deny), ("allow", self.allow)):
            for i, rule in enumerate(rules):
                for j, role in enumerate(rule.source.roles or ()):
                    if role not in self.roles:
                        yield f"{kind}.{i}.from.roles.{j}", f"is no role; {_known(role, self.roles)}"
                if rule.source.claims and self.jwt is None:
                    yield f"{kind}.{i}.from.claims", "asks for claims, which only tokens have; configure jwt"
        if self.jwt is None:
            for role, members in self.roles.items():
                if any(map(is_claim, members)):
                    yield f"roles.{role}", "asks for a claim, which only tokens have; configure jwt"

    def _names(self) -> Iterator[tuple[str, str]]:
        seen: set[str] = {DEFAULT, JWT}
        for kind, rules in (("deny", self.deny), ("allow", self.allow)):
            for i, rule in enumerate(rules):
                if rule.name in {DEFAULT, JWT}:
                    yield f"{kind}.{i}.name", "is what decisions without a rule are called; choose another"
                elif rule.name in seen:
                    yield f"{kind}.{i}.name", "is the name of an earlier rule; every rule has its own"
                seen.add(rule.name)

    def _granted(self) -> Iterator[tuple[str, str]]:
        known: dict[str, str] = {}
        for name in self.permissions:
            if fold(name) in known:
                yield (
                    f"permissions.{name}",
                    f"is `{known[fold(name)]}` in another case; permissions are told apart without it",
                )
            known.setdefault(fold(name), name)
        for kind, section in (("roles", self.roles), ("permissions", self.permissions), ("grants", self.grants)):
            for name, values in section.items():
                if not values:
                    yield f"{kind}.{name}", "is empty; name at least one, or leave it out"
        yield from self._unknown(known)

    def _unknown(self, known: dict[str, str]) -> Iterator[tuple[str, str]]:
        for role, permissions in self.grants.items():
            if role not in self.roles:
                yield f"grants.{role}", f"is no role; {_known(role, self.roles)}"
            for i, permission in enumerate(permissions):
                if fold(permission) not in known:
                    yield f"grants.{role}.{i}", f"is no permission; {_known(permission, self.permissions)}"
                elif fold(permission) in map(fold, permissions[:i]):
                    yield f"grants.{role}.{i}", "is granted already"


def _known(word: str, names: dict[str, tuple[str, ...]]) -> str:
    return f"{did_you_mean(word, names)}allowed: {listed(names) or 'none is configured'}"


class Authz(Policy[AuthzConfig]):
    """The verdict on a call by who calls what; the same answer is worked out once."""

    name = "authz"
    config_model = AuthzConfig

    def __init__(self, config: AuthzConfig, runtime: Runtime) -> None:
        self._enforces = config.mode == "enforce"
        self._ends_streams = config.on_policy_change == "end"
        self._runtime = runtime
        self._rules = Rules(
            deny=config.deny,
            allow=config.allow,
            roles=config.roles,
            permissions=config.permissions,
            grants=config.grants,
            default=config.default,
        )
        self._tokens = Tokens(config.jwt) if config.jwt is not None else None
        # By (identity, path, token). Invented methods must not exhaust memory: cleared when full.
        self._decided: dict[tuple[str | None, str, Token | None], Permit | Steps] = {}

    def on_request(self, call: Call) -> Rejection | None:
        # The deliberate fast path: no tokens, decided before, nothing asked of metadata.
        permit = self._decided.get((call.identity, call.path, None)) if self._tokens is None else None
        if type(permit) is not Permit:
            permit = self.judge(call)
        if not call.peek:
            permit.counter.value += 1
        call.note("authz", permit)
        return permit.rejection

    def judge(self, call: Call, when: float | None = None) -> Permit:
        """Decide about `call`. `when`: the time its token is judged by (wall clock, seconds); now, if left out."""
        token = None
        if self._tokens is not None:
            read = self._tokens.read(call.headers, self._runtime.clock.wall() if when is None else when)
            if isinstance(read, Rejection):
                return self._refused(read, JWT, (), None)
            token = read
            if token is None and call.peek and call.notes and CLAIMS in call.notes:
                token = Token(call.notes[CLAIMS])
        key = (call.identity, call.path, token)
        decided = self._decided.get(key)
        if decided is None:
            decided = self._resolve(call, token)
            if len(self._decided) >= _DECISIONS_KEPT:
                self._decided.clear()
            self._decided[key] = decided
        return decided if type(decided) is Permit else decided.decide(call.headers)  # type: ignore[union-attr]

    def recheck(self, call: Call) -> Rejection | None:
        """Rules have changed since `call` was let pass: must it end now?

        It is judged by the new rules and keys, but by the time it began: that its token has expired meanwhile is no
        change of rules.
        """
        if not self._ends_streams or call.ended:
            return None
        clock = self._runtime.clock
        return self.judge(call, clock.wall() - (clock.monotonic() - call.started)).rejection

    def asks_metadata(self, call: Call) -> bool:
        """Did the decision about a call like this, once made, hang on its metadata?"""
        return type(self._decided.get((call.identity, call.path, None))) is Steps

    @property
    def files(self) -> tuple[Path, ...]:
        """The files this policy has read, to be watched."""
        return self._tokens.files if self._tokens is not None else ()

    def reload(self) -> bool:
        """Read `files` again; were they different? Raises ValueError saying what is wrong; nothing has changed then."""
        if self._tokens is None or not self._tokens.reload():
            return False
        self._decided.clear()
        return True

    # ── permits ──

    def _resolve(self, call: Call, token: Token | None) -> Permit | Steps:
        claims = token.claims if token is not None else None
        caller = Caller(call.identity, claims, may_prove=self._tokens is not None)
        return self._rules.resolve(caller, call.path, _Judgement(self, caller, call.path, token, self._runtime.route))

    def permit(
        self, decision: Decision, rule: str, roles: tuple[str, ...], token: Token | None, rejection: Rejection | None
    ) -> Permit:
        return Permit(decision, rule, roles, token=token, counter=self._counter(decision, rule), rejection=rejection)

    def _refused(self, rejection: Rejection, rule: str, roles: tuple[str, ...], token: Token | None) -> Permit:
        if self._enforces:
            return self.permit("deny", rule, roles, token, rejection)
        return self.permit("would_deny", rule, roles, token, None)

    def _counter(self, decision: Decision, rule: str) -> Counter:
        runtime = self._runtime
        return runtime.metrics.counter(
            names.AUTHZ_DECISIONS, listener=runtime.listener, route=runtime.route, decision=decision, rule=rule
        )


class _Judgement:
    """The permits for one caller and one method."""

    def __init__(self, policy: Authz, caller: Caller, path: str, token: Token | None, route: str) -> None:
        self._policy = policy
        self._route = route
        self._caller = caller
        self._path = path
        self._token = token
        self._roles = policy._rules.roles.of(caller)
        bearer = f"the subject {token.subject!a} of a token" if token and token.subject else "an unknown caller"
        who = caller.identity or bearer
        self._what = f"{who} to call {path}"

    def allowed(self, rule: str) -> Permit:
        return self._policy.permit("allow", rule, self._roles, self._token, None)

    def denied(self, rule: Rule, known: Holds) -> Permit:
        if known is Holds.UNPROVEN:
            return self._refused(self._token_missing(rule), rule.name)
        because = ""
        if known is Holds.ABSENT:
            because = "; what it asks of a caller is absent, which counts as matching"
        elif rule.metadata:
            asked = ", ".join(each.name.decode() for each in rule.metadata)
            because = f", by metadata {asked}, which counts as matching when absent"
        return self._refused(
            self._rejection(Reason.DENIED_BY_RULE, f"rule {rule.name} forbids {self._what}{because}", rule=rule.name),
            rule.name,
        )

    def unproven(self, rule: Rule) -> Permit:
        return self._refused(self._token_missing(rule), rule.name)

    def by_default(self, default: Literal["deny", "allow"]) -> Permit:
        if default == "allow":
            return self.allowed(DEFAULT)
        return self._refused(
            self._rejection(Reason.NO_RULE_ALLOWS, f"no rule allows {self._what}", rule=DEFAULT), DEFAULT
        )

    def _token_missing(self, rule: Rule) -> Rejection:
        message = f"rule {rule.name} wants a token from who calls {self._path}, and none was sent"
        return self._rejection(Reason.TOKEN_MISSING, message, rule=rule.name)

    def _rejection(self, reason: Reason, message: str, *, rule: str) -> Rejection:
        return reason.reject(
            message, rule=rule, identity=self._caller.identity or "", method=self._path, route=self._route
        )

    def _refused(self, rejection: Rejection, rule: str) -> Permit:
        return self._policy._refused(rejection, rule, self._roles, self._token)
