"""Where the server listens, and a clear word when it cannot.

grpcio says only that binding failed, takes over the socket file of a running server without asking, and by default shares a port
with another process. Here an address belongs to one server.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path


class BindError(Exception):
    """The address cannot be listened on; the text names it and why."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host and a port; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket file."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """`127.0.0.1:50051`, `[::1]:50051`, `localhost:0` or `unix:/path`. Raises ValueError saying what is wrong."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        path = path.removeprefix("//") if path.startswith("///") else path
        if not path:
            msg = f"{text!r}: expected unix:/path"
            raise ValueError(msg)
        if len(os.fsencode(path)) > 107:
            msg = f"{text!r}: the path of a socket has at most 107 bytes"
            raise ValueError(msg)
        return UnixAddress(Path(path))
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        msg = f"{text!r}: expected host:port or unix:/path"
        raise ValueError(msg)
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if ":" in host:
        ipaddress.IPv6Address(host.partition("%")[0])
    return TcpAddress(host, int(port))


def tcp_address(text: str) -> TcpAddress:
    """`host:port`. Raises ValueError for anything else."""
    address = parse_address(text)
    if not isinstance(address, TcpAddress):
        msg = f"{text} is no host:port"
        raise ValueError(msg)  # noqa: TRY004 - what is wrong is a value
    return address


def is_local(address: Address) -> bool:
    """Only processes of this machine (or pod) can reach it."""
    if isinstance(address, UnixAddress) or address.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False


def claim(address: Address) -> None:
    """Make sure that nobody listens there, and remove a socket file that a dead server left. Raises BindError."""
    if isinstance(address, UnixAddress):
        _claim_path(address)
    else:
        _claim_port(address)


def _claim_port(address: TcpAddress) -> None:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        msg = f"{address}: {error.strerror}"
        raise BindError(msg) from error
    for family, kind, protocol, _, where in found:
        with socket.socket(family, kind, protocol) as probe:
            # As the server will: connections in TIME_WAIT do not matter, listeners do.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(where)
                probe.listen(1)
            except OSError as error:
                msg = f"{address}: {error.strerror}"
                raise BindError(msg) from error


def _claim_path(address: UnixAddress) -> None:
    try:
        mode = address.path.stat().st_mode
    except FileNotFoundError:
        if not address.path.parent.is_dir():
            msg = f"{address}: no such directory: {address.path.parent}"
            raise BindError(msg) from None
        return
    except OSError as error:
        msg = f"{address}: {error.strerror}"
        raise BindError(msg) from error
    if not stat.S_ISSOCK(mode):
        msg = f"{address}: exists and is not a socket"
        raise BindError(msg)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(address.path))
        except ConnectionRefusedError:
            address.path.unlink()
        except OSError as error:
            msg = f"{address}: {error.strerror}"
            raise BindError(msg) from error
        else:
            msg = f"{address}: Address already in use"
            raise BindError(msg)
