"""What looks like a secret is masked; what does not is left alone, down to the byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.telemetry.masking import MASKED, is_card_number, is_secret_name, mask, mask_value

PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\nabc=\n-----END PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("paid with 4111111111111111.", f"paid with {MASKED}."),
        ("paid with 4111 1111 1111 1111, thanks", f"paid with {MASKED}, thanks"),
        ("card-5500-0055-5555-5559", f"card-{MASKED}"),
        ("amex 3782 822463 10005", f"amex {MASKED}"),
        ("amex 378282246310005", f"amex {MASKED}"),
        (f"key {PEM} end", f"key {MASKED} end"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMC4CAQ cut off", MASKED),
        (f"token was {JWT} and", f"token was {MASKED} and"),
        ("Authorization: Bearer abc.def-123", f"Authorization: {MASKED}"),
        ("got Bearer abc123def456 from", f"got Bearer {MASKED} from"),
        ("Basic dXNlcjpwYXNz= refused", f"Basic {MASKED} refused"),
        ("password=hunter2", f"password={MASKED}"),
        ("PASSWORD: hunter2, user=bob", f"PASSWORD: {MASKED}, user=bob"),
        ('{"api_key": "k-1 2", "n": 1}', f'{{"api_key": "{MASKED}", "n": 1}}'),
        ("client_secret='s\\'1' x", f"client_secret='{MASKED}' x"),
        ("db_password=x&user=y", f"db_password={MASKED}&user=y"),
        ("x-api-key: abc", f"x-api-key: {MASKED}"),
        ("redis://bob:hunter2@host:1/0", f"redis://{MASKED}@host:1/0"),
        ("redis://:hunter2@host", f"redis://{MASKED}@host"),
        ("AKIAIOSFODNN7EXAMPLE leaked", f"{MASKED} leaked"),
        ("ghp_" + "a" * 36, MASKED),
        ("sk-proj-" + "Ab1" * 8, MASKED),
        ("xoxb-1234567890-abcdef", MASKED),
    ],
)
def test_secrets_are_masked(text: str, masked: str) -> None:
    assert mask(text) == masked
    # Once is enough: nothing of what is left looks like a secret in turn.
    assert mask(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no route of listener inbound matches /shop.Orders/Place",
        "order 4111111111111112 not found",  # fails Luhn
        "at 1700000000000 ms",  # a time
        "1700000000000000000 ns",
        "01a3185c-5000-726b-b2a7-4de452e6b438",
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "spiffe://mesh.local/agent/data",
        "127.0.0.1:50051",
        "rule token-readers forbids spiffe://mesh.local/agent/a to call /a.Tokens/List",
        "a basic authorization check failed",
        "the bearer of this message",
        "sha256:" + "ab" * 32,
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "rate limit per-caller: 100/1m per identity, burst 10",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "PASSWORD",
        "db_password",
        "user.password",
        "api_key",
        "apiKey",
        "x-api-key",
        "access_token",
        "client_secret",
        "authorization",
        "credit_card",
        "ssn",
        "token_value",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["user", "key", "method", "monkey", "passenger", "tokenizer", "author", "classname", ""]
)
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)


def test_values_are_masked_in_any_depth() -> None:
    assert mask_value(
        {
            "user": "bob",
            "password": {"old": "a"},
            "list": ["4111111111111111", 4111111111111111, 7, True, None, 1.5],
            "token": None,
        }
    ) == {"user": "bob", "password": MASKED, "list": [MASKED, MASKED, 7, True, None, 1.5], "token": None}


def test_luhn() -> None:
    assert is_card_number("4111111111111111")
    assert not is_card_number("4111111111111112")


@given(number=st.integers(4 * 10**14, 6 * 10**14 - 1), before=st.text(max_size=20), after=st.text(max_size=20))
def test_any_card_number_anywhere_is_masked(number: int, before: str, after: str) -> None:
    digits = next(f"{number}{last}" for last in range(10) if is_card_number(f"{number}{last}"))
    # Digits right beside it make another number of it.
    if not (before[-1:].isdigit() or after[:1].isdigit()):
        assert digits not in mask(f"{before}{digits}{after}")


@given(st.text())
def test_any_text_comes_through(text: str) -> None:
    assert isinstance(mask(text), str)


def test_hostile_text_takes_no_longer_than_its_length() -> None:
    """Patterns that could backtrack without end would hang here."""
    for hostile in (
        "a" * 50_000,
        "4" * 50_000,
        "4 " * 25_000,
        "password" * 6_000,
        '"' * 50_000,
        "eyJ" * 16_000,
        "://" * 16_000,
        "a_" * 25_000 + "password",
        "-----BEGIN PRIVATE KEY-----" * 2_000,
        "bearer " * 7_000,
    ):
        assert mask(hostile) is not None
