"""Authorization as a caller meets it: who may call what, what it is told, and what stays with the call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from sidecar.config.load import parse
from sidecar.config.problems import ConfigError
from sidecar.grpc_wire.status import StatusCode
from sidecar.policies.authz import Authz
from sidecar.policies.authz.rules import Permit
from sidecar.proxy.rejection import Rejection
from sidecar.telemetry import names
from tests.support.authorization import (
    BATCH,
    CASES,
    DATA,
    DELETE,
    DENIED,
    EXECUTE,
    FOREIGN,
    GET,
    HEALTH,
    MISSING,
    NOTHING,
    ORDERS,
    POLICY,
    Claims,
)
from tests.support.bench import Bench, Metadata, config_of, of, refused
from tests.support.tokens import Idp, bearer


@pytest.fixture
def idp(tmp_path: Path) -> Idp:
    return Idp(tmp_path / "jwks.json")


@pytest.fixture
def bench(idp: Idp) -> Bench[Authz]:
    return of(Authz, POLICY, directory=idp.file.parent)


def metadata_of(bench: Bench[Authz], idp: Idp, metadata: Metadata, claims: Claims | None) -> list[tuple[str, str]]:
    pairs = list(metadata.items() if isinstance(metadata, Mapping) else metadata)
    if claims is not None:
        pairs += bearer(idp.token(claims, now=bench.clock.wall())).items()
    return pairs


@pytest.mark.parametrize(("caller", "method", "metadata", "claims", "expected"), CASES)
def test_who_may_call_what(
    bench: Bench[Authz],
    idp: Idp,
    caller: str | None,
    method: str,
    metadata: Metadata,
    claims: Claims | None,
    expected: str,
) -> None:
    pairs = metadata_of(bench, idp, metadata, claims)
    # Twice: what was worked out, and what was remembered.
    for _ in range(2):
        verdict = bench.request(caller, method, pairs)
        if verdict is None:
            permit = bench.last.notes["authz"]  # type: ignore[index]
            assert (permit.decision, permit.rule) == ("allow", expected)
        else:
            assert refused(verdict).reason.name == expected
            assert bench.streams[-1].seen.status == refused(verdict).code


def test_there_are_cases_enough() -> None:
    assert len(CASES) >= 100


def test_what_passed_for_one_passes_for_no_other(bench: Bench[Authz]) -> None:
    assert bench.request(ORDERS, GET) is None
    assert refused(bench.request(FOREIGN, GET)).reason.name == MISSING
    assert refused(bench.request(None, GET)).reason.name == MISSING
    assert refused(bench.request(ORDERS, "/agent.v1.AgentService/Update")).reason.name == MISSING
    assert bench.request(ORDERS, GET) is None


def test_what_a_token_allows_ends_with_the_token(bench: Bench[Authz], idp: Idp) -> None:
    token = bearer(idp.token({"role": "operator"}, now=bench.clock.wall()))
    assert bench.request(None, GET, token) is None
    bench.clock.advance(329.9)
    assert bench.request(None, GET, token) is None
    bench.clock.advance(0.2)
    assert refused(bench.request(None, GET, token)).reason.name == "TOKEN_EXPIRED"
    assert refused(bench.request(None, GET)).reason.name == MISSING


def test_a_bad_token_is_refused_wherever_tokens_are_accepted(bench: Bench[Authz], idp: Idp) -> None:
    expired = bearer(idp.token({"exp": bench.clock.wall() - 60}, now=bench.clock.wall()))
    for caller, method in ((ORDERS, GET), (None, HEALTH)):
        rejection = refused(bench.request(caller, method, expired))
        assert rejection.reason.name == "TOKEN_EXPIRED"
        assert rejection.code is StatusCode.UNAUTHENTICATED
        assert rejection.retry_after is None


def test_a_megabyte_of_token_is_refused(idp: Idp) -> None:
    bench = of(Authz, POLICY, directory=idp.file.parent, max_metadata=4 * 1024 * 1024)
    huge = bearer(idp.token({"x": "y" * 15_000}, now=bench.clock.wall()))
    assert refused(bench.request(ORDERS, GET, huge)).reason.name == "TOKEN_INVALID"


def test_two_tokens_are_refused(bench: Bench[Authz], idp: Idp) -> None:
    token = bearer(idp.token({"role": "operator"}, now=bench.clock.wall()))
    twice = [*token.items(), *token.items()]
    assert refused(bench.request(None, GET, twice)).reason.name == "TOKEN_INVALID"


def test_authorization_of_another_kind_is_not_ours(bench: Bench[Authz]) -> None:
    assert bench.request(ORDERS, GET, {"authorization": "Basic YTpi"}) is None
    assert refused(bench.request(None, GET, {"authorization": "Basic YTpi"})).reason.name == MISSING


# ── what is told ──


def test_a_refusal_names_the_rule_and_who_called_what(bench: Bench[Authz]) -> None:
    rejection = refused(bench.request(ORDERS, EXECUTE, {"x-tenant": "test-secret"}))
    assert rejection.code is StatusCode.PERMISSION_DENIED
    assert rejection.metadata == {"rule": "no-test-tenant", "identity": ORDERS, "method": EXECUTE, "route": "bench"}
    assert all(each in rejection.message for each in ("no-test-tenant", ORDERS, EXECUTE, "x-tenant"))
    assert "secret" not in str(rejection), "metadata may be one"


def test_a_refusal_by_default_says_so(bench: Bench[Authz], idp: Idp) -> None:
    rejection = refused(bench.request(FOREIGN, GET, metadata_of(bench, idp, {}, {})))
    assert rejection.message == f"no rule allows {FOREIGN} to call {GET}"
    assert rejection.metadata["rule"] == "default"


def test_a_missing_token_is_asked_for_by_the_rule_that_wants_it(bench: Bench[Authz]) -> None:
    rejection = refused(bench.request(None, DELETE))
    assert rejection.code is StatusCode.UNAUTHENTICATED
    assert rejection.metadata["rule"] == "no-guest-deletes"


def test_the_permit_says_what_decided_and_is_shared(bench: Bench[Authz], idp: Idp) -> None:
    pairs = metadata_of(bench, idp, {}, {"role": "operator", "team": "audit-1"})
    assert bench.request(BATCH, GET, pairs) is None
    permit = bench.last.notes["authz"]  # type: ignore[index]
    assert (permit.decision, permit.rule, permit.roles) == ("allow", "operator:read", ("operator", "auditor", "worker"))
    assert permit.token.subject == "alice"
    assert bench.request(BATCH, GET, pairs) is None
    assert bench.last.notes["authz"] is permit  # type: ignore[index]


def test_a_permit_shows_no_claims(bench: Bench[Authz], idp: Idp) -> None:
    bench.request(BATCH, GET, metadata_of(bench, idp, {}, {"role": "operator", "email": "secret@x"}))
    assert "secret" not in repr(bench.last.notes)


def decisions(bench: Bench[Authz]) -> dict[tuple[str, str], float]:
    samples = bench.metrics.samples(names.AUTHZ_DECISIONS)
    return {(decision, rule): count for (_, _, decision, rule), count in samples.items() if count}


def test_decisions_are_counted_by_rule(bench: Bench[Authz]) -> None:
    for caller, method in ((ORDERS, GET), (DATA, GET), (ORDERS, GET), (ORDERS, EXECUTE)):
        bench.request(caller, method)
    bench.request(ORDERS, GET, {"authorization": "Bearer x"})
    assert decisions(bench) == {
        ("allow", "operator:read"): 2,
        ("allow", "data-reads"): 1,
        ("deny", "no-test-tenant"): 1,
        ("deny", "jwt"): 1,
    }


def test_a_look_is_not_counted(bench: Bench[Authz]) -> None:
    assert bench.request(ORDERS, GET, peek=True) is None
    assert decisions(bench) == {}


def test_a_look_may_suppose_claims(bench: Bench[Authz]) -> None:
    assert bench.request(None, GET, peek=True, notes={"claims": {"role": "operator"}}) is None
    assert refused(bench.request(None, GET, notes={"claims": {"role": "operator"}})).reason.name == MISSING


# ── audit mode, defaults ──


def test_audit_mode_records_and_lets_pass(idp: Idp) -> None:
    bench = of(Authz, POLICY + "mode: audit\n", directory=idp.file.parent)
    for caller, method, metadata in (
        (ORDERS, GET, {}),
        (ORDERS, EXECUTE, {}),
        (None, GET, {}),
        (ORDERS, GET, {"authorization": "Bearer x"}),
    ):
        assert bench.request(caller, method, metadata) is None
    assert bench.forwarded == 4
    assert bench.last.notes["authz"].decision == "would_deny"  # type: ignore[index]
    assert decisions(bench) == {
        ("allow", "operator:read"): 1,
        ("would_deny", "no-test-tenant"): 1,
        ("would_deny", "admins"): 1,
        ("would_deny", "jwt"): 1,
    }


def test_an_empty_policy_denies_everything() -> None:
    bench = of(Authz)
    assert refused(bench.request()).reason.name == NOTHING


def test_the_default_may_be_to_allow() -> None:
    bench = of(Authz, "{default: allow, deny: [{name: bad, from: {identities: ['spiffe://mesh.local/bad/*']}}]}")
    assert bench.request(ORDERS) is None
    assert bench.last.notes["authz"].rule == "default"  # type: ignore[index]
    assert refused(bench.request("spiffe://mesh.local/bad/x")).reason.name == DENIED
    assert refused(bench.request(None)).reason.name == DENIED, "absent counts as matching"


def test_a_token_is_not_asked_for_where_the_default_allows(idp: Idp) -> None:
    text = POLICY + "default: allow\n"
    bench = of(Authz, text, directory=idp.file.parent)
    assert bench.request(None, GET) is None


def test_a_plain_policy_does_not_touch_tokens() -> None:
    bench = of(Authz, "allow: [{name: a, from: {identities: ['*']}}]")
    assert bench.request(ORDERS, metadata={"authorization": "Bearer garbage"}) is None
    assert bench.policy.files == ()
    assert not bench.policy.reload()


def test_invented_methods_and_identities_do_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.policies.authz.policy._DECISIONS_KEPT", 8)
    monkeypatch.setattr("sidecar.policies.authz.rules._PATHS_KEPT", 8)
    bench = of(Authz, "allow: [{name: a, from: {identities: ['spiffe://mesh.local/*']}, methods: ['/p.S/*']}]")
    for i in range(50):
        assert bench.request(f"spiffe://mesh.local/{i}", f"/p.S/M{i}") is None
        assert refused(bench.request(None, f"/p.S/M{i}")).reason.name == NOTHING
        assert len(bench.policy._decided) <= 8
        assert len(bench.policy._rules._by_path) <= 8


def test_invented_metadata_does_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.policies.authz.rules._SEEN_KEPT", 8)
    bench = of(Authz, "allow: [{name: a, from: {metadata: {x-t: 'ok-*'}}}]")
    for i in range(50):
        assert bench.request(ORDERS, metadata={"x-t": f"ok-{i}"}) is None
        assert refused(bench.request(ORDERS, metadata={"x-t": f"no-{i}"})).reason.name == NOTHING
        assert len(bench.policy._rules._seen) <= 8
    bench.policy._rules._seen.clear()
    for value in ("ok-" + "x" * 1000, "ok-1"):
        assert bench.request(ORDERS, metadata={"x-t": value}) is None
    assert len(bench.policy._rules._seen) == 1, "long values are not kept"


# ── reload ──


def test_rotated_keys_count_at_once(bench: Bench[Authz], idp: Idp) -> None:
    token = bearer(idp.token({"role": "operator"}, now=bench.clock.wall()))
    assert bench.request(None, GET, token) is None
    idp.publish("ec-2")
    assert bench.policy.files == (idp.file,)
    assert bench.policy.reload()
    assert not bench.policy.reload()
    assert refused(bench.request(None, GET, token)).reason.name == "TOKEN_UNKNOWN_KEY"
    assert bench.policy._decided.keys() == set(), "no decision of a former token is left"


def test_open_streams_are_kept_when_rules_change(bench: Bench[Authz], idp: Idp) -> None:
    bench.request(ORDERS, GET)
    assert of(Authz, "default: deny").policy.recheck(bench.last) is None


def test_open_streams_are_ended_when_rules_change_and_it_is_asked_for(bench: Bench[Authz], idp: Idp) -> None:
    bench.request(ORDERS, GET)
    stays = of(Authz, POLICY + "on_policy_change: end\n", directory=idp.file.parent, clock=bench.clock)
    assert stays.policy.recheck(bench.last) is None
    ends = of(Authz, "on_policy_change: end", clock=bench.clock)
    rejection = ends.policy.recheck(bench.last)
    assert isinstance(rejection, Rejection)
    bench.last.reject(rejection)
    bench.wire.run()
    assert bench.streams[-1].seen.status == StatusCode.PERMISSION_DENIED
    assert ends.policy.recheck(bench.last) is None, "it has ended"
    assert of(Authz, "{on_policy_change: end, mode: audit}").policy.recheck(bench.last) is None


def test_a_token_that_has_expired_since_ends_no_stream_but_a_withdrawn_key_does(bench: Bench[Authz], idp: Idp) -> None:
    assert bench.request(None, GET, bearer(idp.token({"role": "operator"}, now=bench.clock.wall()))) is None
    bench.clock.advance(3600)
    text = POLICY + "on_policy_change: end\n"
    assert of(Authz, text, directory=idp.file.parent, clock=bench.clock).policy.recheck(bench.last) is None
    idp.publish("ec-2")
    rejection = of(Authz, text, directory=idp.file.parent, clock=bench.clock).policy.recheck(bench.last)
    assert isinstance(rejection, Rejection)
    assert rejection.reason.name == "TOKEN_UNKNOWN_KEY"


# ── the configuration ──


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{allow: [{name: a, methods: ['/*']}, {name: a, methods: ['/*']}]}", "allow.1.name"),
        ("{deny: [{name: a, methods: ['/*']}], allow: [{name: a, methods: ['/*']}]}", "allow.0.name"),
        ("{allow: [{name: default, methods: ['/*']}]}", "allow.0.name"),
        ("{deny: [{name: jwt, methods: ['/*']}]}", "deny.0.name"),
        ("{grants: {ghost: [read]}, permissions: {read: ['/*']}}", "grants.ghost is no role"),
        ("{roles: {a: ['*']}, grants: {a: [read]}}", "grants.a.0 is no permission"),
        ("{roles: {a: ['*']}, permissions: {reed: ['/*']}, grants: {a: [read]}}", "did you mean `reed`"),
        ("{roles: {a: ['*']}, permissions: {p: ['/*']}, grants: {a: [p, P]}}", "grants.a.1 is granted already"),
        ("{permissions: {read: ['/*'], READ: ['/*']}}", "permissions.READ"),
        ("{permissions: {read: []}}", "permissions.read is empty"),
        ("{roles: {a: []}}", "roles.a is empty"),
        ("{roles: {a: ['*']}, grants: {a: []}}", "grants.a is empty"),
        ("{allow: [{name: a, from: {roles: [ghost]}}]}", "allow.0.from.roles.0 is no role"),
        ("{deny: [{name: a, from: {claims: {role: x}}}]}", "deny.0.from.claims asks for claims"),
        ("{roles: {a: ['claim:role=x']}}", "roles.a asks for a claim"),
        ("{allow: [{name: a}]}", "from is about everybody"),
        ("{deny: [{name: a, from: {}}]}", "from is about everybody"),
        ("{allow: [{name: a, from: {metadata: {x-bin: 'a'}}}]}", "metadata.x-bin holds bytes"),
        ("{allow: [{name: a, from: {metadata: {grpc-timeout: '*'}}}]}", "grpc-"),
        ("{allow: [{name: a, from: {metadata: {':path': '*'}}}]}", "pseudo-header"),
        ("{allow: [{name: a, from: {metadata: {te: '*'}}}]}", "reserved"),
        ("{allow: [{name: a, from: {metadata: {connection: '*'}}}]}", "reserved"),
        ("{allow: [{name: a, from: {metadata: {host: '*'}}}]}", "reserved"),
        ("{allow: [{name: a, from: {metadata: {x-sidecar-identity: '*'}}}]}", "reserved"),
        ("{allow: [{name: a, from: {metadata: {X-Tenant: '*'}}}]}", "upper-case"),
        ("{allow: [{name: a, from: {metadata: {x-t: []}}}]}", "could never match"),
        ("{allow: [{name: a, from: {metadata: {x-t: 'a*b'}}}]}", "not at one end"),
        ("{allow: [{name: a, from: {metadata: {x-t: 7}}}]}", "allow.0.from.metadata.x-t"),
        ("{allow: [{name: a, from: {identities: []}}]}", "allow.0.from.identities"),
        ("{allow: [{name: a, from: {identities: ['spiffe://*']}}]}", "trust domain"),
        ("{allow: [{name: a, from: {identity: ['*']}}]}", "allow.0.from.identity"),
        ("{allow: [{name: a, source: {identities: ['*']}}]}", "allow.0.source"),
        ("{allow: [{name: a, methods: []}]}", "allow.0.methods"),
        ("{allow: [{name: a, methods: ['Get']}]}", "allow.0.methods.0"),
        ("{allow: [{name: A, methods: ['/*']}]}", "allow.0.name"),
        ("{allow: [{methods: ['/*']}]}", "allow.0.name"),
        ("{mode: monitor}", "mode"),
        ("{default: maybe}", "default"),
        ("{on_policy_change: restart}", "on_policy_change"),
        ("{alow: []}", "alow"),
        ("{jwt: {}}", "jwt.issuers"),
        ("{jwt: {issuers: []}}", "jwt.issuers"),
        ("{jwt: {issuers: [{issuer: a, audiences: [b], jwks_file: c, algorithms: [none]}]}}", "algorithms.0"),
        ("{jwt: {issuers: [{issuer: a, audiences: [b], jwks_file: c, algorithms: [HS256]}]}}", "algorithms.0"),
    ],
)
def test_what_contradicts_itself_is_named(text: str, field: str) -> None:
    with pytest.raises(ValidationError) as raised:
        config_of(Authz, text)
    assert field in str(raised.value)


def test_several_contradictions_are_told_at_once() -> None:
    with pytest.raises(ValidationError) as raised:
        config_of(Authz, "{grants: {a: [x], b: [y]}, permissions: {x: ['/*']}}")
    assert all(each in str(raised.value) for each in ("grants.a", "grants.b", "grants.b.0"))


def test_problems_are_told_in_the_words_of_the_file() -> None:
    text = """
listeners:
  - {name: in, direction: inbound, bind: "127.0.0.1:0", routes: [{name: a, match: {method: "/*"}, to: local}]}
clusters: {local: {endpoints: ["127.0.0.1:1"]}}
policies:
  authz:
    deny: [{name: a, form: {anonymous: true}}]
    allow: [{name: b, from: {identity: ["x"]}}]
"""
    with pytest.raises(ConfigError) as raised:
        parse(text)
    told = str(raised.value)
    assert "policies.authz.deny.0.form: unknown field; did you mean `from`? allowed: name, from, methods" in told
    assert "policies.authz.allow.0.from.identity: unknown field; did you mean `identities`? allowed: " in told


def test_a_key_file_that_is_missing_names_its_field(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"jwt\.issuers\.0\.jwks_file: .*jwks\.json: cannot be read"):
        of(Authz, POLICY, directory=tmp_path)


def test_the_example_of_the_contract_is_a_policy(idp: Idp) -> None:
    config = config_of(
        Authz,
        json.dumps(
            {
                "mode": "enforce",
                "jwt": {
                    "issuers": [{"issuer": "https://idp", "audiences": ["mesh"], "jwks_file": "jwks.json"}],
                    "header": "authorization",
                },
                "roles": {"operator": [ORDERS, "claim:role=operator"]},
                "permissions": {
                    "read": ["/agent.v1.AgentService/Get*"],
                    "execute": ["/agent.v1.AgentService/Execute*"],
                    "admin": ["/*"],
                },
                "grants": {"operator": ["read", "execute"]},
                "deny": [{"name": "no-test-tenant", "from": {"metadata": {"x-tenant": "test-*"}}, "methods": ["/*"]}],
                "allow": [
                    {
                        "name": "orders-reads",
                        "from": {"identities": ["spiffe://mesh.local/agent/*"]},
                        "methods": ["/agent.v1.AgentService/Get*"],
                    }
                ],
                "default": "deny",
            }
        ),
        directory=idp.file.parent,
    )
    assert config.jwt.issuers[0].algorithms == ("ES256", "RS256")
    assert config.jwt.issuers[0].leeway == 30.0
    assert config.on_policy_change == "keep"
    assert isinstance(config, Authz.config_model)


def test_the_same_object_is_the_permit_of_calls_alike() -> None:
    bench = of(Authz, "allow: [{name: a, from: {identities: ['*']}}]")
    bench.request(ORDERS)
    first = bench.last.notes["authz"]  # type: ignore[index]
    bench.request(ORDERS)
    assert isinstance(first, Permit)
    assert bench.last.notes["authz"] is first  # type: ignore[index]
