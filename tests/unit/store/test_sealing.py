"""What is kept: encrypted by the newest key, opened by each, and by nobody else."""

from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from sidecar.store.sealing import Sealing, Unreadable

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


@pytest.mark.parametrize("keys", [[], [OLD], [NEW, OLD]])
@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"x" * 10_000])
def test_what_was_sealed_opens(keys: list[str], content: bytes) -> None:
    sealing = Sealing(keys)
    assert sealing.open(sealing.seal(content)) == content


def test_the_newest_key_encrypts_and_old_ones_open() -> None:
    kept = Sealing([OLD]).seal(b"secret")
    assert b"secret" not in kept
    rotated = Sealing([NEW, OLD])
    assert rotated.open(kept) == b"secret"
    assert Sealing([NEW]).open(rotated.seal(b"secret")) == b"secret"


def test_what_was_kept_in_clear_opens_when_keys_come() -> None:
    assert Sealing([NEW]).open(Sealing().seal(b"x")) == b"x"


@pytest.mark.parametrize(
    ("keys", "sealed"),
    [([], Sealing([OLD]).seal(b"x")), ([NEW], Sealing([OLD]).seal(b"x")), ([NEW], b""), ([], b"zzz")],
)
def test_what_nobody_here_can_open_says_so(keys: list[str], sealed: bytes) -> None:
    with pytest.raises(Unreadable):
        Sealing(keys).open(sealed)


def test_what_is_no_key_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="is no Fernet key") as caught:
        Sealing(["hunter2"])
    assert "hunter2" not in str(caught.value)


def test_what_is_not_sealed_with_the_newest_key_should_be_sealed_again() -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    rotated = Sealing([new, old])
    assert rotated.unseal(Sealing([old]).seal(b"x")) == (b"x", False)
    assert rotated.unseal(Sealing().seal(b"x")) == (b"x", False)
    assert rotated.unseal(rotated.seal(b"x")) == (b"x", True)
    assert Sealing().unseal(Sealing().seal(b"x")) == (b"x", True)
