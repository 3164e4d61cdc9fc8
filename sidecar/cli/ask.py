"""Asking a running sidecar: what the commands that talk to an admin address share."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

_TIMEOUT = 10.0
_OK = frozenset({http.HTTPStatus.OK})


class AdminError(Exception):
    """The sidecar did not do what it was asked; the message says why, and what helps."""


def ask(
    admin: str,
    path: str,
    *,
    token: str | None = None,
    form: Mapping[str, str] | None = None,
    timeout: float = _TIMEOUT,
) -> Any:
    """GET `path`, or POST `form` to it; the JSON that comes back. `admin`: http://host:port, host:port or unix:/path.

    Raises AdminError.
    """
    body = _answer(admin, path, token=token, form=form, timeout=timeout, accept="application/json")
    try:
        return json.loads(body)
    except ValueError:
        raise AdminError(f"what answers at {admin}{path} is no sidecar of this version") from None


def ask_text(
    admin: str, path: str, *, token: str | None = None, timeout: float = _TIMEOUT, statuses: Container[int] = _OK
) -> str:
    """GET `path` as text (metrics, `/readyz`); `statuses`: those of HTTP that are an answer. Raises AdminError."""
    accept = "text/plain; version=0.0.4"
    return _answer(admin, path, token=token, form=None, timeout=timeout, accept=accept, statuses=statuses)


def _answer(
    admin: str,
    path: str,
    *,
    token: str | None,
    form: Mapping[str, str] | None,
    timeout: float,
    accept: str,
    statuses: Container[int] = _OK,
) -> str:
    connection = _connection(admin, timeout)
    headers = {"accept": accept}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    try:
        if form is None:
            connection.request("GET", path, headers=headers)
        else:
            headers["content-type"] = "application/x-www-form-urlencoded"
            connection.request("POST", path, urlencode(form), headers)
        answer = connection.getresponse()
        body = answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise AdminError(f"no sidecar answers at {admin}: {why}; give its address with --admin") from None
    finally:
        connection.close()
    if answer.status == http.HTTPStatus.UNAUTHORIZED:
        raise AdminError("this sidecar has an admin token: give it with --token or SIDECAR_ADMIN_TOKEN")
    if answer.status not in statuses:
        raise AdminError(f"the sidecar answered {answer.status}: {body.strip()[:500]}")
    return body


def _connection(admin: str, timeout: float) -> http.client.HTTPConnection:
    if admin.startswith("unix:"):
        return _UnixConnection(admin.removeprefix("unix:"), timeout)
    parts = urlsplit(admin if "://" in admin else f"http://{admin}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if parts.scheme not in {"http", "https"} or host is None:
        raise AdminError(f"{admin} is no admin address: give http://host:port or unix:/path")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(host, port, timeout=timeout)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket with a path."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
