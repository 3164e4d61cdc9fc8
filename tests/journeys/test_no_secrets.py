"""No secret anywhere: a full run with planted secrets, and everything it wrote, searched for them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from clients.python.client import AgentClient, TlsFiles
from clients.python.failure import CallFailure
from tests.support.pki import Pki
from tests.support.processes import Sidecar
from tests.support.tokens import Idp

PLANTED = {
    "admin token": "planted-admin-token-4711",
    "api key": "planted-api-key-4711",
    "cookie": "planted-cookie-4711",
    "password in a message": "planted-password-4711",
    "password in a store URL": "planted-store-password-4711",
    "configured header": "planted-upstream-credential-4711",
    "forged token": "eyJhbGciOiJub25lIn0.cGxhbnRlZC10b2tlbi00NzEx.",
}

CONFIG = """
node: {{name: secrets}}
admin: {{bind: 127.0.0.1:0, token: "${{ADMIN_TOKEN}}"}}
store: {{url: "redis://user:{store_password}@127.0.0.1:1/0"}}
listeners:
  - name: inbound
    direction: inbound
    bind: 127.0.0.1:0
    tls: {{certificate: {certificate}, private_key: {key}, trusted_ca: {ca}}}
    limits: {{max_message: 64KiB}}
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
policies:
  deadline: {{default: 10s, max: 1m, idle: 30s}}
  authz:
    jwt: {{issuers: [{{issuer: "https://idp", audiences: [mesh], jwks_file: {jwks}}}], header: authorization}}
    allow: [{{name: mesh, from: {{identities: ["spiffe://mesh.local/*"]}}, methods: ["/agent.v1.AgentService/*"]}}]
  rate_limit:
    - {{name: shared, rate: 1000/1m, per: [metadata.x-api-key], scope: shared, optional: true, on_store_error: allow}}
    - {{name: few, rate: 5/1h, burst: 5, per: [metadata.cookie], optional: true}}
  headers: {{set: {{x-api-token: "${{UPSTREAM_CREDENTIAL}}"}}}}
  audit: {{sink: "file://{audit}", record: [decisions, calls]}}
clusters:
  local: {{endpoints: ["{agent}"]}}
"""


async def test_what_was_planted_is_nowhere(tmp_path: Path) -> None:
    pki = Pki(tmp_path / "certs")
    server, client = pki.leaf("server"), pki.leaf("client")
    idp = Idp(tmp_path / "jwks.json")
    token = idp.token(now=time.time())
    planted = {**PLANTED, "token": token, "private key": server.private_key.read_text().splitlines()[1]}
    audit = tmp_path / "audit.jsonl"
    config = CONFIG.format(
        certificate=server.certificate,
        key=server.private_key,
        ca=server.ca,
        jwks=idp.file,
        audit=audit,
        agent="127.0.0.1:1",
        store_password=PLANTED["password in a store URL"],
    )
    environ = {"ADMIN_TOKEN": PLANTED["admin token"], "UPSTREAM_CREDENTIAL": PLANTED["configured header"]}
    said: list[str] = []
    with Sidecar(config, tmp_path, environ=environ, arguments=("--log-level", "debug")) as sidecar:
        tls = TlsFiles(server.ca, client.certificate, client.private_key)
        async with AgentClient(sidecar.addresses["inbound"], tls=tls, agent="data", timeout=5) as agent:
            secrets = [("x-api-key", PLANTED["api key"]), ("cookie", PLANTED["cookie"])]
            message = {"sql": f"SELECT '{PLANTED['password in a message']}'"}
            for metadata in (
                [*secrets, ("authorization", f"Bearer {token}")],
                [*secrets, ("authorization", f"Bearer {PLANTED['forged token']}")],
                [*secrets, ("authorization", f"Bearer {token}x")],
                secrets,
            ) * 3:
                with pytest.raises(CallFailure) as failure:
                    await agent.execute("query", message, metadata=metadata)
                said += [str(failure.value), json.dumps(failure.value.as_dict()), repr(failure.value.trailers)]
            with pytest.raises(CallFailure) as failure:
                await agent.execute("query", {"sql": "--" + PLANTED["password in a message"] * 5000})
            said.append(repr(failure.value.trailers))
        sidecar.path.write_text(config + "\nnonsense: true\n")
        sidecar.wait_for_log(lambda line: line.get("event", "").startswith("configuration rejected"))
        bearer = {"authorization": f"Bearer {PLANTED['admin token']}"}
        for path in (
            "/",
            "/config",
            "/metrics",
            "/clusters",
            "/listeners",
            "/certs",
            "/readyz?verbose",
            "/version",
            "/drain",
        ):
            status, body = sidecar.get(path, bearer)
            assert status in {200, 503}, f"{path}: {status}"
            said.append(body)
        status, body = sidecar.get("/config")
        assert status == 401
        said.append(body)
        sidecar.stop()
        said.append(sidecar.text)
    said += [path.read_text() for path in tmp_path.glob("audit.jsonl*") if path.is_file() and "key" not in path.suffix]
    everything = "\n".join(said)
    assert "IDENTITY" in everything or "TOKEN_" in everything
    assert audit.exists()
    for what, secret in planted.items():
        assert secret not in everything, f"{what} was written"
