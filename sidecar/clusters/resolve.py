"""Names to addresses. A name that stands for several machines becomes several endpoints; a dual-stack host stays one."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from sidecar.transport.bind import split_host_port


def is_name(address: str) -> bool:
    """Must `address` be resolved before it can be dialled?"""
    if address.startswith("unix:"):
        return False
    host, _ = split_host_port(address)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


async def resolve(address: str) -> tuple[str, ...]:
    """The endpoints that `host:port` stands for now. Raises OSError when the name is not known.

    One IPv4 and one IPv6 address, at most, are the same host seen twice: the name itself is dialled, whichever answers
    first (RFC 8305). More than that is a set of machines: each IPv4 address, or else each IPv6 address, is an endpoint.
    """
    host, port = split_host_port(address)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    v4 = sorted({entry[4][0] for entry in found if entry[0] == socket.AF_INET})
    v6 = sorted({str(entry[4][0]) for entry in found if entry[0] == socket.AF_INET6})
    if len(v4) <= 1 and len(v6) <= 1:
        return (address,)
    if v4:
        return tuple(f"{each}:{port}" for each in v4)
    return tuple(f"[{each}]:{port}" for each in v6)
