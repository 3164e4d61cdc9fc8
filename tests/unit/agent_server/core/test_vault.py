"""Sealing with several keys."""

from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from agent_server.core.vault import Vault, VaultError

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


def test_a_vault_opens_with_any_of_its_keys_and_seals_with_the_first() -> None:
    sealed = Vault([OLD]).seal({"a": 1})
    both = Vault([NEW, OLD])
    assert both.open(sealed) == {"a": 1}
    assert Vault([NEW]).open(both.renew(sealed)) == {"a": 1}
    with pytest.raises(VaultError):
        Vault([NEW]).open(sealed)


@pytest.mark.parametrize("keys", [(), ("short",), (OLD, "no key at all")])
def test_keys_that_are_none_are_not_repeated(keys: tuple[str, ...]) -> None:
    with pytest.raises(VaultError) as caught:
        Vault(keys)
    assert "no key at all" not in str(caught.value)
