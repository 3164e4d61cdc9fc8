"""Authorization as a caller meets it: who may call what, what it is told, and what stays with the call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.grpc_wire.status import StatusCode
from sidecar.policies.authz import Authz
from sidecar.policies.authz.rules import Permit
from sidecar.proxy.rejection import Rejection
from sidecar.telemetry import names
from tests.support.bench import Bench, Metadata, config_of, of, refused
from tests.support.tokens import Idp, bearer

ORDERS = "spiffe://mesh.local/agent/orders"
DATA = "spiffe://mesh.local/agent/data"
BATCH = "spiffe://mesh.local/job/batch"
FOREIGN = "spiffe://other.local/agent/orders"
DNS = "legacy.svc"
GET = "/agent.v1.AgentService/GetTask"
EXECUTE = "/agent.v1.AgentService/Execute"
DELETE = "/agent.v1.AgentService/DeleteTask"
CANCEL = "/agent.v1.AgentService/Cancel"
HEALTH = "/grpc.health.v1.Health/Check"
ACME = {"x-tenant": "acme"}

# Everything at once: identities, roles by identity and by claim, grants, metadata, claims, nobody.
POLICY = """
jwt: {issuers: [{issuer: https://idp, audiences: [mesh], jwks_file: jwks.json}]}
roles:
  operator: ["spiffe://mesh.local/agent/orders", "claim:role=operator"]
  auditor: ["claim:team=audit-*"]
  worker: ["spiffe://mesh.local/job/*"]
permissions:
  READ: ["/agent.v1.AgentService/Get*", "/agent.v1.AgentService/List*"]
  Execute: ["/agent.v1.AgentService/Execute*"]
  purge: ["/agent.v1.AgentService/DeleteTask"]
grants:
  operator: [read, EXECUTE]
  auditor: [Read]
  worker: [execute]
deny:
  - {name: no-retired, from: {identities: ["*/retired"]}, methods: ["/agent.v1.AgentService/Cancel*"]}
  - {name: no-test-tenant, from: {metadata: {x-tenant: ["test-*", "*-sandbox"]}}, methods: ["/agent.v1.AgentService/Execute*"]}
  - {name: no-guest-deletes, from: {claims: {role: guest}}, methods: ["/agent.v1.AgentService/DeleteTask"]}
allow:
  - {name: data-reads, from: {identities: ["spiffe://mesh.local/agent/data", legacy.svc]}, methods: ["/agent.v1.AgentService/Get*"]}
  - {name: health, methods: ["/grpc.health.v1.Health/*"]}
  - {name: admins, from: {claims: {role: admin, level: ["8", "9"]}}, methods: ["/*"]}
  - {name: gold, from: {metadata: {x-plan: gold, x-region: "eu-*"}, identities: ["spiffe://mesh.local/*"]}, methods: ["/agent.v1.Report/*"]}
  - {name: walk-in, from: {anonymous: true}, methods: ["/agent.v1.Public/Hello"]}
  - {name: members, from: {anonymous: false}, methods: ["/agent.v1.Members/*"]}
  - {name: staff-ui, from: {roles: [auditor, worker], metadata: {x-ui: "*"}}, methods: ["/agent.v1.Ui/*"]}
  - {name: suffixed, from: {identities: ["*"]}, methods: ["*/Ping"]}
"""

N = None
MISSING, DENIED, NOTHING, UNKNOWN = "TOKEN_MISSING", "DENIED_BY_RULE", "NO_RULE_ALLOWS", "METHOD_UNKNOWN"
Claims = dict[str, Any]
ADMIN: Claims = {"role": "admin", "level": 9}

# (caller, method, metadata, claims of its token, the rule or grant that allows it | the reason it is refused)
CASES: list[tuple[str | None, str, Metadata, Claims | None, str]] = [
    # grants by identity
    (ORDERS, GET, {}, N, "operator:read"),
    (ORDERS, "/agent.v1.AgentService/ListTasks", {}, N, "operator:read"),
    (ORDERS, "/agent.v1.AgentService/Get", {}, N, "operator:read"),
    (ORDERS, EXECUTE, ACME, N, "operator:execute"),
    (ORDERS, "/agent.v1.AgentService/ExecuteStream", ACME, N, "operator:execute"),
    (BATCH, EXECUTE, ACME, N, "worker:execute"),
    ("spiffe://mesh.local/job/x/y", EXECUTE, ACME, N, "worker:execute"),
    (BATCH, GET, {}, N, MISSING),
    (ORDERS, "/agent.v1.AgentService/Update", {}, N, MISSING),
    # grants by claim
    (N, GET, {}, {"role": "operator"}, "operator:read"),
    (N, GET, {}, {"role": ["guest", "operator"]}, "operator:read"),
    (N, GET, {}, {"role": "Operator"}, NOTHING),
    (N, GET, {}, {"role": "operator "}, NOTHING),
    (N, GET, {}, {"role": {"operator": True}}, NOTHING),
    (N, GET, {}, {"roles": "operator"}, NOTHING),
    (N, GET, {}, {"team": "audit-eu"}, "auditor:read"),
    (N, GET, {}, {"team": "audit"}, NOTHING),
    (N, EXECUTE, ACME, {"team": "audit-eu"}, NOTHING),
    (N, EXECUTE, ACME, {"role": "operator"}, "operator:execute"),
    (DATA, EXECUTE, ACME, {"role": "operator"}, "operator:execute"),
    (BATCH, GET, {}, {"team": "audit-x"}, "auditor:read"),
    (N, DELETE, {}, {"role": "operator"}, NOTHING),
    # a token that was not sent, where one decides
    (N, GET, {}, N, MISSING),
    (N, EXECUTE, ACME, N, MISSING),
    (DATA, EXECUTE, ACME, N, MISSING),
    (DATA, "/some.Other/Method", {}, N, MISSING),
    (N, "/some.Other/Method", {}, N, MISSING),
    (N, "/some.Other/Method", {}, {}, NOTHING),
    # allow rules by identity
    (DATA, GET, {}, N, "data-reads"),
    (DNS, GET, {}, N, "data-reads"),
    (DATA, GET, {}, {"role": "nothing"}, "data-reads"),
    ("spiffe://mesh.local/agent/data2", GET, {}, {}, NOTHING),
    ("spiffe://mesh.local/agent/data/x", GET, {}, {}, NOTHING),
    ("spiffe://mesh.local/agent/Data", GET, {}, {}, NOTHING),
    ("spiffe://mesh.local/agent/dat", GET, {}, {}, NOTHING),
    ("xspiffe://mesh.local/agent/data", GET, {}, {}, NOTHING),
    ("evil.legacy.svc", GET, {}, {}, NOTHING),
    ("legacy.svc.evil", GET, {}, {}, NOTHING),
    (FOREIGN, GET, {}, {}, NOTHING),
    ("spiffe://mesh.local.evil/agent/orders", GET, {}, {}, NOTHING),
    ("spiffe://mesh.locale/job/batch", EXECUTE, ACME, {}, NOTHING),
    # a claim is no identity, and metadata neither
    (N, GET, {}, {"sub": ORDERS}, NOTHING),
    (N, GET, {}, {"sub": DATA, "identity": DATA}, NOTHING),
    (FOREIGN, GET, {"x-sidecar-identity": ORDERS}, {}, NOTHING),
    (N, GET, {"x-forwarded-client-cert": f"URI={ORDERS}"}, {}, NOTHING),
    (N, GET, {"role": "operator", "x-claims": "role=operator"}, {}, NOTHING),
    # everybody
    (N, HEALTH, {}, N, "health"),
    (FOREIGN, HEALTH, {}, N, "health"),
    (N, HEALTH, {}, {"role": "guest"}, "health"),
    (N, "/grpc.health.v1.Health/Watch", {}, N, "health"),
    (N, "/grpc.health.v1.Healthy/Check", {}, {}, NOTHING),
    # several claims
    (N, DELETE, {}, {"role": "admin", "level": 9}, "admins"),
    (N, "/any.Thing/AtAll", {}, {"role": "admin", "level": "8"}, "admins"),
    (N, DELETE, {}, {"role": "admin", "level": 7}, NOTHING),
    (N, DELETE, {}, {"role": "admin"}, NOTHING),
    (N, "/any.Thing/AtAll", {}, {"level": 9}, NOTHING),
    (N, "/any.Thing/AtAll", {}, {"role": "admin", "level": None}, NOTHING),
    (N, "/any.Thing/AtAll", {}, {"role": "admin", "level": [1, 9]}, "admins"),
    # deny rules: before anything that allows
    ("spiffe://mesh.local/agent/retired", CANCEL, {}, ADMIN, DENIED),
    ("spiffe://mesh.local/job/retired", CANCEL, {}, N, DENIED),
    (ORDERS, CANCEL, {}, ADMIN, "admins"),
    (ORDERS, CANCEL, {}, {}, NOTHING),
    ("spiffe://mesh.local/agent/retired", HEALTH, {}, N, "health"),
    ("spiffe://mesh.local/agent/retired2", CANCEL, {}, ADMIN, "admins"),
    (ORDERS, EXECUTE, {"x-tenant": "test-1"}, N, DENIED),
    (ORDERS, EXECUTE, {"x-tenant": "test-"}, N, DENIED),
    (ORDERS, EXECUTE, {"x-tenant": "eu-sandbox"}, N, DENIED),
    (ORDERS, EXECUTE, {"x-tenant": "Test-1"}, N, "operator:execute"),
    (ORDERS, EXECUTE, {"x-tenant": "latest-1"}, N, "operator:execute"),
    (ORDERS, EXECUTE, {"x-tenant": ""}, N, "operator:execute"),
    (ORDERS, GET, {"x-tenant": "test-1"}, N, "operator:read"),
    (N, EXECUTE, {"x-tenant": "test-1"}, {"role": "admin", "level": 9}, DENIED),
    # … what is absent counts as matching
    (N, CANCEL, {}, ADMIN, DENIED),
    (N, CANCEL, {}, N, DENIED),
    (ORDERS, EXECUTE, {}, N, DENIED),
    (ORDERS, EXECUTE, {"x-other": "acme"}, N, DENIED),
    (N, GET, {}, {"role": "guest"}, NOTHING),
    (N, DELETE, {}, {"role": "guest"}, DENIED),
    (N, DELETE, {}, {"role": ["guest", "admin"], "level": 9}, DENIED),
    (N, DELETE, {}, {}, DENIED),
    (N, DELETE, {}, N, MISSING),
    (ORDERS, DELETE, {}, N, MISSING),
    # … one of several values is enough
    (ORDERS, EXECUTE, [("x-tenant", "test-1"), ("x-tenant", "acme")], N, DENIED),
    (ORDERS, EXECUTE, [("x-tenant", "acme"), ("x-tenant", "test-1")], N, DENIED),
    (ORDERS, EXECUTE, [("x-tenant", "acme"), ("x-tenant", "acme2")], N, "operator:execute"),
    # allow rules by metadata: all of it
    (DATA, "/agent.v1.Report/Sum", {"x-plan": "gold", "x-region": "eu-1"}, {}, "gold"),
    (DATA, "/agent.v1.Report/Sum", {"x-plan": "gold"}, {}, NOTHING),
    (DATA, "/agent.v1.Report/Sum", {"x-region": "eu-1"}, {}, NOTHING),
    (DATA, "/agent.v1.Report/Sum", {"x-plan": "gold", "x-region": "us-1"}, {}, NOTHING),
    (DATA, "/agent.v1.Report/Sum", {"x-plan": "golden", "x-region": "eu-1"}, {}, NOTHING),
    (DATA, "/agent.v1.Report/Sum", {}, {}, NOTHING),
    (FOREIGN, "/agent.v1.Report/Sum", {"x-plan": "gold", "x-region": "eu-1"}, {}, NOTHING),
    (N, "/agent.v1.Report/Sum", {"x-plan": "gold", "x-region": "eu-1"}, {}, NOTHING),
    # … and every value of it
    (DATA, "/agent.v1.Report/Sum", [("x-plan", "gold"), ("x-plan", "free"), ("x-region", "eu-1")], {}, NOTHING),
    (DATA, "/agent.v1.Report/Sum", [("x-plan", "free"), ("x-plan", "gold"), ("x-region", "eu-1")], {}, NOTHING),
    (DATA, "/agent.v1.Report/Sum", [("x-plan", "gold"), ("x-region", "eu-1"), ("x-plan", "gold")], {}, "gold"),
    # nobody, and somebody
    (N, "/agent.v1.Public/Hello", {}, N, "walk-in"),
    (N, "/agent.v1.Public/Hello", {}, {}, NOTHING),
    (ORDERS, "/agent.v1.Public/Hello", {}, {}, NOTHING),
    (ORDERS, "/agent.v1.Members/List", {}, N, "members"),
    (N, "/agent.v1.Members/List", {}, {}, "members"),
    (N, "/agent.v1.Members/List", {}, N, MISSING),
    # roles and metadata together
    (BATCH, "/agent.v1.Ui/Show", {"x-ui": "1"}, N, "staff-ui"),
    (BATCH, "/agent.v1.Ui/Show", {"x-ui": ""}, N, "staff-ui"),
    (BATCH, "/agent.v1.Ui/Show", {}, {}, NOTHING),
    (N, "/agent.v1.Ui/Show", {"x-ui": "1"}, {"team": "audit-1"}, "staff-ui"),
    (N, "/agent.v1.Ui/Show", {"x-ui": "1"}, N, MISSING),
    (DATA, "/agent.v1.Ui/Show", {"x-ui": "1"}, {}, NOTHING),
    # any identity, a suffix of the method
    (FOREIGN, "/some.Thing/Ping", {}, N, "suffixed"),
    (DNS, "/x/Ping", {}, N, "suffixed"),
    (N, "/some.Thing/Ping", {}, {}, NOTHING),
    (FOREIGN, "/some.Thing/XPing", {}, {}, NOTHING),
    (FOREIGN, "/some.Thing/ping", {}, {}, NOTHING),
    # hostile paths: as sent, or not at all
    (ORDERS, "//agent.v1.AgentService/GetTask", {}, {}, UNKNOWN),
    (ORDERS, "/agent.v1.AgentService//GetTask", {}, {}, UNKNOWN),
    (ORDERS, "/agent.v1.AgentService/GetTask/", {}, {}, UNKNOWN),
    (ORDERS, "/agent.v1.AgentService/GetTask//", {}, {}, UNKNOWN),
    (ORDERS, "/agent.v1.AgentService%2FGetTask", {}, {}, UNKNOWN),
    (ORDERS, "/agent.v1.AgentService/Get%54ask", {}, {}, UNKNOWN),
    (ORDERS, "/agent.v1.AgentService/GetTask%00", {}, {}, UNKNOWN),
    (ORDERS, "/agent.v1.AgentService/GetTask?x=1", {}, {}, UNKNOWN),
    (ORDERS, "/agent.v1.AgentService/GetTask#x", {}, {}, UNKNOWN),
    (ORDERS, "/agent.v1.AgentService/GetTask;x", {}, {}, UNKNOWN),
    (ORDERS, "/agent.v1.AgentService/../admin.v1.Admin/Drop", {}, {}, UNKNOWN),
    (ORDERS, "/agent.v1.AgentService/./GetTask", {}, {}, UNKNOWN),
    (ORDERS, "/agent.v1.AgentService\\GetTask", {}, {}, UNKNOWN),
    (ORDERS, "/agent.v1.AgentService/GetTask DELETE", {}, {}, UNKNOWN),
    (ORDERS, "/agent.v1.AgentService/Get*", {}, {}, UNKNOWN),
    (ORDERS, "/*", {}, {}, UNKNOWN),
    (ORDERS, "/", {}, {}, UNKNOWN),
    (ORDERS, "//", {}, {}, UNKNOWN),
    (ORDERS, "//GetTask", {}, {}, UNKNOWN),
    (ORDERS, "/agent.v1.AgentService/", {}, {}, UNKNOWN),
    (ORDERS, "/agent.v1.AgentService", {}, {}, UNKNOWN),
    (ORDERS, "agent.v1.AgentService/GetTask", {}, {}, UNKNOWN),
    (ORDERS, "*", {}, {}, UNKNOWN),
    (ORDERS, "http://mesh/agent.v1.AgentService/GetTask", {}, {}, UNKNOWN),
    (ORDERS, "/AGENT.V1.AGENTSERVICE/GETTASK", {}, {}, NOTHING),
    (ORDERS, "/agent.v1.agentservice/GetTask", {}, {}, NOTHING),
    (ORDERS, "/agent.v1.AgentService/gettask", {}, {}, NOTHING),
    (ORDERS, "/agent.v1.AgentServiceX/GetTask", {}, {}, NOTHING),
    (ORDERS, "/xagent.v1.AgentService/GetTask", {}, {}, NOTHING),
    (ORDERS, "/agent.v1/AgentService", {}, {}, NOTHING),
    ("spiffe://mesh.local/agent/retired", "/agent.v1.AgentService/CancelTask", {}, ADMIN, DENIED),
    ("spiffe://mesh.local/agent/retired", "/agent.v1.AgentService/cancelTask", {}, {}, NOTHING),
    ("spiffe://mesh.local/agent/retired", "/Agent.v1.AgentService/CancelTask", {}, {}, NOTHING),
]


@pytest.fixture
def idp(tmp_path: Path) -> Idp:
    return Idp(tmp_path / "jwks.json")


@pytest.fixture
def bench(idp: Idp) -> Bench[Authz]:
    return of(Authz, POLICY, directory=idp.file.parent)


def metadata_of(bench: Bench[Authz], idp: Idp, metadata: Metadata, claims: Claims | None) -> list[tuple[str, str]]:
    pairs = list(metadata.items()) if isinstance(metadata, dict) else list(metadata)  # type: ignore[arg-type]
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
    for caller, method, metadata in ((ORDERS, GET, {}), (DATA, GET, {}), (ORDERS, GET, {}), (ORDERS, EXECUTE, {})):
        bench.request(caller, method, metadata)
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
