"""Senders against receivers that are real as far as the wire goes: what they get, and what is made of their answers."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.alerts.alert import Alert
from sidecar.alerts.config import ReceiverConfig
from sidecar.alerts.delivery import NotDelivered, Sender
from sidecar.alerts.senders import sender_of
from tests.support.pki import Leaf, Pki
from tests.support.receivers import MailReceiver, WebReceiver

ALERT = Alert(
    key="sidecar/orders-1/slow/inbound",
    name="slow",
    severity="critical",
    summary="1 % of the RPCs take <longer> & longer than 7 s",
    rule="latency_p99 above 5s for 5m",
    labels=(("listener", "inbound"),),
    value=7.0,
    node="orders-1",
    began=1_800_000_000.0,
    runbook="https://wiki.example/slow",
)
ENDED = replace(ALERT, ended=1_800_000_600.0)
SECRET = "T0-secret-of-the-receiver"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    with WebReceiver() as web:
        yield web


@pytest.fixture
def leaf(tmp_path: Path) -> Leaf:
    return Pki(tmp_path / "pki").leaf("mail", ips=("127.0.0.1",))


def context(leaf: Leaf) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(leaf.certificate, leaf.private_key)
    return made


def sender(**fields: Any) -> Sender:
    return sender_of(ReceiverConfig.model_validate(fields, strict=False), "orders-1")


def failed(made: Sender) -> NotDelivered:
    with pytest.raises(NotDelivered) as caught:
        made.send([ALERT])
    assert "secret" not in str(caught.value), "a URL or a password would be in every log"
    return caught.value


# ── over HTTP ──


def test_a_webhook(web: WebReceiver) -> None:
    sender(webhook=f"{web.url}/hook", headers={"authorization": f"Bearer {SECRET}"}).send([ALERT, ENDED])
    (received,) = web.received
    assert received.path == "/hook"
    assert received.headers["Authorization"] == f"Bearer {SECRET}"
    assert received.headers["Content-Type"] == "application/json"
    assert received.body == {
        "version": 1,
        "node": "orders-1",
        "state": "firing",
        "alerts": [
            {
                "key": "sidecar/orders-1/slow/inbound",
                "name": "slow",
                "state": "firing",
                "severity": "critical",
                "summary": "1 % of the RPCs take <longer> & longer than 7 s",
                "rule": "latency_p99 above 5s for 5m",
                "labels": {"listener": "inbound"},
                "value": 7.0,
                "node": "orders-1",
                "began": 1_800_000_000.0,
                "ended": None,
                "runbook": "https://wiki.example/slow",
                "test": False,
            },
            {**received.body["alerts"][0], "state": "resolved", "ended": 1_800_000_600.0},
        ],
    }


def test_a_webhook_when_all_is_over(web: WebReceiver) -> None:
    sender(webhook=web.url).send([ENDED])
    assert web.received[0].body["state"] == "resolved"


def test_slack(web: WebReceiver) -> None:
    sender(slack=f"{web.url}/services/{SECRET}").send([ALERT])
    sender(slack=f"{web.url}/services/{SECRET}").send([ALERT, ENDED])
    one, two = (each.body for each in web.received)
    assert one["text"] == "[critical] orders-1: 1 % of the RPCs take &lt;longer&gt; &amp; longer than 7 s"
    assert one["attachments"][0]["title"] == "slow firing"
    assert "<https://wiki.example/slow|what to do>" in one["attachments"][0]["text"]
    assert two["text"] == "2 alerts of orders-1"
    colours = [each["color"] for each in two["attachments"]]
    assert colours == ["#c62828", "#2e7d32"]


def test_pagerduty(web: WebReceiver) -> None:
    web.status = 202
    made = sender(pagerduty=SECRET, url=f"{web.url}/v2/enqueue")
    made.send([ALERT])
    made.send([ENDED])
    begun, over = (each.body for each in web.received)
    assert (begun["event_action"], over["event_action"]) == ("trigger", "resolve")
    assert begun["dedup_key"] == over["dedup_key"] == "sidecar/orders-1/slow/inbound"
    assert begun["routing_key"] == SECRET
    assert begun["payload"] == {
        "summary": "[critical] orders-1: 1 % of the RPCs take <longer> & longer than 7 s",
        "source": "orders-1",
        "severity": "critical",
        "timestamp": "2027-01-15T08:00:00Z",
        "component": "sidecar",
        "class": "slow",
        "custom_details": {"rule": "latency_p99 above 5s for 5m", "value": 7.0, "listener": "inbound"},
    }
    assert begun["links"] == [{"href": "https://wiki.example/slow", "text": "what to do"}]
    assert made.batch == 1


def test_a_secret_in_a_file_is_read_at_each_use(web: WebReceiver, tmp_path: Path) -> None:
    file = tmp_path / "url"
    made = sender(webhook_file=str(file))
    assert failed(made).cause == "url cannot be read: No such file or directory"
    file.write_text(" \n")
    assert failed(made).cause == "url is empty"
    for path in ("/one", "/two"):
        file.write_text(f"{web.url}{path}\n")
        made.send([ALERT])
    assert [each.path for each in web.received] == ["/one", "/two"]
    file.write_text("gopher://secret/")
    assert failed(made).is_final


@pytest.mark.parametrize(
    ("status", "is_final"),
    [(400, True), (404, True), (410, True), (408, False), (429, False), (500, False), (503, False)],
)
def test_what_a_status_means(web: WebReceiver, status: int, is_final: bool) -> None:
    web.status = status
    error = failed(sender(webhook=f"{web.url}/{SECRET}"))
    assert (error.cause, error.is_final) == (f"HTTP status {status}", is_final)


def test_a_receiver_says_when_to_come_again(web: WebReceiver) -> None:
    web.status, web.headers = 429, {"retry-after": "30"}
    assert failed(sender(slack=web.url)).retry_after == 30.0
    web.headers = {"retry-after": "Fri, 31 Dec 2027 23:59:59 GMT"}
    assert failed(sender(slack=web.url)).retry_after is None


def test_nothing_goes_where_somebody_else_points(web: WebReceiver) -> None:
    with WebReceiver() as other:
        web.status, web.headers = 307, {"location": f"{other.url}/thief"}
        error = failed(sender(webhook=web.url, headers={"authorization": SECRET}))
        assert (error.cause, error.is_final) == ("HTTP status 307", True)
        assert other.received == []


def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert failed(sender(webhook=f"http://127.0.0.1:{port}/{SECRET}")).cause == "Connection refused"


def test_one_that_never_answers(web: WebReceiver) -> None:
    web.answers.clear()
    assert failed(sender(webhook=f"{web.url}/{SECRET}", timeout="100ms")).cause == "no answer in time"


def test_https(leaf: Leaf) -> None:
    with WebReceiver(context(leaf)) as web:
        sender(webhook=f"{web.url}/hook", trusted_ca=str(leaf.ca)).send([ALERT])
        assert len(web.received) == 1
        assert failed(sender(webhook=f"{web.url}/{SECRET}")).cause == "unable to get local issuer certificate"
        unreadable = sender(webhook=f"{web.url}/{SECRET}", trusted_ca=str(leaf.private_key))
        assert failed(unreadable).cause.startswith("mail.key cannot be read")
        assert len(web.received) == 1


# ── mail ──


def mail(address: str, **fields: Any) -> Sender:
    return sender(email={"smtp": address, "to": ["ops@example.org", "boss@example.org"], **fields}, timeout="2s")


def test_mail_with_starttls_and_a_login(leaf: Leaf, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\n")
    with MailReceiver(context(leaf), login=("sidecar", SECRET)) as server:
        made = mail(
            server.address,
            username="sidecar",
            password_file=str(tmp_path / "password"),
            trusted_ca=str(leaf.ca),
            **{"from": "mesh@example.org"},
        )
        made.send([ALERT, ENDED])
        (delivered,) = server.kept.wait_for(lambda found: len(found) == 1)
    assert (delivered.is_encrypted, delivered.user) == (True, "sidecar")
    assert (delivered.sender, delivered.recipients) == ("mesh@example.org", ["ops@example.org", "boss@example.org"])
    message = delivered.message
    assert message["Subject"] == f"2 alerts of orders-1: {ALERT.title}, …"
    assert message["Auto-Submitted"] == "auto-generated"
    text = message.get_content().replace("\r\n", "\n")
    assert "  rule   latency_p99 above 5s for 5m\n  since  2027-01-15T08:00:00Z" in text
    assert "  until  2027-01-15T08:10:00Z" in text
    assert "  what to do: https://wiki.example/slow" in text


def test_mail_over_tls_from_the_start(leaf: Leaf) -> None:
    with MailReceiver(context(leaf), is_wrapped=True) as server:
        mail(server.address, tls="tls", trusted_ca=str(leaf.ca)).send([ALERT])
        (delivered,) = server.kept.wait_for(lambda found: len(found) == 1)
    assert delivered.is_encrypted
    assert delivered.sender == "sidecar@orders-1"
    assert delivered.message["Subject"] == ALERT.title


def test_mail_in_clear_where_it_is_wanted() -> None:
    odd = replace(ALERT, summary="a line\r\nBcc: thief@example.org")
    with MailReceiver() as server:
        mail(server.address, tls="off").send([odd])
        (delivered,) = server.kept.wait_for(lambda found: len(found) == 1)
    assert delivered.message["Bcc"] is None
    assert delivered.recipients == ["ops@example.org", "boss@example.org"]


@pytest.mark.parametrize(
    ("answers", "cause", "is_final"),
    [
        ({"RCPT": "550 no such user"}, "all recipients are refused: SMTP 550", True),
        ({"RCPT": "450 try later"}, "all recipients are refused: SMTP 450", False),
        ({"MAIL": "553 not you"}, "SMTP 553", True),
        ({"DATA": "451 busy"}, "SMTP 451", False),
        ({"EHLO": "421 closing", "HELO": "421 closing"}, "SMTP 421", False),
    ],
)
def test_what_a_mail_server_says(answers: dict[str, str], cause: str, is_final: bool) -> None:
    with MailReceiver(answers=answers) as server:
        error = failed(mail(server.address, tls="off"))
    assert (error.cause, error.is_final) == (cause, is_final)


def test_mail_that_cannot_be_encrypted_is_not_sent(leaf: Leaf) -> None:
    with MailReceiver() as server:
        assert failed(mail(server.address)).cause == "the server does not offer STARTTLS"
        assert server.mails == []
    with MailReceiver(context(leaf)) as server:
        assert failed(mail(server.address)).cause == "unable to get local issuer certificate"
        assert server.mails == []


def test_a_wrong_password(leaf: Leaf) -> None:
    with MailReceiver(context(leaf), login=("sidecar", "another")) as server:
        error = failed(mail(server.address, username="sidecar", password=SECRET, trusted_ca=str(leaf.ca)))
    assert (error.cause, error.is_final) == ("the login is refused: SMTP 535", False)


def test_no_mail_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert failed(mail(f"127.0.0.1:{port}")).cause == "Connection refused"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        made = sender(email={"smtp": f"127.0.0.1:{port}", "to": ["a@b"]}, timeout="100ms")
        assert failed(made).cause == "no answer in time"
