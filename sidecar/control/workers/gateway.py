"""The admin endpoint of a sidecar with workers: what is asked of all is put together, the rest is asked of one.

It checks nothing itself. A request goes to a worker as it came, and that one asks for the token, the host, the origin.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from sidecar.control.workers.pages import Pages
from sidecar.control.workers.worker import WorkerState
from sidecar.transport.bind import bind, shown_address

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from pathlib import Path

    from sidecar.control.workers.alerts import FleetAlerts
    from sidecar.control.workers.fleet import Fleet
    from sidecar.telemetry.metrics import Metrics

_TIMEOUT = 15.0
_LARGEST = 1024 * 1024
_CHUNK = 64 * 1024
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"})
_ONE_IS_ENOUGH = ("/rollout", "/idempotency", "/alerts")
"""Changes that are kept in the store, which all workers share, and what goes to others: said to one, not to each."""


class Gateway:
    """Serves the admin address of the parent until `close`."""

    def __init__(self, fleet: Fleet, metrics: Metrics, address: str, alerts: FleetAlerts) -> None:
        """Binds at once; raises BindError."""
        self.fleet = fleet
        self.alerts = alerts
        self.pages = Pages()
        self.metrics = metrics
        self.loop = asyncio.get_running_loop()
        listening = bind(address)
        listening.setblocking(True)
        self.address = shown_address(listening)
        self._server = _Server(self, listening)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="admin", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def on_loop(self, function: Callable[[], object]) -> object:
        """What `function` gives on the loop of the parent, from a request's thread."""

        async def run() -> object:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(_TIMEOUT)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, gateway: Gateway, listening: socket.socket) -> None:
        self.gateway = gateway
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening

    def get_request(self) -> tuple[socket.socket, Any]:
        accepted, address = self.socket.accept()
        return accepted, address or ("unix", 0)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("worker", timeout=_TIMEOUT)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(self._path)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 10
    server_version = "sidecar"
    sys_version = ""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path in {"/livez", "/readyz"}:
            self._probe(path)
        elif path == "/metrics":
            self._metrics()
        elif path == "/workers":
            self._own_page(lambda gateway: {"workers": gateway.fleet.view()})
        elif path == "/alerts":
            self._own_page(lambda gateway: gateway.on_loop(gateway.alerts.view))
        else:
            self._forward(self._chosen(), b"")

    def do_POST(self) -> None:
        length = self.headers.get("content-length") or "0"
        if not length.isdigit() or int(length) > _LARGEST:
            self._text(HTTPStatus.BAD_REQUEST, f"give a content-length of at most {_LARGEST}\n")
            return
        body = self.rfile.read(int(length))
        path = urlsplit(self.path).path
        if path == "/drain":
            self._drain(body)
        elif path.startswith(_ONE_IS_ENOUGH):
            self._forward(self._chosen(), body)
        else:
            self._forward_to_all(body)

    def do_PUT(self) -> None:
        self.do_POST()

    # ── put together ──

    def _probe(self, path: str) -> None:
        fleet = self.server.gateway.fleet
        if path == "/livez":
            # Workers are looked after; the parent that answers here does it.
            self._text(HTTPStatus.OK, "ok\n")
            return
        lines, is_ready = [], fleet.is_ready
        for each in fleet.workers:
            status, _, body = self._ask(each.admin_path, self.path)
            is_ready = is_ready and status == HTTPStatus.OK
            lines.append(f"worker {each.number}: {each.state.value}\n{body.decode(errors='replace')}")
        if "verbose" in parse_qs(urlsplit(self.path).query, keep_blank_values=True):
            text = "".join(lines) + ("ready\n" if is_ready else "not ready\n")
        else:
            text = "ok\n" if is_ready else "not ready\n"
        self._text(HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE, text)

    def _metrics(self) -> None:
        from sidecar.control.workers import merge
        from sidecar.telemetry.exposition import Exposition

        pages: dict[Hashable, str | None] = {}
        for each in self.server.gateway.fleet.workers:
            status, headers, body = self._ask(each.admin_path, self.path, accept=merge.ACCEPT)
            if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                self._answer(status, headers, body)
                return
            pages[each.admin_path] = body.decode() if status == HTTPStatus.OK else None
        own = Exposition(self.server.gateway.metrics).snapshot()
        # As a page like the others: what both have is one family.
        pages["parent"] = merge.page(own, merge.ACCEPT)[1].decode()
        families = self.server.gateway.pages.together(pages)
        content_type, page = merge.page(families, self.headers.get("accept", ""))
        self._answer(HTTPStatus.OK, [("content-type", content_type), ("cache-control", "no-store")], page)

    def _own_page(self, value: Callable[[Gateway], object]) -> None:
        """What the parent knows. Who may see a page of a worker may see this."""
        status, headers, body = self._ask(self._chosen(), "/version")
        if status == HTTPStatus.OK:
            body = json.dumps(value(self.server.gateway), indent=2).encode() + b"\n"
        self._answer(status, headers, body)

    def _drain(self, body: bytes) -> None:
        fleet = self.server.gateway.fleet
        answers = [self._ask(each.admin_path, self.path, "POST", body) for each in fleet.workers]
        refused = next((each for each in answers if each[0] in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}), None)
        if refused is None:
            self.server.gateway.loop.call_soon_threadsafe(fleet.drain)
        self._answer(*(refused or answers[0]))

    def _forward_to_all(self, body: bytes) -> None:
        """The answer of the first worker that refused it, else that of the first."""
        fleet = self.server.gateway.fleet
        answers = [self._ask(each.admin_path, self.path, "POST", body) for each in fleet.workers]
        self._answer(*next((each for each in answers if each[0] >= HTTPStatus.BAD_REQUEST), answers[0]))

    # ── asked of one ──

    def _chosen(self) -> Path:
        """The worker that the query names (`worker=2`), or the first that is ready."""
        workers = self.server.gateway.fleet.workers
        named = parse_qs(urlsplit(self.path).query).get("worker", [""])[0]
        for each in workers:
            if named == str(each.number) or (not named and each.state is WorkerState.READY):
                return each.admin_path
        return workers[0].admin_path

    def _forward(self, worker: Path, body: bytes) -> None:
        """As it comes: the answer may be a stream of events."""
        connection = _UnixConnection(worker)
        has_begun = False
        try:
            connection.request(self.command, self.path, body or None, self._headers())
            answer = connection.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            length = answer.headers.get("content-length")
            if length is not None:
                self.send_header("content-length", length)
            else:
                self.send_header("connection", "close")
                self.close_connection = True
            self.end_headers()
            has_begun = True
            if connection.sock is not None:
                # Events may be far apart; whoever listens goes when it likes.
                connection.sock.settimeout(None if length is None else _TIMEOUT)
            while chunk := answer.read1(_CHUNK):
                self.wfile.write(chunk)
                self.wfile.flush()
        except (OSError, http.client.HTTPException):
            self.close_connection = True
            if not has_begun:
                self._text(HTTPStatus.SERVICE_UNAVAILABLE, "the worker does not answer\n")
        finally:
            connection.close()

    def _ask(
        self, worker: Path, path: str, method: str = "GET", body: bytes = b"", accept: str | None = None
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = _UnixConnection(worker)
        headers = self._headers()
        if accept is not None:
            headers["accept"] = accept
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP]
            return answer.status, kept, answer.read()
        except (OSError, http.client.HTTPException):
            return HTTPStatus.SERVICE_UNAVAILABLE, [], b"the worker does not answer\n"
        finally:
            connection.close()

    def _headers(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}

    # ── answers ──

    def _text(self, status: HTTPStatus, body: str) -> None:
        self._answer(status, [("content-type", "text/plain; charset=utf-8")], body.encode())

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Probes every second are not news."""
