"""Passwords."""

from __future__ import annotations

import pytest

from agent_server.core.passwords import ITERATIONS, hash_password, needs_rehash, password_matches


def test_passwords() -> None:
    hashed = hash_password("secret", iterations=10)
    assert password_matches("secret", hashed)
    assert not password_matches("Secret", hashed)
    assert not password_matches("secret", "nonsense")
    assert hashed != hash_password("secret", iterations=10)
    assert needs_rehash(hashed)


def test_the_work_is_what_is_recommended_and_is_written_down() -> None:
    hashed = hash_password("secret")
    assert hashed.split("$")[:2] == ["pbkdf2_sha256", str(ITERATIONS)]
    assert ITERATIONS >= 480_000
    assert not needs_rehash(hashed)
    assert password_matches("secret", hashed)


@pytest.mark.parametrize(
    "hashed", ["", "a$b$c$d", "pbkdf2_sha256$0$YQ==$YQ==", "pbkdf2_sha256$99999999999$YQ==$YQ==", "x$1$YQ==$YQ=="]
)
def test_what_is_no_hash_matches_nothing(hashed: str) -> None:
    assert not password_matches("secret", hashed)
