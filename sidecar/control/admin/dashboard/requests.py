"""The HTTP side of the dashboard: the page, its files, its stream of changes, and logging in."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs

from sidecar.control.admin.dashboard.board import TICK, static
from sidecar.control.admin.dashboard.marks import CSRF
from sidecar.control.admin.dashboard.page import login_page

if TYPE_CHECKING:
    from email.message import Message
    from io import BufferedIOBase

    from sidecar.control.admin.dashboard.board import Dashboard

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "content-security-policy": _POLICY,
    # Not no-referrer: a form would come with `origin: null`, which we refuse.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}
_QUIET_TICKS = 15
"""Ticks without a change after which a comment goes out: a reader that is gone is found, one that is there knows it."""
_FILES = {
    "/dashboard/style.css": ("style.css", "text/css; charset=utf-8"),
    "/dashboard/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/dashboard/icon.svg": ("icon.svg", "image/svg+xml"),
}
OPEN = frozenset({"/login", "/dashboard/style.css", "/dashboard/icon.svg"})
"""What somebody who has not logged in may have."""


class Request(Protocol):
    """A request as the admin server has it."""

    headers: Message
    body: bytes
    wfile: BufferedIOBase
    path: str
    close_connection: bool

    @property
    def dashboard(self) -> Dashboard: ...

    def text(self, status: HTTPStatus, body: str, content_type: str = ..., headers: dict[str, str] = ...) -> None: ...

    def send(self, status: HTTPStatus, content_type: str, body: bytes, headers: dict[str, str] = ...) -> None: ...

    def begin(self, status: HTTPStatus, content_type: str, headers: dict[str, str]) -> None: ...

    def json(self, value: object) -> None: ...


def wants_page(request: Request) -> bool:
    return "text/html" in (request.headers.get("accept") or "")


def session_of(request: Request) -> str | None:
    return request.dashboard.sessions.session(request.headers.get("cookie"))


def is_form_of_ours(request: Request) -> bool:
    """Does what a browser posts carry what only a page of ours can know?"""
    given = request.headers.get("x-sidecar-csrf") or form(request).get("csrf", "")
    return request.dashboard.sessions.is_ours(session_of(request), given)


def page(request: Request) -> None:
    html(request, HTTPStatus.OK, request.dashboard.page(session_of(request)))


def html(request: Request, status: HTTPStatus, body: str) -> None:
    request.text(status, body, "text/html; charset=utf-8", PAGE_HEADERS)


def file(request: Request) -> None:
    name, content_type = _FILES[request.path.partition("?")[0]]
    request.send(HTTPStatus.OK, content_type, static(name), PAGE_HEADERS)


def status(request: Request) -> None:
    """The whole picture as JSON."""
    request.json(request.dashboard.picture())


def events(request: Request) -> None:
    """Server-sent events: the panels that have changed, until the reader leaves or we do."""
    from sidecar.control.admin.http import LoopStuckError

    board = request.dashboard
    session = session_of(request)
    csrf = board.sessions.csrf(session)
    if not board.seats.acquire(blocking=False):
        request.text(HTTPStatus.SERVICE_UNAVAILABLE, "too many pages are open\n")
        return
    try:
        request.close_connection = True
        request.begin(HTTPStatus.OK, "text/event-stream", {"x-accel-buffering": "no", "connection": "close"})
        sent: dict[str, str] = {}
        quiet = 0
        while True:
            try:
                drawn = board.drawn()
            except LoopStuckError:
                _write(request, b"event: stuck\ndata:\n\n")
                sent = {}
            else:
                changed = {name: text for name, text in drawn.items() if sent.get(name) != text}
                sent = drawn
                quiet += 1
                if changed:
                    body = json.dumps(changed, ensure_ascii=False).replace(CSRF, csrf)
                    _write(request, f"event: panels\ndata: {body}\n\n".encode())
                    quiet = 0
                elif quiet >= _QUIET_TICKS:
                    _write(request, b": nothing new\n\n")
                    quiet = 0
            if board.closing.wait(TICK):
                return
            if session is not None and session_of(request) is None:
                # The session has ended meanwhile.
                return
    except OSError:
        return  # The reader has left.
    finally:
        board.seats.release()


def _write(request: Request, data: bytes) -> None:
    request.wfile.write(data)
    request.wfile.flush()


# ── logging in ──


def login_form(request: Request) -> None:
    if session_of(request) is not None:
        see(request, "/")
    else:
        html(request, HTTPStatus.OK, login_page())


def log_in(request: Request) -> None:
    sessions = request.dashboard.sessions
    if sessions.is_guessed_at:
        html(request, HTTPStatus.TOO_MANY_REQUESTS, login_page("Too many wrong tokens; wait a minute."))
        return
    cookie = sessions.log_in(form(request).get("token", ""))
    if cookie is None:
        html(request, HTTPStatus.UNAUTHORIZED, login_page("That is not the admin token of this sidecar."))
    else:
        see(request, "/", cookie)


def log_out(request: Request) -> None:
    session = session_of(request)
    see(request, "/login", request.dashboard.sessions.log_out(session) if session is not None else None)


def see(request: Request, path: str, cookie: str | None = None) -> None:
    """Send the browser to another page of ours."""
    headers = {"location": path, **({"set-cookie": cookie} if cookie is not None else {})}
    request.text(HTTPStatus.SEE_OTHER, "", headers=headers)


def form(request: Request) -> dict[str, str]:
    """The fields of a posted form; the last one of a name."""
    fields = parse_qs(request.body.decode("utf-8", "replace"), keep_blank_values=True)
    return {name: values[-1] for name, values in fields.items()}
