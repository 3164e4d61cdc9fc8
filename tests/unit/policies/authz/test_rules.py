"""The rules against a model of them that is too simple to be wrong, and what compiling must not change."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.http2.blocks import Beginning, HeaderBlock
from sidecar.http2.hpack import encode_field
from sidecar.policies.authz.conditions import Caller, Holds
from sidecar.policies.authz.rules import Permit, Rule, RuleConfig, Rules, Steps
from sidecar.telemetry.metrics import Counter

# ── the model: nothing compiled, nothing remembered, one function per sentence of the documentation ──

Config = dict[str, Any]


def matches(pattern: str, text: str) -> bool:
    if pattern.startswith("*"):
        return text.endswith(pattern[1:])
    if pattern.endswith("*"):
        return text.startswith(pattern[:-1])
    return text == pattern


def one_matches(patterns: Iterable[str], text: str) -> bool:
    return any(matches(each, text) for each in patterns)


class Request:
    def __init__(
        self,
        identity: str | None,
        claims: dict[str, tuple[str, ...]] | None,
        metadata: list[tuple[str, str]],
        path: str,
    ) -> None:
        self.identity = identity
        self.claims = claims
        self.metadata = metadata
        self.path = path

    def identity_holds(self, patterns: list[str], *, if_absent: bool) -> bool:
        return if_absent if self.identity is None else one_matches(patterns, self.identity)

    def claim_holds(self, name: str, patterns: list[str], *, if_absent: bool) -> bool:
        if self.claims is None or name not in self.claims:
            return if_absent
        return any(one_matches(patterns, value) for value in self.claims[name])

    def role_holds(self, members: list[str], *, if_absent: bool) -> bool:
        for member in members:
            if member.startswith("claim:"):
                name, _, value = member.removeprefix("claim:").partition("=")
                if self.claim_holds(name, [value], if_absent=if_absent):
                    return True
            elif self.identity_holds([member], if_absent=if_absent):
                return True
        return False

    def metadata_holds(self, name: str, patterns: list[str], *, denies: bool) -> bool:
        values = [value for key, value in self.metadata if key == name]
        if not values:
            return denies
        return (any if denies else all)(one_matches(patterns, value) for value in values)

    def source_holds(self, source: Config, roles: Config, *, denies: bool) -> bool:
        is_anonymous = self.identity is None and self.claims is None
        return (
            ("identities" not in source or self.identity_holds(source["identities"], if_absent=denies))
            and (
                "roles" not in source or any(self.role_holds(roles[role], if_absent=denies) for role in source["roles"])
            )
            and all(self.claim_holds(n, p, if_absent=denies) for n, p in source.get("claims", {}).items())
            and all(self.metadata_holds(n, p, denies=denies) for n, p in source.get("metadata", {}).items())
            and ("anonymous" not in source or source["anonymous"] is is_anonymous)
        )


def model(config: Config, request: Request) -> tuple[bool, str]:
    """(passes, the rule that says so)."""
    for denies, rules in ((True, config["deny"]), (False, config["allow"])):
        for rule in rules:
            if one_matches(rule["methods"], request.path) and request.source_holds(
                rule["from"], config["roles"], denies=denies
            ):
                return not denies, rule["name"]
    for role, permissions in config["grants"].items():
        for permission in permissions:
            if one_matches(config["permissions"][permission], request.path) and request.role_holds(
                config["roles"][role], if_absent=False
            ):
                return True, f"{role}:{permission}"
    return config["default"] == "allow", "default"


# ── what both are asked ──

IDENTITIES = ["spiffe://m/a", "spiffe://m/ab", "spiffe://m/b", "spiffe://n/a", "a.svc"]
IDENTITY_PATTERNS = ["spiffe://m/a", "spiffe://m/a*", "spiffe://m/*", "*/a", "*", "a.svc", "spiffe://n/b"]
PATHS = ["/p.S/Get", "/p.S/GetAll", "/p.S/Put", "/q.S/Get", "/p.SX/Get"]
METHOD_PATTERNS = ["/p.S/Get", "/p.S/Get*", "/p.S/*", "/p.*", "*/Get", "/*", "*"]
TEXTS = ["x", "xy", "y", ""]
TEXT_PATTERNS = ["x", "x*", "*y", "*", "z"]
NAMES = ["n1", "n2"]


def some(values: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)


patterns_by_name = st.dictionaries(st.sampled_from(NAMES), some(TEXT_PATTERNS), min_size=1, max_size=2)
roles = st.fixed_dictionaries(
    {role: some([*IDENTITY_PATTERNS, "claim:n1=x", "claim:n2=x*", "claim:n1=*"]) for role in ("role-a", "role-b")}
)
source = st.fixed_dictionaries(
    {},
    optional={
        "identities": some(IDENTITY_PATTERNS),
        "roles": some(["role-a", "role-b"]),
        "claims": patterns_by_name,
        "metadata": patterns_by_name,
        "anonymous": st.booleans(),
    },
)
rule = st.fixed_dictionaries({"from": source, "methods": some(METHOD_PATTERNS)})
configs = st.fixed_dictionaries(
    {
        "roles": roles,
        "deny": st.lists(rule, max_size=3),
        "allow": st.lists(rule, max_size=4),
        "permissions": st.fixed_dictionaries({"read": some(METHOD_PATTERNS), "write": some(METHOD_PATTERNS)}),
        "grants": st.dictionaries(st.sampled_from(["role-a", "role-b"]), some(["read", "write"]), max_size=2),
        "default": st.sampled_from(["deny", "allow"]),
    }
)
claims = st.none() | st.dictionaries(
    st.sampled_from(NAMES), st.lists(st.sampled_from(TEXTS), max_size=2).map(tuple), max_size=2
)
requests = st.builds(
    Request,
    st.none() | st.sampled_from(IDENTITIES),
    claims,
    st.lists(st.tuples(st.sampled_from([*NAMES, "n3"]), st.sampled_from(TEXTS)), max_size=4),
    st.sampled_from(PATHS),
)


class Verdicts:
    """Permits without texts; `unproven` ones tell themselves apart."""

    def allowed(self, rule: str) -> Permit:
        return _permit("allow", rule)

    def denied(self, rule: Rule, known: Holds) -> Permit:
        return _permit("deny", rule.name)

    def unproven(self, rule: Rule) -> Permit:
        return _permit("deny", f"token:{rule.name}")

    def by_default(self, default: str) -> Permit:
        return _permit("allow" if default == "allow" else "deny", "default")


def _permit(decision: Any, rule: str) -> Permit:
    return Permit(decision, rule, (), token=None, counter=Counter(), rejection=None)


def named(config: Config) -> Config:
    """The same with a name for each rule."""
    return config | {
        kind: [each | {"name": f"{kind}-{i}"} for i, each in enumerate(config[kind])] for kind in ("deny", "allow")
    }


def compiled(config: Config) -> Rules:
    def rules(kind: str) -> list[RuleConfig]:
        return [RuleConfig.model_validate_json(json.dumps(each)) for each in config[kind]]

    return Rules(
        deny=rules("deny"),
        allow=rules("allow"),
        roles=config["roles"],
        permissions=config["permissions"],
        grants=config["grants"],
        default=config["default"],
    )


def decide(rules: Rules, request: Request, *, may_prove: bool = True, split: int = 0) -> Permit:
    fields = tuple(encode_field(name.encode(), value.encode()) for name, value in request.metadata)
    beginning = Beginning(b"", fields[:split]) if split else None
    caller = Caller(request.identity, request.claims, may_prove=may_prove)
    found = rules.resolve(caller, request.path, Verdicts())
    return found.decide(HeaderBlock(beginning, fields[split:])) if isinstance(found, Steps) else found


@settings(max_examples=400, deadline=None)
@given(configs.map(named), st.lists(requests, min_size=1, max_size=6), st.integers(0, 4))
def test_the_compiled_rules_decide_as_the_model_does(config: Config, asked: list[Request], split: int) -> None:
    rules = compiled(config)
    for request in asked:
        permit = decide(rules, request, split=split)
        passes, rule = model(config, request)
        assert (permit.decision == "allow") is passes
        assert permit.rule == rule or (rule == "default" and permit.rule.startswith("token:"))


@settings(max_examples=300, deadline=None)
@given(configs.map(named), requests)
def test_a_token_is_asked_for_only_where_none_was_sent_and_one_could_help(config: Config, request: Request) -> None:
    permit = decide(compiled(config), request)
    if permit.rule.startswith("token:"):
        assert request.claims is None
        assert model(config, request) == (False, "default")
    # Without tokens nobody is asked for one, and nothing else is decided otherwise.
    plain = decide(compiled(config), request, may_prove=False)
    assert plain.decision == permit.decision
    assert not plain.rule.startswith("token:")


@settings(max_examples=200, deadline=None)
@given(configs.map(named), requests, requests)
def test_hiding_attributes_gains_nothing_against_a_deny_rule(config: Config, request: Request, other: Request) -> None:
    """Whoever a deny rule stops is stopped as well when it shows nothing at all."""
    if model(config, request)[0]:
        return
    _, rule = model(config, request)
    if not rule.startswith("deny"):
        return
    hidden = Request(None, None, [], request.path)
    anonymity = any("anonymous" in each["from"] for each in config["deny"])
    if not anonymity:
        assert not model(config, hidden)[0]
        assert decide(compiled(config), hidden).decision == "deny"


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ((), Holds.YES),
        ((Holds.YES, Holds.YES), Holds.YES),
        ((Holds.YES, Holds.UNPROVEN), Holds.UNPROVEN),
        ((Holds.UNPROVEN, Holds.ABSENT), Holds.ABSENT),
        ((Holds.ABSENT, Holds.NO), Holds.NO),
        ((Holds.NO, Holds.YES), Holds.NO),
    ],
)
def test_all_conditions_of_a_rule_hold_together(known: tuple[Holds, ...], expected: Holds) -> None:
    conditions = tuple(lambda _, holds=each: holds for each in known)
    assert Rule("r", denies=False, methods=lambda _: True, conditions=conditions).judge(Caller(None)) is expected


def test_only_rules_about_the_method_are_looked_at() -> None:
    config = named(
        {
            "deny": [],
            "allow": [{"from": {}, "methods": [f"/p.S/M{i}"]} for i in range(20)],
            "roles": {},
            "permissions": {},
            "grants": {},
            "default": "deny",
        }
    )
    rules = compiled(config)
    assert [each.name for each in rules.about("/p.S/M7")] == ["allow-7"]
    assert rules.about("/p.S/M7") is rules.about("/p.S/M7")
    assert rules.about("/p.S/m7") == ()
