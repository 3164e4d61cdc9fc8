"""Which addresses may be fetched from."""

from __future__ import annotations

import pytest

from agent_server.tools.addresses import AddressRule


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert AddressRule().allows(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "0.0.0.0",  # noqa: S104 - to be refused
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_all_others_are_refused(address: str) -> None:
    assert not AddressRule().allows(address)


def test_networks_can_be_allowed() -> None:
    rule = AddressRule(["10.0.0.0/8", "::1/128"])
    assert rule.allows("10.9.9.9")
    assert rule.allows("::1")
    assert rule.allows("::ffff:10.9.9.9")
    assert not rule.allows("127.0.0.1")


@pytest.mark.parametrize("network", ["10.0.0.0/33", "10.0.0.1/8", "all"])
def test_networks_that_are_none(network: str) -> None:
    with pytest.raises(ValueError, match="10|all"):
        AddressRule([network])
