"""What must not be read is masked, and the rest stays."""

from __future__ import annotations

import logging
import sys

import pytest

from agent_server.core import masking
from agent_server.core.failure import Failure, StatusCode
from agent_server.core.masking import MaskingFormatter, keep_secret, masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+asyncpg://ann:hush@db.example:5432/x", "postgresql+asyncpg://…@db.example:5432/x"),
        ("http://shop.example/?api_key=hush&page=2", "http://shop.example/?api_key=…&page=2"),
        ("http://shop.example/?page=2&sig=hush#x", "http://shop.example/?page=2&sig=…"),
        ('{"password": "hush", "name": "Ann"}', '{"password": …, "name": "Ann"}'),
        ("X-Auth-Token: hush-1234", "X-Auth-Token: …"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer …"),
        ("client_secret='a b', x=1", "client_secret=…, x=1"),
        ("eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.abc", "…"),
        ("mail ann.smith@shop.example now", "mail a…@shop.example now"),
        ("call +4915112345678 now", "call +49…78 now"),
    ],
)
def test_credentials_and_people(text: str, shown: str) -> None:
    assert masked(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "steps.a.with.url: undefined",
        "http://127.0.0.1:8080/list/1?page=2: answered with status 503",
        "1763905438 records, 12+30",
        "the idempotency key was used for another operation before",
        "monkey=1",
        "tokens: 42 of 100; x-usage-tokens=21",
        "parameters.password: Field required; parameters.secret: must be text",
        "page_token: is none that this server gave",
        "authorization: denied",
        "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ],
)
def test_the_rest_stays(text: str) -> None:
    assert masked(text) == text


def test_configured_secrets_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking._secrets, "known", ())
    keep_secret(["tOpSeCrEt", "abc"])
    assert masked("a tOpSeCrEt b abc") == "a … b abc"


def test_failures_are_masked_when_they_are_made() -> None:
    failure = Failure(StatusCode.UNAVAILABLE, "X", "http://a:b@c/", metadata={"url": "http://c/?token=t"})
    assert (failure.message, str(failure), failure.metadata) == (
        "http://…@c/",
        "http://…@c/",
        {"url": "http://c/?token=…"},
    )


def test_log_lines_are_masked_with_their_tracebacks() -> None:
    try:
        raise ValueError("password=hush")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "for %s", ("ann@shop.example",), sys.exc_info())
    line = MaskingFormatter("%(message)s").format(record)
    assert "hush" not in line
    assert line.startswith("for a…@shop.example\nTraceback")
