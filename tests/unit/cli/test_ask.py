"""Asking a running sidecar: what is said when that does not work."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from sidecar.cli.ask import AdminError, ask


class Admin(BaseHTTPRequestHandler):
    """Answers by the path."""

    def do_GET(self) -> None:
        status, body = {"/json": (200, '{"a": 1}'), "/text": (200, "ok"), "/locked": (401, "")}.get(
            self.path, (404, "no")
        )
        if self.headers.get("authorization") == "Bearer t0ken":
            status, body = 200, "[]"
        self._send(status, body)

    def do_POST(self) -> None:
        self._send(200, f'"{self.rfile.read(int(self.headers["content-length"])).decode()}"')

    def _send(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def admin() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Admin) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_answers(admin: str) -> None:
    assert ask(admin, "/json") == {"a": 1}
    assert ask(f"http://{admin}", "/json") == {"a": 1}
    assert ask(admin, "/locked", token="t0ken") == []
    assert ask(admin, "/x", form={"a": "1 2"}) == "a=1+2"


def test_what_goes_wrong(admin: str) -> None:
    def problem(address: str, path: str) -> str:
        with pytest.raises(AdminError) as found:
            ask(address, path)
        return str(found.value)

    assert problem(admin, "/locked") == "this sidecar has an admin token: give it with --token or SIDECAR_ADMIN_TOKEN"
    assert problem(admin, "/nothing") == "the sidecar answered 404: no"
    assert problem(admin, "/text") == f"what answers at {admin}/text is no sidecar of this version"
    assert problem("127.0.0.1:1", "/") == (
        "no sidecar answers at 127.0.0.1:1: Connection refused; give its address with --admin"
    )
    assert "unix:/no/such: No such file" in problem("unix:/no/such", "/")
    for address in ("ftp://a:1", "http://a:b", "http://"):
        assert problem(address, "/") == f"{address} is no admin address: give http://host:port or unix:/path"
