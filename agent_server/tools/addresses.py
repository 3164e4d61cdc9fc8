"""Which network addresses may be fetched from: those of the public internet, and those that are allowed by configuration.

An agent fetches what callers name. Without this rule a caller could reach what only this machine can reach: its metadata service,
its neighbours, itself.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class AddressRule:
    """The rule. `allowed` are networks in CIDR form; raises ValueError for one that is not."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = tuple(ipaddress.ip_network(each) for each in allowed)

    def allows(self, address: str) -> bool:
        """Whether `address` (numeric, IPv6 maybe with a zone) may be connected to."""
        outer = ipaddress.ip_address(address.partition("%")[0])
        if self._is_listed(outer):
            return True
        inner = embedded(outer)
        if inner is not None:
            return self._is_listed(inner) or is_public(inner)
        return is_public(outer)

    def _is_listed(self, address: Address) -> bool:
        return any(address in network for network in self._allowed)


def is_public(address: Address) -> bool:
    """An address of the public internet that means one host."""
    return address.is_global and not address.is_multicast and not address.is_reserved


def embedded(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for, if it does: mapped, 6to4, Teredo, NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)
