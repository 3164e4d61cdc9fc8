"""Who may call what, with a real sidecar, real certificates and real connections: nobody gets in where they do not belong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.support.authorization import CASES, DATA, EXECUTE, GET, HEALTH, ORDERS, POLICY, Claims
from tests.support.bench import Metadata
from tests.support.pki import Leaf, Pki
from tests.support.processes import Sidecar
from tests.support.tokens import Idp, bearer

LIMIT = 20.0
"""Seconds after which an RPC of these tests gives up."""


class Agent(grpc.GenericRpcHandler):
    """Answers every method with who it was told is calling; `reached` are the methods that came through."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    def service(self, details: Any) -> Any:
        self.reached.append(details.method)
        told = [value for name, value in details.invocation_metadata if name == "x-sidecar-identity"]
        answer = ",".join(map(str, told)).encode()
        if details.method.endswith("/GetStream"):
            return grpc.stream_stream_rpc_method_handler(lambda requests, _: (answer for _ in requests))
        return grpc.unary_unary_rpc_method_handler(lambda *_: answer)


class Mesh:
    """An agent behind a sidecar, and callers with certificates of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pki = Pki(folder / "certs")
        self.idp = Idp(folder / "jwks.json")
        self.agent = Agent()
        self._server = grpc.server(ThreadPoolExecutor(4), handlers=[self.agent])
        self.agent_port = self._server.add_insecure_port("127.0.0.1:0")
        self._channels: dict[str | None, grpc.Channel] = {}
        self.sidecar = Sidecar(self.config(POLICY), folder)

    def config(self, policy: str) -> str:
        server = self.pki.leaf("server")
        section = "".join(f"      {line}\n" for line in policy.strip().splitlines())
        return f"""
admin: {{bind: "127.0.0.1:0"}}
listeners:
  - name: inbound
    direction: inbound
    bind: 127.0.0.1:0
    tls: {{certificate: {server.certificate}, private_key: {server.private_key}, trusted_ca: {server.ca}, client_certificate: optional}}
    policies:
      authz:
{"".join("  " + line + chr(10) for line in section.splitlines())}
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
clusters:
  local: {{endpoints: ["127.0.0.1:{self.agent_port}"]}}
"""

    def __enter__(self) -> Mesh:
        self._server.start()
        self.sidecar.start()
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels.values():
            channel.close()
        self.sidecar.stop()
        self._server.stop(None).wait()

    def leaf(self, identity: str) -> Leaf:
        """A certificate that names `identity`, and nothing else."""
        name = "caller-" + "".join(letter if letter.isalnum() else "-" for letter in identity)
        if identity.startswith("spiffe://"):
            return self.pki.leaf(name, uris=(identity,), dns=(), ips=())
        return self.pki.dns_only(name, identity)

    def channel(self, leaf: Leaf | None) -> Any:
        key = None if leaf is None else leaf.certificate.name
        if key not in self._channels:
            credentials = grpc.ssl_channel_credentials(
                self.pki.ca.read_bytes(),
                None if leaf is None else leaf.private_key.read_bytes(),
                None if leaf is None else leaf.certificate.read_bytes(),
            )
            options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
            self._channels[key] = grpc.secure_channel(self.sidecar.addresses["inbound"], credentials, options)
        return self._channels[key]

    def call(self, leaf: Leaf | None, method: str, metadata: Metadata = ()) -> bytes:
        """What the agent answers. Raises grpc.RpcError."""
        pairs = tuple(metadata.items() if isinstance(metadata, Mapping) else metadata)
        answer: bytes = self.channel(leaf).unary_unary(method)(b"", metadata=pairs, timeout=LIMIT)
        return answer

    def refusal(self, leaf: Leaf | None, method: str, metadata: Metadata = ()) -> tuple[grpc.StatusCode, str, Any]:
        """(code, reason, details) of a call that must be refused, and must not reach the agent."""
        before = len(self.agent.reached)
        with pytest.raises(grpc.RpcError) as raised:
            self.call(leaf, method, metadata)
        assert len(self.agent.reached) == before, "a refused call reached the agent"
        return told(raised.value)


def told(error: Any) -> tuple[grpc.StatusCode, str, Any]:
    """(code, reason, ErrorInfo) that a caller reads out of a status of ours."""
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(error)
    for detail in () if status is None else status.details:
        if detail.Unpack(info):
            assert dict(error.trailing_metadata())["x-sidecar-origin"] == "sidecar"
            assert info.domain == "sidecar"
    return error.code(), info.reason, info


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("mesh")) as made:
        yield made


CODES = {
    "TOKEN_MISSING": grpc.StatusCode.UNAUTHENTICATED,
    "DENIED_BY_RULE": grpc.StatusCode.PERMISSION_DENIED,
    "NO_RULE_ALLOWS": grpc.StatusCode.PERMISSION_DENIED,
    "METHOD_UNKNOWN": grpc.StatusCode.UNIMPLEMENTED,
}
# No certificate can name these: they are refused before any rule is asked.
NO_IDENTITIES = {"xspiffe://mesh.local/agent/data"}
ON_THE_WIRE = [case for case in CASES if case[0] not in NO_IDENTITIES]


@pytest.mark.parametrize(("caller", "method", "metadata", "claims", "expected"), ON_THE_WIRE)
def test_who_may_call_what_on_real_connections(
    mesh: Mesh, caller: str | None, method: str, metadata: Metadata, claims: Claims | None, expected: str
) -> None:
    leaf = None if caller is None else mesh.leaf(caller)
    pairs = list(metadata.items() if isinstance(metadata, Mapping) else metadata)
    if claims is not None:
        pairs += bearer(mesh.idp.token(claims, now=time.time())).items()
    if expected in CODES:
        code, reason, _ = mesh.refusal(leaf, method, pairs)
        assert (code, reason) == (CODES[expected], expected)
    else:
        assert mesh.call(leaf, method, pairs) == (caller or "").encode()


# ── identities ──


@pytest.mark.parametrize(
    "made",
    [
        lambda pki: pki.two_uris("two"),
        lambda pki: pki.malformed("dots"),
        lambda pki: pki.malformed("slash", "spiffe://mesh.local/agent/orders/"),
        lambda pki: pki.malformed("percent", "spiffe://mesh.local/agent/%6frders"),
        lambda pki: pki.malformed("port", "spiffe://mesh.local:443/agent/orders"),
        lambda pki: pki.malformed("other-scheme", "https://mesh.local/agent/orders"),
        lambda pki: pki.no_san("nameless"),
    ],
)
def test_a_certificate_that_names_nobody_is_refused(mesh: Mesh, made: Callable[[Pki], Leaf]) -> None:
    leaf = made(mesh.pki)
    for method in (GET, HEALTH):
        code, reason, _ = mesh.refusal(leaf, method)
        assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "IDENTITY_UNUSABLE")


def test_a_token_does_not_make_up_for_a_certificate_that_names_nobody(mesh: Mesh) -> None:
    token = bearer(mesh.idp.token({"role": "admin", "level": 9}, now=time.time()))
    assert mesh.refusal(mesh.pki.two_uris("two"), GET, token)[1] == "IDENTITY_UNUSABLE"


def test_a_foreign_trust_domain_is_refused_by_rule(mesh: Mesh) -> None:
    token = bearer(mesh.idp.token({}, now=time.time()))
    code, reason, info = mesh.refusal(mesh.pki.foreign("orders"), GET, token)
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "NO_RULE_ALLOWS")
    assert info.metadata["identity"] == "spiffe://elsewhere.example/agent/orders"


@pytest.mark.parametrize("made", [Pki.expired, Pki.not_yet_valid])
def test_a_certificate_out_of_its_time_does_not_connect(mesh: Mesh, made: Callable[[Pki, str], Leaf]) -> None:
    # The handshake fails, also where a certificate is optional.
    assert mesh.refusal(made(mesh.pki, f"time-{made.__name__}"), HEALTH)[:2] == (grpc.StatusCode.UNAVAILABLE, "")


def test_a_certificate_of_another_authority_does_not_connect(mesh: Mesh) -> None:
    leaf = Pki(mesh.folder / "evil", "evil").leaf("evil-orders", uris=(ORDERS,))
    assert mesh.refusal(leaf, HEALTH)[:2] == (grpc.StatusCode.UNAVAILABLE, "")


def test_the_agent_is_told_who_calls_and_nothing_that_a_caller_says(mesh: Mesh) -> None:
    forged = [("x-sidecar-identity", ORDERS), ("x-sidecar-identity", "spiffe://mesh.local/agent/root")]
    assert mesh.call(mesh.leaf(DATA), GET, forged) == DATA.encode()
    assert mesh.call(None, HEALTH, forged) == b""


# ── tokens ──


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (lambda idp, now: idp.token({"exp": now - 60}, now=now), "TOKEN_EXPIRED"),
        (lambda idp, now: idp.token({"nbf": now + 60}, now=now), "TOKEN_NOT_YET_VALID"),
        (lambda idp, now: idp.token({"aud": "elsewhere"}, now=now), "TOKEN_WRONG_AUDIENCE"),
        (lambda idp, now: idp.token({"iss": "https://evil"}, now=now), "TOKEN_INVALID"),
        (lambda idp, now: idp.token(now=now, kid="ec-9"), "TOKEN_UNKNOWN_KEY"),
        (lambda idp, now: idp.token(now=now, key="ec-evil"), "TOKEN_INVALID"),
        (lambda _, now: "eyJhbGciOiJub25lIn0.e30.", "TOKEN_INVALID"),
        (lambda _, now: "garbage", "TOKEN_INVALID"),
    ],
)
def test_a_bad_token_is_refused_with_its_reason(mesh: Mesh, token: Callable[[Idp, float], str], reason: str) -> None:
    # Even for a caller whose certificate would be enough.
    text = token(mesh.idp, time.time())
    code, told_reason, info = mesh.refusal(mesh.leaf(ORDERS), GET, bearer(text))
    assert (code, told_reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)
    assert text not in str(info)


def test_a_megabyte_of_token_does_not_get_in(mesh: Mesh) -> None:
    huge = bearer(mesh.idp.token({"x": "y" * 1_000_000}, now=time.time()))
    code, reason, _ = mesh.refusal(mesh.leaf(ORDERS), GET, huge)
    assert (code, reason) in {
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "METADATA_TOO_LARGE"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ""),
        (grpc.StatusCode.UNAVAILABLE, ""),
    }
    assert mesh.call(mesh.leaf(ORDERS), GET) == ORDERS.encode(), "the caller can go on"


# ── what is told, counted, changed ──


def test_a_stream_is_refused_like_a_unary_call(mesh: Mesh) -> None:
    stream = mesh.channel(mesh.leaf(DATA)).stream_stream("/agent.v1.AgentService/ExecuteStream")
    with pytest.raises(grpc.RpcError) as raised:
        list(stream(iter([b"1"]), metadata=(("x-tenant", "test-1"),), timeout=LIMIT))
    assert told(raised.value)[:2] == (grpc.StatusCode.PERMISSION_DENIED, "DENIED_BY_RULE")
    allowed = mesh.channel(mesh.leaf(DATA)).stream_stream("/agent.v1.AgentService/GetStream")
    assert list(allowed(iter([b"1", b"2"]), timeout=LIMIT)) == [DATA.encode()] * 2


def test_a_refusal_names_rule_caller_and_method(mesh: Mesh) -> None:
    _, _, info = mesh.refusal(mesh.leaf(ORDERS), EXECUTE, {"x-tenant": "test-1"})
    assert dict(info.metadata) == {"rule": "no-test-tenant", "identity": ORDERS, "method": EXECUTE, "route": "all"}


def test_decisions_are_in_the_metrics_and_tokens_nowhere(mesh: Mesh) -> None:
    token = mesh.idp.token({"sub": "planted-subject"}, now=time.time())
    mesh.call(mesh.leaf(ORDERS), GET, bearer(token))
    status, text = mesh.sidecar.get("/metrics")
    assert status == 200
    lines = [line for line in text.splitlines() if line.startswith("sidecar_authz_decisions_total{")]
    allowed = [line for line in lines if 'decision="allow"' in line and 'rule="operator:read"' in line]
    assert len(allowed) == 1
    assert float(allowed[0].rsplit(" ", 1)[1]) >= 1
    for part in [*token.split("."), "planted-subject"]:
        assert part not in text
        assert part not in mesh.sidecar.text


def test_changed_rules_decide_new_calls_and_bad_ones_change_nothing(tmp_path: Path) -> None:
    with Mesh(tmp_path) as mesh:
        orders = mesh.leaf(ORDERS)
        assert mesh.call(orders, GET) == ORDERS.encode()
        bound = mesh.sidecar.path.read_text()
        mesh.sidecar.path.write_text(bound.replace("name: data-reads", "name: health"))
        rejected = mesh.sidecar.wait_for_log(lambda line: "rejected" in str(line))
        assert "every rule has its own" in str(rejected)
        assert mesh.call(orders, GET) == ORDERS.encode()
        lockdown = 'deny: [{name: lockdown, methods: ["/*"]}]\n'
        mesh.sidecar.path.write_text(mesh.config(lockdown))
        mesh.sidecar.wait_for_log(lambda line: "configuration accepted" in str(line))
        code, reason, info = mesh.refusal(orders, GET)
        assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "DENIED_BY_RULE")
        assert info.metadata["rule"] == "lockdown"
