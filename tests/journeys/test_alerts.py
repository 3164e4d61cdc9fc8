"""Alerts for real: a sidecar whose agent fails, and every kind of receiver beside it; then all is well again."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.pki import Leaf, Pki
from tests.support.processes import ROOT, NotReady, Sidecar
from tests.support.receivers import MailReceiver, Received, WebReceiver

TOKEN = "an-admin-token-0123"
SECRETS = ("slack-secret-T0", "routing-key-secret", "mail-password-secret", "hook-secret")
CONFIG = """
node: {{name: orders-1}}
admin: {{bind: 127.0.0.1:0, token: {token}}}
workers: {workers}
store: {{url: "sqlite:///{folder}/shared.db"}}
listeners:
  - name: inbound
    direction: inbound
    bind: 127.0.0.1:0
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
clusters:
  local:
    endpoints: ["127.0.0.1:{agent}"]
    circuit_breaker: {{failure_threshold: 2, success_threshold: 1, open_for: 200ms}}
alerts:
  group_wait: 0s
  group_interval: 0s
  rules:
    - {{name: breaker-open, metric: breaker_open, above: 0, resolve_after: 0s, severity: critical,
       runbook: "https://wiki.example/breaker"}}
  send:
    - {{name: hook, webhook: "{web}/hook", headers: {{authorization: "Bearer hook-secret"}}}}
    - {{slack_file: {folder}/slack}}
    - {{pagerduty: "${{PAGERDUTY}}", url: "{web}/v2/enqueue"}}
    - {{email: {{smtp: "{mail}", to: [ops@example.org], from: mesh@example.org, trusted_ca: {ca},
               username: mesh, password: "${{MAIL_PASSWORD}}"}}}}
    - {{name: dead, webhook: "http://127.0.0.1:{dead}/", timeout: 1s}}
    - {{name: silent, webhook: "http://127.0.0.1:{silent}/", timeout: 1m}}
"""


class Agent:
    """Echoes, or fails."""

    def __init__(self) -> None:
        self.fails = threading.Event()
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        handler = grpc.unary_unary_rpc_method_handler(self._answer)
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Service", {"Unary": handler})])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if self.fails.is_set():
            context.abort(grpc.StatusCode.UNAVAILABLE, "it is broken")
        return request


@pytest.fixture
def agent() -> Iterator[Agent]:
    agent = Agent()
    yield agent
    agent.server.stop(None).wait()


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    with WebReceiver() as web:
        yield web


@pytest.fixture
def mail(tmp_path: Path) -> Iterator[MailReceiver]:
    leaf = Pki(tmp_path / "pki").leaf("mail", ips=("127.0.0.1",))
    with MailReceiver(_context(leaf), login=("mesh", "mail-password-secret")) as mail:
        yield mail


def _context(leaf: Leaf) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(leaf.certificate, leaf.private_key)
    return made


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def make(
    tmp_path: Path, agent: Agent, web: WebReceiver, mail: MailReceiver, silent: socket.socket
) -> Callable[[int], Sidecar]:
    (tmp_path / "slack").write_text(f"{web.url}/services/slack-secret-T0\n")

    def made(workers: int) -> Sidecar:
        text = CONFIG.format(
            token=TOKEN,
            workers=workers,
            folder=tmp_path,
            agent=agent.port,
            web=web.url,
            mail=mail.address,
            ca=tmp_path / "pki" / "mesh-ca.crt",
            dead=free_port(),
            silent=silent.getsockname()[1],
        )
        environ = {
            "PAGERDUTY": "routing-key-secret",
            "MAIL_PASSWORD": "mail-password-secret",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        return Sidecar(text, tmp_path, environ=environ)

    return made


class Caller:
    """Calls one after the other, from a thread, until told to stop."""

    def __init__(self, address: str) -> None:
        self.codes: dict[str, int] = {}
        self._channel = grpc.insecure_channel(address)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._call)

    def _call(self) -> None:
        unary = self._channel.unary_unary("/test.Service/Unary")
        while not self._over.wait(0.02):
            try:
                unary(b"x", timeout=10)
                code = "OK"
            except grpc.RpcError as error:
                code = error.code().name
            self.codes[code] = self.codes.get(code, 0) + 1

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._channel.close()


def admin(sidecar: Sidecar, path: str) -> Any:
    status, body = sidecar.get(path, {"authorization": f"Bearer {TOKEN}"})
    assert status == 200, body
    return json.loads(body)


def cli(sidecar: Sidecar, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "SIDECAR_ADMIN": f"http://{sidecar.admin}", "SIDECAR_ADMIN_TOKEN": TOKEN}
    command = [sys.executable, "-m", "sidecar", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=60)


def states(received: list[Received], path: str) -> list[str]:
    """What the receiver at `path` has heard of the breaker."""
    found = []
    for each in received:
        if each.path == path == "/v2/enqueue" and each.body["payload"]["class"] == "breaker-open":
            found.append({"trigger": "firing", "resolve": "resolved"}[each.body["event_action"]])
        elif each.path == path == "/hook":
            found.extend(alert["state"] for alert in each.body["alerts"] if alert["name"] == "breaker-open")
        elif each.path == path and path.startswith("/services/"):
            found.extend(
                part["title"].split()[1]
                for part in each.body["attachments"]
                if part["title"].startswith("breaker-open ")
            )
    return found


PATHS = ("/hook", "/services/slack-secret-T0", "/v2/enqueue")


def heard(state: str) -> Callable[[list[Received]], bool]:
    return lambda received: all(states(received, path)[-1:] == [state] for path in PATHS)


def test_everybody_hears_of_it_and_of_its_end(
    make: Callable[[int], Sidecar], agent: Agent, web: WebReceiver, mail: MailReceiver
) -> None:
    with make(1) as sidecar:
        with Caller(sidecar.addresses["inbound"]) as caller:
            agent.fails.set()
            web.kept.wait_for(heard("firing"))
            (first, *_) = mail.kept.wait_for(lambda mails: len(mails) > 0)
            shown = admin(sidecar, "/alerts")
            listed = cli(sidecar, "alerts", "list", "--all")
            status = cli(sidecar, "status")
            agent.fails.clear()
            web.kept.wait_for(heard("resolved"))
            mails = mail.kept.wait_for(lambda mails: "resolved" in mails[-1].message["Subject"])
        # Two receivers are dead all the while; calls went on.
        assert caller.codes["OK"] > 0
        assert first.message["Subject"].strip().startswith("[critical] orders-1: the circuit of 127.0.0.1:")
        assert (first.is_encrypted, first.user, first.recipients) == (True, "mesh", ["ops@example.org"])
        assert "over after" in mails[-1].message["Subject"]
        (fires,) = [each for each in shown["firing"] if each["name"] == "breaker-open"]
        assert fires["labels"] == {"cluster": "local", "endpoint": f"127.0.0.1:{agent.port}"}
        begun = next(each for each in web.alerts("/hook") if each["name"] == "breaker-open")
        assert begun["key"] == f"sidecar/orders-1/breaker-open/local/127.0.0.1:{agent.port}"
        assert begun["runbook"] == "https://wiki.example/breaker"
        receivers = {each["name"]: each for each in admin(sidecar, "/alerts")["receivers"]}
        assert receivers["dead"]["problem"] == "Connection refused"
        assert receivers["silent"]["last_sent"] is None
        assert receivers["hook"]["problem"] is None
        assert (listed.returncode, "✕ breaker-open  critical since" in listed.stdout) == (1, True)
        assert "! alert breaker-open fires: the circuit of" in status.stdout
        status_code, page = sidecar.get("/metrics", {"authorization": f"Bearer {TOKEN}"})
        assert status_code == 200
        assert 'sidecar_alert_notifications_total{receiver="email",result="sent"} ' in page
        assert 'sidecar_alerts_firing{alert="breaker-open",severity="critical"} 0.0' in page
        said = json.dumps(shown) + listed.stdout + page + json.dumps(admin(sidecar, "/config")) + sidecar.text
        assert not any(secret in said for secret in SECRETS), "secrets are never shown"


def test_a_test_alert(
    make: Callable[[int], Sidecar], web: WebReceiver, mail: MailReceiver, silent: socket.socket
) -> None:
    sidecar = make(1)
    # Nobody is there; waiting for one that never answers is shown elsewhere.
    silent.close()
    with sidecar:
        assert sidecar.request("POST", "/alerts/test")[0] == 401
        assert web.received == []
        found = cli(sidecar, "alerts", "test")
        lines = found.stdout.splitlines()
        assert lines[:4] == ["√ hook (webhook)", "√ slack", "√ pagerduty", "√ email"]
        assert lines[4] == "× dead (webhook): Connection refused"
        assert found.returncode == 1
        assert [each.body["event_action"] for each in web.received if each.path == "/v2/enqueue"] == [
            "trigger",
            "resolve",
        ]
        assert mail.mails[0].message["Subject"] == "[notice] orders-1: this is a test; nothing is wrong"
        one = cli(sidecar, "alerts", "test", "--receiver", "hook")
        assert (one.stdout, one.returncode) == ("√ hook (webhook)\n", 0)
        unknown = cli(sidecar, "alerts", "test", "--receiver", "pager")
        assert "no receiver is called 'pager'; known: dead, email, hook, pagerduty, silent, slack" in unknown.stderr
        assert unknown.returncode == 1


def test_the_last_words_of_a_sidecar_that_gives_up(tmp_path: Path, web: WebReceiver) -> None:
    """Its agent never serves, so it ends; people hear why."""
    text = f"""
admin: {{bind: 127.0.0.1:0}}
listeners:
  - {{name: inbound, direction: inbound, bind: 127.0.0.1:0, routes: [{{name: all, match: {{method: "/*"}}, to: local}}]}}
clusters: {{local: {{endpoints: ["unix:{tmp_path}/agent.sock"]}}}}
agent:
  command: ["false"]
  recovery: {{crash: {{backoff: {{initial: 1ms, max: 1ms}}}}, give_up_after: {{restarts: 1, within: 1m}}}}
alerts: {{group_wait: 1h, send: [{{webhook: "{web.url}/hook"}}]}}
"""
    sidecar = Sidecar(text, tmp_path, environ={"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"})
    with pytest.raises(NotReady, match="manual intervention required"):
        sidecar.start()
    assert [each["name"] for each in web.alerts("/hook")] == ["agent-given-up"]


def test_several_workers_tell_it_once(
    make: Callable[[int], Sidecar], agent: Agent, web: WebReceiver, mail: MailReceiver
) -> None:
    with make(2) as sidecar:
        with Caller(sidecar.addresses["inbound"]), Caller(sidecar.addresses["inbound"]):
            agent.fails.set()
            web.kept.wait_for(heard("firing"))
            assert [each["name"] for each in admin(sidecar, "/alerts")["firing"]] == ["breaker-open"]
            agent.fails.clear()
            web.kept.wait_for(heard("resolved"))
        for path in PATHS:
            assert states(web.received, path) == ["firing", "resolved"]
        assert cli(sidecar, "alerts", "test", "--receiver", "email").returncode == 0
        text = sidecar.path.read_text()
        sidecar.path.write_text(text.replace("  rules:\n", "  without: [cpu, memory]\n  rules:\n"))
        sidecar.signal(signal.SIGHUP)
        sidecar.wait_for_log(lambda line: line.get("event") == "alerts follow the configuration")
        rules = {each["name"] for each in admin(sidecar, "/alerts")["rules"]}
        assert "slow" in rules
        assert not rules & {"cpu", "memory"}
        assert sidecar.get("/alerts")[0] == 401
        _, page = sidecar.get("/metrics", {"authorization": f"Bearer {TOKEN}"})
        families = re.findall(r"^# TYPE (\S+)", page, re.MULTILINE)
        assert len(families) == len(set(families)), "what parent and workers have is one family"
        assert families.count("sidecar_alerts_firing") == 1
        assert 'sidecar_alerts_firing{alert="breaker-open",severity="critical"} 0.0' in page
