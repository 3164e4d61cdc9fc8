from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.load import MAX_BYTES, Loaded, load, parse
from sidecar.config.problems import ConfigError
from sidecar.config.root import Root

SECTIONS = ", ".join(Root.model_fields)
GOOD = """\
node: {name: orders-1}
admin:
  bind: 127.0.0.1:9901
drain_timeout: 30s
listeners:
  - name: inbound
    direction: inbound
    bind: 0.0.0.0:8443
    tls:
      certificate: certs/orders.crt
      private_key: certs/orders.key
      trusted_ca: certs/ca.crt
      client_certificate: require
    limits:
      max_concurrent_streams: 1000
      max_metadata: 16KiB
      idle_timeout: 1h
    policies:
      deadline: {default: 10s}
    routes:
      - name: execute
        match:
          method: /agent.v1.AgentService/Execute
          authority: "*"
          metadata: {x-tenant: "acme-*"}
        to: local
        idempotent: true
      - name: rest
        match: {method: "/*"}
        to: data-agent
  - name: outbound
    direction: outbound
    bind: 127.0.0.1:8080
    routes:
      - {name: all, match: {method: ["/a.v1.A/*", "/b.v1.B/Get*"]}, to: data-agent}
policies:
  deadline:
    default: 30s
    max: 10m
  headers:
    set: {x-mesh: "1"}
    remove: [x-internal]
clusters:
  local:
    endpoints: ["127.0.0.1:50051"]
  data-agent:
    endpoints: ["10.0.0.5:8443"]
    tls:
      certificate: certs/orders.crt
      private_key: certs/orders.key
      trusted_ca: certs/ca.crt
      peer_identities: ["spiffe://mesh.local/agent/data"]
      server_name: data-agent
    connections: 1
"""

# What to replace in GOOD, with what, and the problem that makes, without the file's name.
BAD: list[tuple[str, str, str]] = [
    # unknown fields, also of sections that come later
    (
        "node: {name",
        "node: {nmae",
        "1:8: node.nmae: unknown field; did you mean `name`? allowed: name",
    ),
    (
        "drain_timeout: 30s",
        "drain_timeuot: 30s",
        f"4:1: drain_timeuot: unknown field; did you mean `drain_timeout`? allowed: {SECTIONS}",
    ),
    (
        "node: {name: orders-1}",
        "store: {url: x}",
        "1:14: store.url: `x` has a scheme that is no store's; allowed: sqlite://, redis://, rediss://, unix://, "
        "redis+sentinel://, redis+cluster://, rediss+cluster://, memory://",
    ),
    (
        "node: {name: orders-1}",
        "nonsense: {}",
        f"1:1: nonsense: unknown field; allowed: {SECTIONS}",
    ),
    (
        "  headers:\n",
        "  authz: {}\n  headers:\n",
        "40:3: policies.authz: unknown field; allowed: deadline, headers",
    ),
    (
        "deadline: {default: 10s}",
        "dedline: {default: 10s}",
        "19:7: listeners.0.policies.dedline: unknown field; did you mean `deadline`? allowed: deadline, headers",
    ),
    (
        "idempotent: true",
        "retrys: 3",
        "27:9: listeners.0.routes.0.retrys: unknown field; allowed: name, match, to, policies, idempotent",
    ),
    (
        "connections: 1\n",
        "unheard_of: {}\n",
        "54:5: clusters.data-agent.unheard_of: unknown field; allowed: endpoints, versions, rollout, tls, connections, "
        "keepalive, connect_timeout, balancing, slow_start, panic_below, health_check, outlier_ejection, circuit_breaker, "
        "concurrency",
    ),
    (
        "connections: 1\n",
        "rollout: {stable: blue}\n",
        "54:14: clusters.data-agent.rollout.candidate: is required; add it (the version that is to take over)",
    ),
    (
        "connections: 1\n",
        "circuit_braker: {}\n",
        "54:5: clusters.data-agent.circuit_braker: unknown field; did you mean `circuit_breaker`? allowed: endpoints, "
        "versions, rollout, tls, connections, keepalive, connect_timeout, balancing, slow_start, panic_below, health_check, "
        "outlier_ejection, circuit_breaker, concurrency",
    ),
    (
        "connections: 1\n",
        "balancing: fastest\n",
        "54:16: clusters.data-agent.balancing: `fastest` is no way to balance; allowed: round_robin, least_request, "
        "ring_hash: {key: identity} or {key: metadata.NAME}",
    ),
    (
        "connections: 1\n",
        "outlier_ejection: {base_ejection: 10m}\n",
        "54:39: clusters.data-agent.outlier_ejection.base_ejection: `10m` is longer than max_ejection; lower it, or raise "
        "max_ejection",
    ),
    (
        "peer_identities",
        "peer_identity",
        "52:7: clusters.data-agent.tls.peer_identity: unknown field; did you mean `peer_identities`? "
        "allowed: certificate, private_key, trusted_ca, peer_identities, server_name",
    ),
    # missing
    (
        "    direction: outbound\n",
        "",
        "31:5: listeners.1.direction: is required; add it (inbound: in front of our agent; outbound: from "
        "our app to the mesh)",
    ),
    (
        "    bind: 127.0.0.1:8080\n",
        "",
        "31:5: listeners.1.bind: is required; add it (where to listen: host:port or unix:/path)",
    ),
    (
        'match: {method: "/*"}',
        "match: {}",
        "29:16: listeners.0.routes.1.match.method: is required; add it (/package.Service/Method, "
        "/package.Service/Get*, /* or a list of such)",
    ),
    (
        "{name: all, match",
        "{match",
        "35:9: listeners.1.routes.0.name: is required; add it (name in logs and metrics, unique in its listener)",
    ),
    (
        "        to: local\n",
        "",
        "21:9: listeners.0.routes.0.to: is required; add it (the cluster they go to)",
    ),
    (
        "      trusted_ca: certs/ca.crt\n      peer",
        "      peer",
        "49:7: clusters.data-agent.tls.trusted_ca: is required; add it (PEM file with the CAs that sign the endpoints)",
    ),
    (
        '    endpoints: ["127.0.0.1:50051"]\n',
        "    connections: 1\n",
        "45:5: clusters.local.endpoints: is required; add it (or versions: where it runs, by version)",
    ),
    # nothing where something must be
    (
        "{name: orders-1}",
        "",
        "1:6: node: has no value; write one, or remove the field",
    ),
    (
        "drain_timeout: 30s",
        "drain_timeout: ~",
        "4:16: drain_timeout: is null, which stands for nothing here; remove the field, or put the word into quotes",
    ),
    (
        "{default: 10s}",
        "null",
        "19:17: listeners.0.policies.deadline: is null, which stands for nothing here; remove the field, or "
        "put the word into quotes",
    ),
    (
        '["127.0.0.1:50051"]',
        "[]",
        "45:16: clusters.local.endpoints: must have at least 1 entry",
    ),
    # wrong types
    (
        "idempotent: true",
        "idempotent: yes",
        "27:21: listeners.0.routes.0.idempotent: must be true or false; this is text; only `true` and "
        "`false`, without quotes, are booleans",
    ),
    (
        "idempotent: true",
        "idempotent: True",
        "27:21: listeners.0.routes.0.idempotent: must be true or false; this is text; only `true` and "
        "`false`, without quotes, are booleans",
    ),
    (
        "streams: 1000",
        "streams: 01000",
        "15:31: listeners.0.limits.max_concurrent_streams: must be a whole number, in decimal digits; this "
        "is text; no quotes, no leading 0, no 0x, no _",
    ),
    (
        "streams: 1000",
        "streams: 1_000",
        "15:31: listeners.0.limits.max_concurrent_streams: must be a whole number, in decimal digits; this "
        "is text; no quotes, no leading 0, no 0x, no _",
    ),
    (
        "streams: 1000",
        "streams: 1.5",
        "15:31: listeners.0.limits.max_concurrent_streams: must be a whole number, in decimal digits; this "
        "is a number with a fraction",
    ),
    (
        "connections: 1\n",
        "connections: true\n",
        "54:18: clusters.data-agent.connections: must be a whole number, in decimal digits; this is true or false",
    ),
    (
        'x-mesh: "1"',
        "x-mesh: 1",
        "41:19: policies.headers.set.x-mesh: must be text; this is a number; put it into quotes",
    ),
    (
        "[x-internal]",
        "x-internal",
        "42:13: policies.headers.remove: must be a list ([a, b], or lines that begin with -); this is text",
    ),
    (
        "node: {name: orders-1}",
        "node: orders-1",
        "1:7: node: must be a mapping (name: value); this is text",
    ),
    (
        "node: {name: orders-1}",
        "node: {name: 12}",
        "1:14: node.name: must be text; this is a number; put it into quotes",
    ),
    # units
    (
        "drain_timeout: 30s",
        "drain_timeout: 30",
        "4:16: drain_timeout: `30` has no unit; write a number and a unit: 250ms, 5s, 30m, 24h",
    ),
    (
        "drain_timeout: 30s",
        "drain_timeout: 30 sec",
        "4:16: drain_timeout: `30 sec` is not a duration; write a number and a unit: 250ms, 5s, 30m, 24h",
    ),
    (
        "drain_timeout: 30s",
        "drain_timeout: -1s",
        "4:16: drain_timeout: `-1s` is negative; write a number and a unit: 250ms, 5s, 30m, 24h",
    ),
    (
        "16KiB",
        "16kb",
        "16:21: listeners.0.limits.max_metadata: `16kb` is not a size; write a whole number and a unit: "
        "512B, 64KiB, 4MiB, 1GiB",
    ),
    (
        "16KiB",
        "16384",
        "16:21: listeners.0.limits.max_metadata: `16384` has no unit; write a whole number and a unit: 512B, "
        "64KiB, 4MiB, 1GiB",
    ),
    # bounds
    (
        "streams: 1000",
        "streams: 0",
        "15:31: listeners.0.limits.max_concurrent_streams: `0` must be at least 1",
    ),
    (
        "streams: 1000",
        "streams: 2147483648",
        "15:31: listeners.0.limits.max_concurrent_streams: `2147483648` must be at most 2147483647",
    ),
    (
        "16KiB",
        "1023B",
        "16:21: listeners.0.limits.max_metadata: `1023B` is too little; allowed: 1KiB to 1MiB",
    ),
    (
        "idle_timeout: 1h",
        "idle_timeout: 0s",
        "17:21: listeners.0.limits.idle_timeout: `0s` is too little; allowed: 1ms to 87600h",
    ),
    (
        "    default: 30s",
        "    default: 0s",
        "38:14: policies.deadline.default: `0s` must be more than 0s",
    ),
    (
        "    default: 30s",
        "    default: 11m",
        "38:14: policies.deadline.default: `11m` is longer than max; lower it, or raise max",
    ),
    (
        "    default: 30s\n    max: 10m",
        "    max: 10s",
        "38:5: policies.deadline.default: is longer than max; lower it, or raise max",
    ),
    (
        "connections: 1\n",
        "connections: 65\n",
        "54:18: clusters.data-agent.connections: `65` must be at most 64",
    ),
    # words
    (
        "direction: outbound",
        "direction: outbuond",
        "32:16: listeners.1.direction: `outbuond` is not known here; did you mean `outbound`? allowed: "
        "inbound, outbound",
    ),
    (
        "client_certificate: require",
        "client_certificate: on",
        "13:27: listeners.0.tls.client_certificate: `on` is not known here; did you mean `none`? allowed: "
        "require, optional, none",
    ),
    # names and patterns
    (
        "- name: outbound",
        "- name: Out bound",
        "31:11: listeners.1.name: `Out bound` is not a name; lower-case letters, digits, - and _, at most "
        "63, a letter or digit first",
    ),
    (
        "  local:\n",
        "  Local:\n",
        "44:3: clusters.Local: `Local` is not a name; lower-case letters, digits, - and _, at most 63, a "
        "letter or digit first",
    ),
    (
        "/agent.v1.AgentService/Execute",
        "agent.v1.AgentService/Execute",
        "23:19: listeners.0.routes.0.match.method: `agent.v1.AgentService/Execute` does not begin with /; "
        "write /package.Service/Method, /package.Service/Get*, /package.Service/* or /*",
    ),
    (
        "/b.v1.B/Get*",
        "/b.v1.B/*Get",
        "35:51: listeners.1.routes.0.match.method.1: `/b.v1.B/*Get` has a * before its end; write "
        "/package.Service/Method, /package.Service/Get*, /package.Service/* or /*",
    ),
    (
        'authority: "*"',
        'authority: "a*b"',
        "24:22: listeners.0.routes.0.match.authority: `a*b` has a * that is not at one end; write the exact "
        "text, prefix*, *suffix or *",
    ),
    (
        "{x-tenant:",
        "{grpc-tenant:",
        "25:22: listeners.0.routes.0.match.metadata.grpc-tenant: `grpc-tenant` is reserved: names that begin "
        "with grpc- belong to gRPC itself; choose another name",
    ),
    (
        "{x-tenant:",
        '{":path":',
        "25:22: listeners.0.routes.0.match.metadata.:path: `:path` is a pseudo-header and belongs to HTTP/2; "
        "name an ordinary metadata entry such as x-tenant",
    ),
    (
        "{x-mesh:",
        "{X-Mesh:",
        "41:11: policies.headers.set.X-Mesh: `X-Mesh` has upper-case letters; metadata names are lower case: x-mesh",
    ),
    (
        "[x-internal]",
        "[x-sidecar-identity]",
        "42:14: policies.headers.remove.0: `x-sidecar-identity` is reserved: names that begin with "
        "x-sidecar- belong to the sidecar; choose another name",
    ),
    (
        "[x-internal]",
        "[connection]",
        "42:14: policies.headers.remove.0: `connection` is reserved: it belongs to the connection or to "
        "gRPC's framing; choose another name",
    ),
    (
        'x-mesh: "1"',
        'x-mesh: "a\\nb"',
        "41:19: policies.headers.set.x-mesh: `a\\nb` is not a metadata value; visible ASCII without a space "
        "at either end is allowed",
    ),
    (
        "spiffe://mesh.local/agent/data",
        "spiffe://mesh.local*",
        "52:25: clusters.data-agent.tls.peer_identities.0: `spiffe://mesh.local*` has no lower-case trust "
        "domain after spiffe://; write spiffe://domain/path, spiffe://domain/prefix* or a DNS name",
    ),
    (
        "server_name: data-agent",
        "server_name: a b",
        "53:20: clusters.data-agent.tls.server_name: `a b` is not a host name; letters, digits, `-` and `.`, "
        "at most 253",
    ),
    # addresses
    (
        "bind: 127.0.0.1:8080",
        "bind: 127.0.0.1",
        "33:11: listeners.1.bind: `127.0.0.1` has no port; write host:port ([::1]:8443 for IPv6) or unix:/path",
    ),
    (
        "bind: 127.0.0.1:8080",
        "bind: 127.0.0.1:80800",
        "33:11: listeners.1.bind: `127.0.0.1:80800` has a port out of range; allowed: 0 to 65535",
    ),
    (
        "bind: 127.0.0.1:8080",
        "bind: ::1:8080",
        "33:11: listeners.1.bind: `::1:8080` has several colons; put an IPv6 address into brackets: [::1]:8443",
    ),
    (
        "bind: 127.0.0.1:8080",
        "bind: "
        "unix:/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaa",
        "33:11: listeners.1.bind: `unix:/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…` is 108 "
        "bytes long; a socket path has at most 107",
    ),
    (
        "bind: 127.0.0.1:8080",
        "bind: unix:a.sock",
        "33:11: listeners.1.bind: `unix:a.sock` is not an absolute path; write unix:/path",
    ),
    (
        "10.0.0.5:8443",
        "https://10.0.0.5:8443",
        "47:17: clusters.data-agent.endpoints.0: `https://10.0.0.5:8443` is a URL; write host:port "
        "([::1]:8443 for IPv6) or unix:/path",
    ),
    (
        "10.0.0.5:8443",
        "10.0.0.5:0",
        "47:17: clusters.data-agent.endpoints.0: `10.0.0.5:0` has a port out of range; allowed: 1 to 65535",
    ),
    # fields that are wrong together
    (
        "      trusted_ca: certs/ca.crt\n      client",
        "      client",
        "10:7: listeners.0.tls.trusted_ca: is missing, but client_certificate is require; name the file of "
        "the CAs that sign callers, or set client_certificate: none",
    ),
    (
        "      private_key: certs/orders.key\n      trusted_ca: certs/ca.crt\n      peer",
        "      trusted_ca: certs/ca.crt\n      peer",
        "49:7: clusters.data-agent.tls.private_key: is missing, but there is a certificate; name the file of "
        "its private key",
    ),
    (
        "      private_key: certs/orders.key\n      trusted_ca: certs/ca.crt\n      client",
        "      trusted_ca: certs/ca.crt\n      client",
        "10:7: listeners.0.tls.private_key: is required; add it (PEM file with the private key of the certificate)",
    ),
    (
        "bind: 127.0.0.1:9901",
        "bind: 0.0.0.0:9901",
        "3:9: admin.bind: `0.0.0.0:9901` can be reached from other machines; bind to 127.0.0.1 or "
        "unix:/path, or set admin.token",
    ),
    (
        "bind: 127.0.0.1:9901",
        "token: short",
        "3:10: admin.token: must have at least 16 characters",
    ),
    # between sections
    (
        "        to: local\n",
        "        to: locla\n",
        "26:13: listeners.0.routes.0.to: `locla` is no cluster; did you mean `local`? known: data-agent, local",
    ),
    (
        "- name: outbound",
        "- name: inbound",
        "31:11: listeners.1.name: `inbound` is also the name of listeners.0; names must differ",
    ),
    (
        "- name: rest",
        "- name: execute",
        "28:15: listeners.0.routes.1.name: `execute` is also the name of listeners.0.routes.0; names must differ",
    ),
    (
        "bind: 127.0.0.1:8080",
        "bind: 127.0.0.1:8443",
        "33:11: listeners.1.bind: `127.0.0.1:8443` is taken in part by `0.0.0.0:8443` of listeners.0.bind, "
        "too; choose another port",
    ),
    (
        "bind: 127.0.0.1:8080",
        "bind: 127.0.0.1:9901",
        "33:11: listeners.1.bind: `127.0.0.1:9901` is the address of admin.bind, too; choose another port",
    ),
    (
        '          method: /agent.v1.AgentService/Execute\n          authority: "*"\n          metadata: '
        '{x-tenant: "acme-*"}\n',
        '          method: "/*"\n',
        "27:16: listeners.0.routes.1.match: is never reached: routes.0 (`execute`) takes every call before; "
        "put this route first, or remove it",
    ),
    # YAML
    (
        "admin:\n",
        "node: {}\nadmin:\n",
        "2:1: node: is given twice (first on line 1); keep one of them",
    ),
    (
        "    policies:\n",
        "    <<: {}\n    policies:\n",
        "18:5: listeners.0: merge keys (<<) are not supported; write the fields out, or alias the whole value",
    ),
    (
        "orders-1",
        "!!str orders-1",
        "1:14: node.name: the tag `tag:yaml.org,2002:str` is not supported; remove it, and put text into quotes",
    ),
    (
        "orders-1",
        "${NODE}",
        "1:15: `${` begins a mapping here; between brackets or braces put ${NAME} into quotes",
    ),
    # the environment
    (
        "drain_timeout: 30s",
        "drain_timeout: ${DRAIN}",
        "4:16: drain_timeout: needs the environment variable DRAIN, which is not set; set it, or write "
        "${DRAIN:-default}",
    ),
    (
        "drain_timeout: 30s",
        "drain_timeout: ${DRAIN",
        "4:16: drain_timeout: has a ${ that is not followed by a name and }; write ${NAME} or "
        "${NAME:-default}, and $$ for a dollar sign",
    ),
    (
        "drain_timeout: 30s",
        "drain_timeout: ${SECONDS}",
        "4:16: drain_timeout: `${SECONDS}` is not a duration; write a number and a unit: 250ms, 5s, 30m, 24h",
    ),
]


@pytest.mark.parametrize(("old", "new", "problem"), BAD, ids=[problem.split(" ", 2)[1] for _, _, problem in BAD])
def test_a_bad_configuration_is_told_with_its_line(
    problems: Callable[..., list[str]], old: str, new: str, problem: str
) -> None:
    assert GOOD.count(old) == 1, old
    found = problems(GOOD.replace(old, new), SECONDS="hunter2")
    # A cluster that is misnamed is also unknown where it is used.
    assert f"c.yaml:{problem}" in found
    assert all("is no cluster" in each for each in found if each != f"c.yaml:{problem}")


def test_the_table_has_many_kinds() -> None:
    assert len({problem for _, _, problem in BAD}) >= 80


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "c.yaml:1:1: is empty; at least listeners and clusters are needed"),
        ("# nothing\n", "c.yaml:1:1: is empty; at least listeners and clusters are needed"),
        ("---\n", "c.yaml:1:1: is empty; at least listeners and clusters are needed"),
        ("- a\n", "c.yaml:1:1: must be a mapping at the top: node, admin, listeners, policies, clusters"),
        ("just words\n", "c.yaml:1:1: must be a mapping at the top: node, admin, listeners, policies, clusters"),
        ("a: 1\n---\nb: 2\n", "c.yaml:2:1: a second document begins here; keep one document in a file"),
        ("a:\n\tb: 1\n", "c.yaml:2:1: a tab in the indentation; YAML is indented with spaces only"),
        ("{}", "c.yaml:1:1: listeners: is required; add it (where calls come from)"),
        ("listeners: []", "c.yaml:1:12: listeners: must have at least 1 entry"),
    ],
)
def test_what_is_no_configuration_at_all(problems: Callable[..., list[str]], text: str, problem: str) -> None:
    assert problems(text) == [problem]


def test_aliases_cannot_make_a_small_file_large(problems: Callable[..., list[str]]) -> None:
    laughs = [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)]
    (found,) = problems("a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(laughs))
    assert found.startswith("c.yaml:")
    assert found.endswith(": aliases (*name) make the configuration too large; use fewer of them")


def test_a_good_configuration_is_read(read: Callable[..., Loaded]) -> None:
    loaded = read(GOOD)
    root = loaded.root
    assert loaded.warnings == ()
    assert root.node.name == "orders-1"
    assert root.drain_timeout == 30.0
    inbound, outbound = root.listeners
    assert (inbound.bind, inbound.direction, outbound.direction) == ("0.0.0.0:8443", "inbound", "outbound")
    assert inbound.tls is not None
    assert inbound.tls.certificate == Path("/etc/sidecar/certs/orders.crt")
    assert inbound.limits.max_metadata == 16384
    assert inbound.limits.max_message == 4194304
    assert inbound.routes[0].match.metadata == {"x-tenant": "acme-*"}
    assert inbound.routes[0].idempotent
    assert outbound.routes[0].match.methods == ("/a.v1.A/*", "/b.v1.B/Get*")
    assert root.clusters["data-agent"].endpoints == ("10.0.0.5:8443",)


def test_the_contract_parses() -> None:
    """The sections of the contract's example that exist so far, with the built-in policies."""
    text = """
node: {name: orders-1}                      # default: host name
admin: {bind: 127.0.0.1:9901}               # HTTP + dashboard + gRPC Admin service; loopback unless token: is set
listeners:
  - name: inbound
    direction: inbound
    bind: 0.0.0.0:8443
    tls:
      certificate: certs/orders.crt
      private_key: certs/orders.key
      trusted_ca: certs/ca.crt
      client_certificate: require
    limits: {max_concurrent_streams: 1000, max_connections: 10000, max_metadata: 16KiB, max_message: 4MiB,
             idle_timeout: 1h, max_connection_age: 0s, header_timeout: 10s}
    policies: {}
    routes:
      - name: execute
        match: {method: "/agent.v1.AgentService/Execute", authority: "*", metadata: {x-tenant: "acme-*"}}
        to: local
        policies: {}
        idempotent: true
      - {name: rest, match: {method: "/*"}, to: local}
policies:
  deadline: {default: 30s, max: 10m, idle: 5m}
  headers: {set: {x-mesh: "1"}, remove: [x-internal]}
clusters:
  local: {endpoints: ["127.0.0.1:50051"]}
  data-agent:
    tls: {certificate: certs/orders.crt, private_key: certs/orders.key, trusted_ca: certs/ca.crt,
          peer_identities: ["spiffe://mesh.local/agent/data"], server_name: data-agent}
    balancing: least_request                # round_robin | least_request (power of two choices) | ring_hash {key: metadata.x-session}
    connections: 1
    health_check: {service: "agent.v1.AgentService", mode: watch, interval: 5s, timeout: 1s,
                   unhealthy_after: 3, healthy_after: 1}          # mode: watch | check | off
    outlier_ejection: {consecutive_failures: 5, base_ejection: 30s, max_ejection: 5m, max_ejected_percent: 50}
    circuit_breaker: {failure_threshold: 5, success_threshold: 2, open_for: 60s, half_open_max: 1}
    concurrency: {max_in_flight: 1024, max_pending: 1024}
    endpoints: ["10.0.0.5:8443"]
"""
    assert list(parse(text).root.policies.named()) == ["deadline", "headers"]


def test_everything_wrong_is_told_at_once_in_the_order_of_the_file(problems: Callable[..., list[str]]) -> None:
    text = GOOD.replace("orders-1", "a b").replace("30s\nlis", "${X}\nlis").replace("to: local", "to: nowhere")
    text = text.replace("remove: [x-internal]", "remove: [x-internal]\n    remove: []").replace(
        "connections: 1", "x: 1"
    )
    assert [each.split(": ")[0] for each in problems(text)] == [
        "c.yaml:1:14",
        "c.yaml:4:16",
        "c.yaml:26:13",
        "c.yaml:43:5",
        "c.yaml:55:5",
    ]


def test_what_could_not_be_read_is_not_told_twice(problems: Callable[..., list[str]]) -> None:
    assert len(problems(GOOD.replace("{name: orders-1}", ""))) == 1
    assert len(problems(GOOD.replace("bind: 127.0.0.1:8080", "bind: ${BIND}"))) == 1


def test_an_unknown_field_is_told_even_if_its_value_is_broken(problems: Callable[..., list[str]]) -> None:
    assert len(problems(GOOD.replace("connections: 1", "x: ~"))) == 2


def test_a_secret_is_in_no_problem(problems: Callable[..., list[str]]) -> None:
    text = GOOD.replace("bind: 127.0.0.1:9901", "token: ${TOKEN}")
    for secret in ("hunter2", "1234567"):
        found = problems(text, TOKEN=secret)
        assert found
        assert secret not in "\n".join(found)


def test_the_environment_is_taken_from_what_is_given(read: Callable[..., Loaded]) -> None:
    text = GOOD.replace("30s\nlis", "${DRAIN:-5s}\nlis").replace("streams: 1000", "streams: ${STREAMS}")
    root = read(text, STREAMS="7").root
    assert (root.drain_timeout, root.listeners[0].limits.max_concurrent_streams) == (5.0, 7)


def test_the_host_name_is_the_default_of_the_node(read: Callable[..., Loaded]) -> None:
    assert read(GOOD.replace("node: {name: orders-1}", "")).root.node.name == "host-1"
    assert read(GOOD.replace("{name: orders-1}", "{}")).root.node.name == "host-1"


def test_a_whole_value_may_be_an_alias(read: Callable[..., Loaded]) -> None:
    text = GOOD.replace("    limits:\n", "    limits: &limits\n").replace(
        "    bind: 127.0.0.1:8080\n", "    bind: 127.0.0.1:8080\n    limits: *limits\n"
    )
    inbound, outbound = read(text).root.listeners
    assert inbound.limits == outbound.limits


def test_a_byte_order_mark_is_no_problem(read: Callable[..., Loaded]) -> None:
    assert read("\ufeff" + GOOD).root.node.name == "orders-1"


def test_a_problem_can_be_told_of_any_value_later(read: Callable[..., Loaded]) -> None:
    loaded = read(GOOD)
    assert str(loaded.problem(("listeners", 0, "tls", "private_key"), "x")) == (
        "c.yaml:11:20: listeners.0.tls.private_key: x"
    )


# ── files ──


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "sidecar.yaml"
    path.write_text(GOOD)
    return path


def test_a_file_is_loaded_with_what_it_depends_on(path: Path, order: Any) -> None:
    loaded = load(path, environ={}, order=order)
    certs = path.parent / "certs"
    assert loaded.files == (path, certs / "orders.crt", certs / "orders.key", certs / "ca.crt")
    assert loaded.source_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.file == str(path)


def test_relative_paths_begin_at_the_file_wherever_we_stand(
    path: Path, order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    loaded = load(Path("sidecar.yaml"), environ={}, order=order)
    tls = loaded.root.listeners[0].tls
    assert tls is not None
    assert tls.certificate == path.parent / "certs" / "orders.crt"


@pytest.mark.parametrize(
    ("content", "where", "message"),
    [
        (b"node:\n  name: \xff\n", "2:9", "the byte 0xff is not UTF-8; save the file as UTF-8"),
        ("node: é".encode("latin-1"), "1:7", "the byte 0xe9 is not UTF-8; save the file as UTF-8"),
        (GOOD.encode("utf-16"), "1:1", "the byte 0xff is not UTF-8; save the file as UTF-8"),
        (b"\0" * 10, "1:1", "the character U+0000 is not allowed in YAML; remove it"),
        (b"#" * (MAX_BYTES + 1), "1:1", "is larger than 1MiB; no configuration is that large"),
        (b"", "1:1", "is empty; at least listeners and clusters are needed"),
    ],
)
def test_bytes_that_are_no_configuration(path: Path, content: bytes, where: str, message: str) -> None:
    path.write_bytes(content)
    assert _refused(path) == f"{path}:{where}: {message}"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    assert _refused(path) == f"{path}:1:1: there is no such file; name an existing one"


def test_a_directory(tmp_path: Path) -> None:
    assert _refused(tmp_path) == f"{tmp_path}:1:1: is a directory; name a file in it"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(path: Path) -> None:
    path.chmod(0)
    assert _refused(path) == f"{path}:1:1: may not be read by this user; give it read permission"


def test_a_path_that_leads_through_a_file(path: Path) -> None:
    assert _refused(path / "x") == f"{path}/x:1:1: cannot be read: Not a directory; name a readable file"


def _refused(path: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        load(path, environ={})
    return str(refused.value)


# ── anything at all ──


@settings(deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="ab:-[]{}&*!|>'\"%@`#,?<~$ \t\n\r0.")))
def test_any_text_is_read_or_refused_with_a_line(text: str) -> None:
    _read_or_refused(text)


@settings(deadline=None)
@given(st.data())
def test_a_configuration_with_a_piece_replaced_is_read_or_refused(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, min(len(GOOD), start + 40)))
    piece = data.draw(
        st.one_of(st.just(""), st.sampled_from(["~", "${X}", "[]", "{}", "*a", "- ", "5", ": "]), st.text(max_size=8))
    )
    _read_or_refused(GOOD[:start] + piece + GOOD[end:])


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["5s", "/*", "a:1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None)
@given(st.data())
def test_a_configuration_with_a_value_replaced_is_read_or_refused(data: st.DataObject) -> None:
    document = yaml.safe_load(GOOD)
    place: Any = document
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(VALUES)
    _read_or_refused(yaml.safe_dump(document, allow_unicode=True))
    _read_or_refused(json.dumps(document))


def _read_or_refused(text: str) -> None:
    lines = text.count("\n") + text.count("\r") + 2
    try:
        loaded = parse(text, file="c.yaml", environ={}, host="h")
    except ConfigError as error:
        assert error.problems  # noqa: PT017
        for problem in error.problems:
            assert 1 <= problem.line <= lines + sum(map(text.count, "\x85\u2028\u2029"))
            assert problem.column >= 1
            assert problem.message
            assert "\n" not in str(problem)
    else:
        assert loaded.root.listeners
