"""Receivers of alerts: a web server and a mail server on this machine that keep what they get, and fail as they are told."""

from __future__ import annotations

import base64
import json
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, cast

LIMIT = 30.0


@dataclass(slots=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: Any


class _Kept:
    """What has come, and a way to wait for more of it."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._changed = threading.Condition()

    def add(self, one: Any) -> None:
        with self._changed:
            self.all.append(one)
            self._changed.notify_all()

    def wait_for(self, wanted: Callable[[list[Any]], bool], limit: float = LIMIT) -> list[Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: wanted(self.all), limit), f"it never came; this did: {self.all}"
            return list(self.all)


class WebReceiver:
    """`with WebReceiver() as web:` — takes POSTs of JSON at `web.url`, and answers `status`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.kept = _Kept()
        self.status = 200
        self.headers: dict[str, str] = {}
        self.answers = threading.Event()
        self.answers.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.kept.add(Received(self.path, dict(self.headers.items()), json.loads(body)))
                receiver.answers.wait(LIMIT)
                self.send_response(receiver.status)
                for name, value in {**receiver.headers, "content-length": "0"}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """pytest shows what matters."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A sender that has left, or does not trust us, is what a test wants."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'https' if tls is not None else 'http'}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def received(self) -> list[Received]:
        return list(self.kept.all)

    def alerts(self, path: str) -> list[dict[str, Any]]:
        """Of the webhook at `path`: every alert in the order in which they came."""
        return [alert for each in self.received if each.path == path for alert in each.body["alerts"]]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.answers.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(slots=True)
class Delivered:
    """One mail, and how it came."""

    sender: str
    recipients: list[str]
    message: EmailMessage
    is_encrypted: bool
    user: str | None


@dataclass(slots=True)
class _Talk:
    """One conversation so far."""

    sender: str = ""
    recipients: list[str] = field(default_factory=list)
    is_encrypted: bool = False
    user: str | None = None


class MailReceiver:
    """`with MailReceiver(context) as mail:` — RFC 5321 as far as a sender needs it; STARTTLS with a context, AUTH with `login`.

    `answers`: what is said in place of 250 to a command, as {"RCPT": "550 no such user"}.
    """

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        *,
        login: tuple[str, str] | None = None,
        answers: dict[str, str] | None = None,
        is_wrapped: bool = False,
    ) -> None:
        self.kept = _Kept()
        self.answers = answers or {}
        self.login = login
        self.tls = tls
        self.is_wrapped = is_wrapped
        receiver = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                receiver._talk(self)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A sender that has left, or does not trust us, is what a test wants."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def mails(self) -> list[Delivered]:
        return list(self.kept.all)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _encrypt(self, handler: socketserver.StreamRequestHandler) -> None:
        assert self.tls is not None
        handler.connection = self.tls.wrap_socket(handler.connection, server_side=True)
        handler.rfile = handler.connection.makefile("rb")
        handler.wfile = cast("Any", handler.connection.makefile("wb", buffering=0))

    def _talk(self, handler: socketserver.StreamRequestHandler) -> None:
        talk = _Talk()
        if self.is_wrapped:
            self._encrypt(handler)
            talk.is_encrypted = True

        def say(*lines: str) -> None:
            handler.wfile.write("".join(f"{line}\r\n" for line in lines).encode())

        try:
            say("220 mail.example ESMTP")
            while line := handler.rfile.readline().decode().strip():
                verb = line.split(":")[0].split()[0].upper()
                if verb in self.answers:
                    say(self.answers[verb])
                elif verb == "STARTTLS" and self.tls is not None:
                    say("220 go ahead")
                    self._encrypt(handler)
                    talk.is_encrypted = True
                elif verb == "QUIT":
                    say("221 bye")
                    return
                else:
                    say(*self._answer(verb, line, talk, handler))
        finally:
            handler.rfile.close()
            handler.wfile.close()
            handler.connection.close()

    def _answer(self, verb: str, line: str, talk: _Talk, handler: socketserver.StreamRequestHandler) -> Iterable[str]:
        if verb == "EHLO":
            offers = ["STARTTLS"] if self.tls is not None and not talk.is_encrypted else []
            offers += ["AUTH PLAIN"] if self.login is not None else []
            return (*(f"250-{each}" for each in ("mail.example", *offers)), "250 8BITMIME")
        if verb == "AUTH":
            _, user, password = base64.b64decode(line.split()[2]).decode().split("\0")
            if (user, password) != self.login:
                return ("535 wrong password",)
            talk.user = user
            return ("235 welcome",)
        if verb == "MAIL":
            talk.sender = line.partition(":")[2].split()[0].strip("<>")
        elif verb == "RCPT":
            talk.recipients.append(line.partition(":")[2].split()[0].strip("<>"))
        elif verb == "DATA":
            handler.wfile.write(b"354 go on\r\n")
            lines = []
            while (part := handler.rfile.readline()) != b".\r\n":
                lines.append(part.removeprefix(b"."))
            message = cast("EmailMessage", message_from_bytes(b"".join(lines), policy=policy.default))
            self.kept.add(Delivered(talk.sender, list(talk.recipients), message, talk.is_encrypted, talk.user))
        return ("250 ok",)
