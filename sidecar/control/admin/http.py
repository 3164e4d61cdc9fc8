"""The admin HTTP server, in a thread of its own: `/livez` must answer, and say so, when the data loop is stuck.

State is read on the data loop, so that it is consistent; encoding and sending happen here.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hmac
import json
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from sidecar.alerts.alerts import TestRuns
from sidecar.control.admin import idempotency, view
from sidecar.control.admin.dashboard import requests as dashboard
from sidecar.control.admin.dashboard.board import Dashboard
from sidecar.control.drills.disturbances import CannotDrill
from sidecar.control.drills.order import order_from
from sidecar.rollout.rollouts import ORDERS, NoSuchRollout, Refused, StoreUnavailable
from sidecar.telemetry.logs import level_of, set_level
from sidecar.transport.bind import bind, shown_address, split_host_port

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sidecar.control.process import Process

_LOOP_TIMEOUT = 2.0
"""Seconds after which a data loop that does not answer counts as stuck."""
_LONGEST_BODY = 16 * 1024
_NO_HEADERS: dict[str, str] = {}
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class LoopStuckError(Exception):
    """The data loop did not answer in time."""


class AdminServer:
    """Serves one process's admin address until `close`."""

    def __init__(self, process: Process, address: str, token: str | None, public: str | None = None) -> None:
        """Binds at once; raises BindError. `public`: the address under which users reach it, if it is another one."""
        self.process = process
        self.token = token
        self._loop = asyncio.get_running_loop()
        listening = bind(address)
        listening.setblocking(True)
        self.address = shown_address(listening)
        self.public = public or self.address
        self.dashboard = Dashboard(process, self.on_loop, token=token, address=self.public)
        self._server = _Server(self, listening)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="admin", daemon=True)

    def start(self) -> None:
        """Call it on the data loop."""
        self.dashboard.history.start()
        self._thread.start()

    def close(self) -> None:
        """Stop answering. Called from another thread than the data loop's."""
        self.dashboard.close()
        self._server.shutdown()
        self._server.server_close()

    def on_loop(self, function: Callable[[], Any]) -> Any:
        """Run `function` on the data loop, from a request's thread. Raises LoopStuckError."""
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def run() -> None:
            try:
                done.set_result(function())
            except Exception as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        try:
            return done.result(_LOOP_TIMEOUT)
        except concurrent.futures.TimeoutError:
            raise LoopStuckError from None

    def wait_for(self, start: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine on the data loop, from a request's thread. Raises LoopStuckError."""
        try:
            return asyncio.run_coroutine_threadsafe(start(), self._loop).result(_LOOP_TIMEOUT)
        except concurrent.futures.TimeoutError:
            raise LoopStuckError from None

    def metrics_page(self, accept: str) -> tuple[str, bytes]:
        from sidecar.telemetry.exposition import Exposition

        if not hasattr(self, "_exposition"):
            self._exposition = Exposition(self.process.runtime.metrics)
        families = self.on_loop(self._exposition.snapshot)
        return self._exposition.page(families, accept)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, admin: AdminServer, listening: socket.socket) -> None:
        self.admin = admin
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening

    def get_request(self) -> tuple[socket.socket, Any]:
        accepted, address = self.socket.accept()
        return accepted, address or ("unix", 0)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    body: bytes
    protocol_version = "HTTP/1.1"
    timeout = 10
    server_version = "sidecar"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(_GET, other=_POST)

    def do_POST(self) -> None:
        self._answer(_POST, other=_GET)

    def do_PUT(self) -> None:
        # What can be set, some set by PUT; that is no way to ask for anything else.
        if urlsplit(self.path).path in _PUT:
            self.do_POST()
        else:
            self.send_error(HTTPStatus.NOT_IMPLEMENTED)

    def _answer(
        self, table: dict[str, Callable[[_Handler], None]], other: dict[str, Callable[[_Handler], None]]
    ) -> None:
        # Before anything is answered: a body that nobody reads would be taken for the next request.
        length = self.headers.get("content-length", "0")
        if "transfer-encoding" in self.headers or not length.isdecimal() or int(length) > _LONGEST_BODY:
            self.close_connection = True
            self.text(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {_LONGEST_BODY} bytes, and content-length says so\n"
            )
            return
        self.body = self.rfile.read(int(length))
        path = urlsplit(self.path).path
        handler = table.get(path)
        if handler is None:
            if path in other:
                self.text(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} is for {'POST' if table is _GET else 'GET'} only\n")
            else:
                self.text(HTTPStatus.NOT_FOUND, f"nothing at {path}; / lists what there is\n")
            return
        refusal = self._refusal(path, changes=table is _POST)
        if refusal is not None:
            if refusal[0] is HTTPStatus.UNAUTHORIZED and table is _GET and dashboard.wants_page(self):
                dashboard.see(self, "/login")
            else:
                self.text(*refusal)
            return
        try:
            handler(self)
        except LoopStuckError:
            self.text(HTTPStatus.SERVICE_UNAVAILABLE, "the event loop does not answer\n")

    def _refusal(self, path: str, *, changes: bool) -> tuple[HTTPStatus, str] | None:
        """Probes are for everybody; the rest is for whoever has the token, or for this machine where there is none."""
        if path in _PROBES:
            return None
        admin = self.server.admin
        has_session = dashboard.session_of(self) is not None
        if admin.token is not None:
            given = self.headers.get("authorization", "")
            is_open = has_session or path in dashboard.OPEN
            if not is_open and not hmac.compare_digest(given.encode(), f"Bearer {admin.token}".encode()):
                return HTTPStatus.UNAUTHORIZED, "give the admin token: `authorization: Bearer …`\n"
        elif not admin.public.startswith("unix:"):
            # A page of another site must not reach us through a name that it made point here.
            host = self.headers.get("host", "")
            if _host_name(host) not in _LOOPBACK_NAMES | {split_host_port(admin.public)[0]}:
                return HTTPStatus.FORBIDDEN, "this host name is not the admin address\n"
        if changes:
            origin = self.headers.get("origin")
            site = self.headers.get("sec-fetch-site", "same-origin")
            is_ours = origin is None or urlsplit(origin).netloc == self.headers.get("host")
            # A browser that sends a cookie says where it comes from; what comes with a cookie and does not is no browser.
            if not is_ours or site not in {"same-origin", "none"} or (origin is None and has_session):
                return HTTPStatus.FORBIDDEN, "changes from pages of another origin are refused\n"
            if origin is not None and path not in dashboard.OPEN and not dashboard.is_form_of_ours(self):
                return HTTPStatus.FORBIDDEN, "this form is not of this page; load it again\n"
        return None

    @property
    def dashboard(self) -> Dashboard:
        return self.server.admin.dashboard

    # ── answers ──

    def text(
        self,
        status: HTTPStatus,
        body: str,
        content_type: str = "text/plain; charset=utf-8",
        headers: dict[str, str] = _NO_HEADERS,
    ) -> None:
        self.send(status, content_type, body.encode(), headers)

    def send(self, status: HTTPStatus, content_type: str, body: bytes, headers: dict[str, str] = _NO_HEADERS) -> None:
        self.begin(status, content_type, {"content-length": str(len(body)), **headers})
        self.wfile.write(body)

    def begin(self, status: HTTPStatus, content_type: str, headers: dict[str, str]) -> None:
        """Everything before the body."""
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("cache-control", "no-store")
        self.send_header("x-content-type-options", "nosniff")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def json(self, value: object) -> None:
        self.text(HTTPStatus.OK, json.dumps(value, indent=2, default=str) + "\n", "application/json")

    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Probes every second are not news."""


def _host_name(host: str) -> str:
    return host[: host.rindex("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]


def _livez(request: _Handler) -> None:
    request.server.admin.on_loop(lambda: None)
    request.text(HTTPStatus.OK, "ok\n")


def _readyz(request: _Handler) -> None:
    process = request.server.admin.process
    is_ready, checks = request.server.admin.on_loop(lambda: view.ready(process))
    status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
    if "verbose" not in request.query():
        request.text(status, "ok\n" if is_ready else "not ready\n")
        return
    lines = [f"[{'+' if holds else '-'}] {name}: {word}" for name, holds, word in checks]
    request.text(status, "\n".join([*lines, "ready" if is_ready else "not ready", ""]))


def _metrics(request: _Handler) -> None:
    content_type, body = request.server.admin.metrics_page(request.headers.get("accept", ""))
    request.send(HTTPStatus.OK, content_type, body)


def _view(function: Callable[[Process], object]) -> Callable[[_Handler], None]:
    def answer(request: _Handler) -> None:
        admin = request.server.admin
        request.json(admin.on_loop(lambda: function(admin.process)))

    return answer


def _explain(request: _Handler) -> None:
    admin = request.server.admin
    query = request.query()
    try:
        question = view.question(query)
    except ValueError as error:
        request.text(HTTPStatus.BAD_REQUEST, f"{error}\n")
        return
    try:
        request.json(admin.wait_for(lambda: view.explained(admin.process, question)))
    except ValueError as error:
        request.text(HTTPStatus.NOT_FOUND, f"{error}\n")


def _drain(request: _Handler) -> None:
    admin = request.server.admin
    admin.on_loop(admin.process.drain)
    request.json(admin.on_loop(lambda: view.drain(admin.process)))


def _restart_agent(request: _Handler) -> None:
    admin = request.server.admin
    agent = admin.process.agent
    if agent is None:
        request.text(HTTPStatus.NOT_FOUND, "no agent is supervised here; see `agent:` in the configuration\n")
        return
    admin.on_loop(agent.restart)
    request.json(admin.on_loop(agent.view))


def _test_alerts(request: _Handler) -> None:
    """Waits for the receivers, in this request's thread."""
    receiver = request.query().get("receiver", [None])[0]
    try:
        request.json({"receivers": request.server.admin.process.alerts.test(receiver)})
    except LookupError as error:
        request.text(HTTPStatus.NOT_FOUND, f"{error}\n")
    except TestRuns as error:
        request.text(HTTPStatus.CONFLICT, f"{error}\n")


def _logging(request: _Handler) -> None:
    request.json({"level": level_of(request.server.admin.process.runtime.log)})


def _set_logging(request: _Handler) -> None:
    """`?level=debug`; until the process ends."""
    admin = request.server.admin
    try:
        set_level(admin.process.runtime.log, request.query().get("level", [""])[0])
    except ValueError as error:
        request.text(HTTPStatus.BAD_REQUEST, f"{error}; POST /logging?level=LEVEL\n")
        return
    _logging(request)


def _index(request: _Handler) -> None:
    """The dashboard for browsers, the list of what there is for everybody else."""
    if dashboard.wants_page(request):
        dashboard.page(request)
        return
    lines = [f"GET  {path}" for path in _GET if path != "/"] + [f"POST {path}" for path in _POST]
    request.text(HTTPStatus.OK, "\n".join([*lines, ""]))


def _rollout(request: _Handler) -> None:
    admin = request.server.admin
    query = request.query()
    rollouts = admin.process.rollouts
    if "cluster" not in query:
        request.json(admin.on_loop(rollouts.all))
        return
    try:
        request.json(admin.on_loop(lambda: rollouts.one(query["cluster"][0])))
    except LookupError as error:
        request.text(HTTPStatus.NOT_FOUND, f"{error}\n")


def _idempotency(handle: Callable[..., tuple[HTTPStatus, object]]) -> Callable[[_Handler], None]:
    def answer(request: _Handler) -> None:
        admin = request.server.admin
        status, found = handle(admin.process, request.query(), admin.wait_for)
        if status is HTTPStatus.OK:
            request.json(found)
        else:
            request.text(status, str(found))

    return answer


def _clear_cache(request: _Handler) -> None:
    """The answers that are kept are forgotten; what runs is left alone."""
    admin = request.server.admin
    request.json({"forgotten": admin.on_loop(admin.process.clear_cache)})


def _order(order: str) -> Callable[[_Handler], None]:
    """One thing that can be asked of a rollout; `by` names who asks."""

    def answer(request: _Handler) -> None:
        admin = request.server.admin
        query = request.query()
        if "cluster" not in query:
            request.text(HTTPStatus.BAD_REQUEST, "say of which cluster: ?cluster=NAME\n")
            return
        by = query.get("by", ["admin"])[0][:100]
        try:
            request.json(admin.wait_for(lambda: admin.process.rollouts.order(query["cluster"][0], order, by=by)))
        except NoSuchRollout as error:
            request.text(HTTPStatus.NOT_FOUND, f"{error}\n")
        except Refused as error:
            request.text(HTTPStatus.CONFLICT, f"{error}\n")
        except StoreUnavailable as error:
            request.text(
                HTTPStatus.SERVICE_UNAVAILABLE, f"the store gives no answer ({error.kind}); nothing was done\n"
            )

    return answer


def _start_drill(request: _Handler) -> None:
    admin = request.server.admin
    try:
        order = order_from({name: values[-1] for name, values in request.query().items()})
        request.json(admin.on_loop(lambda: admin.process.drills.start(order)))
    except CannotDrill as error:
        request.text(HTTPStatus.CONFLICT, f"{error}\n")
    except ValueError as error:
        request.text(HTTPStatus.BAD_REQUEST, f"{error}\n")


def _end_drill(request: _Handler) -> None:
    admin = request.server.admin
    admin.on_loop(lambda: admin.process.drills.end("it was told to end"))
    request.json(admin.on_loop(admin.process.drills.view))


_PROBES = frozenset({"/livez", "/readyz"})
_GET: dict[str, Callable[[_Handler], None]] = {
    "/": _index,
    "/livez": _livez,
    "/readyz": _readyz,
    "/metrics": _metrics,
    "/config": _view(view.config),
    "/clusters": _view(view.clusters),
    "/listeners": _view(view.listeners),
    "/certs": _view(view.certificates),
    "/agent": _view(view.agent),
    "/alerts": _view(view.alerts),
    "/drain": _view(view.drain),
    "/drill": _view(view.drill),
    "/explain": _explain,
    "/idempotency": _idempotency(idempotency.answer),
    "/logging": _logging,
    "/rollout": _rollout,
    "/version": _view(lambda _: view.version()),
    "/status": dashboard.status,
    "/login": dashboard.login_form,
    "/dashboard/events": dashboard.events,
    "/dashboard/style.css": dashboard.file,
    "/dashboard/app.js": dashboard.file,
    "/dashboard/icon.svg": dashboard.file,
}
_PUT = frozenset({"/logging"})
_POST: dict[str, Callable[[_Handler], None]] = {
    "/agent/restart": _restart_agent,
    "/alerts/test": _test_alerts,
    "/cache/clear": _clear_cache,
    "/drain": _drain,
    "/idempotency/resolve": _idempotency(idempotency.resolve),
    "/drill/start": _start_drill,
    "/drill/end": _end_drill,
    "/logging": _set_logging,
    "/login": dashboard.log_in,
    "/logout": dashboard.log_out,
    **{f"/rollout/{order}": _order(order) for order in ORDERS},
}
