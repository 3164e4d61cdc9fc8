"""Binding listening sockets, TCP and unix; a port in use is an error that names it, never a silent sharing."""

from __future__ import annotations

import contextlib
import errno
import socket
import stat
from pathlib import Path

_BACKLOG = 1024


class BindError(Exception):
    """An address cannot be bound; the text names the address and the reason."""


def bind(address: str) -> socket.socket:
    """A listening, non-blocking socket at `host:port` or `unix:/path`. Raises BindError."""
    if address.startswith("unix:"):
        return _bind_unix(address.removeprefix("unix:"))
    host, port = split_host_port(address)
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise BindError(f"cannot bind {address}: {error.strerror}") from None
    family, kind, protocol, _, target = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host not in {"", "::"}))
        listening.bind(target)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise BindError(f"cannot bind {address}: {_reason(error)}") from None
    listening.setblocking(False)
    return listening


def bind_shared(address: str, count: int) -> list[socket.socket]:
    """`count` sockets at one address, among which the kernel shares out connections (SO_REUSEPORT). Raises BindError.

    A path has no such sharing: there, all are the same socket.
    """
    first = bind(address)
    if address.startswith("unix:"):
        return [first, *(first.dup() for _ in range(count - 1))]
    # Bound without sharing first: with it, a second sidecar would get half of our callers in silence.
    target, family = first.getsockname(), first.family
    first.close()
    shared: list[socket.socket] = []
    try:
        for _ in range(count):
            each = socket.socket(family, socket.SOCK_STREAM)
            shared.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not address.startswith((":", "[::]:"))))
            each.bind(target)
            each.listen(_BACKLOG)
            each.setblocking(False)
    except OSError as error:
        for each in shared:
            each.close()
        raise BindError(f"cannot bind {address}: {_reason(error)}") from None
    return shared


def _bind_unix(path: str) -> socket.socket:
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(path)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise BindError(f"cannot bind unix:{path}: {_reason(error)}") from None
    listening.setblocking(False)
    return listening


def _remove_stale(path: str) -> None:
    """A socket file that nobody listens on is what a killed process left behind."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise BindError(f"cannot bind unix:{path}: the path exists and is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()
            else:
                raise BindError(f"cannot bind unix:{path}: another process listens there")


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the address is in use by another process"
    if error.errno == errno.EACCES:
        return "permission denied"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address"
    return error.strerror or str(error)


def split_host_port(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` → (host, port)."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def shown_address(listening: socket.socket) -> str:
    """Where a listening socket really is (port 0 has become a number)."""
    name = listening.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{host}:{name[1]}"
