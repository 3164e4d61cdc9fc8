"""One policy with everything in it, and who may call what under it; for the policy alone, and for real connections."""

from __future__ import annotations

from typing import Any

from tests.support.bench import Metadata

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
