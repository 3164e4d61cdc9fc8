"""Tokens that somebody has made up or altered: refused with a reason, never an exception, never believed."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.http2.blocks import HeaderBlock
from sidecar.http2.hpack import encode_field
from sidecar.policies.authz.jwt import JwtConfig, Token, Tokens
from sidecar.proxy.rejection import Rejection
from tests.support.tokens import AUDIENCE, ISSUER, Idp, forged, public_pem, signed

many = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")))
NOW = 1_800_000_000.0
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
GOOD = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOW + 300, "nbf": NOW}


@pytest.fixture(scope="module")
def idp(tmp_path_factory: pytest.TempPathFactory) -> Idp:
    folder: Path = tmp_path_factory.mktemp("idp")
    return Idp(folder / "jwks.json")


@pytest.fixture(scope="module")
def tokens(idp: Idp) -> Tokens:
    section = {"issuer": idp.issuer, "audiences": [AUDIENCE], "jwks_file": str(idp.file)}
    return Tokens(JwtConfig.model_validate_json(json.dumps({"issuers": [section]})))


def read(tokens: Tokens, value: bytes) -> Token | Rejection | None:
    return tokens.read(HeaderBlock(None, (encode_field(b"authorization", value),)), NOW)


def parts(token: bytes) -> list[bytes]:
    return [base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)) for part in token.split(b".")]


@many
@given(
    st.binary(max_size=200)
    | st.from_regex(rb"Bearer [A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}", fullmatch=True)
)
def test_any_value(tokens: Tokens, value: bytes) -> None:
    assert not isinstance(read(tokens, value), Token)


@many
@given(st.data())
def test_an_altered_token_is_not_believed(tokens: Tokens, idp: Idp, data: st.DataObject) -> None:
    good = idp.token(now=NOW).encode()
    at = data.draw(st.integers(0, len(good) - 1))
    altered = good[:at] + data.draw(st.binary(max_size=3)) + good[at + data.draw(st.integers(0, 3)) :]
    found = read(tokens, b"Bearer " + altered)
    if isinstance(found, Token):
        # Spaces before it, and bits of the last letter of a part, mean nothing.
        assert parts(altered.lstrip()) == parts(good)


@many
@given(
    st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "jku", "x5u", "b64", "enc"]), JSON, max_size=5
    ),
    JSON,
    st.binary(max_size=70),
)
def test_headers_and_contents_of_any_kind(
    tokens: Tokens, header: dict[str, Any], payload: Any, signature: bytes
) -> None:
    claims = GOOD | payload if isinstance(payload, dict) else payload
    assert not isinstance(read(tokens, b"Bearer " + forged(header, claims, signature).encode()), Token)


@many
@given(
    st.sampled_from(["none", "None", "nOnE", "HS256", "HS512", "ES512", "RS512", "PS256", "EdDSA", ""]),
    st.sampled_from(["ec-1", "rsa-1", "", "x"]),
)
def test_algorithms_that_are_not_pinned(tokens: Tokens, algorithm: str, kid: str) -> None:
    key = public_pem("rsa-1")
    for signature in (b"", key if isinstance(key, bytes) else key.encode()):
        assert not isinstance(
            read(tokens, b"Bearer " + forged({"alg": algorithm, "kid": kid}, GOOD, signature).encode()), Token
        )


@many
@given(
    st.dictionaries(st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "sub", "scope"]), JSON, min_size=1, max_size=4)
)
def test_claims_of_any_kind_that_are_really_signed(tokens: Tokens, claims: dict[str, Any]) -> None:
    found = read(tokens, b"Bearer " + signed(GOOD | claims).encode())
    if isinstance(found, Token):
        assert found.issuer == ISSUER
        assert found.until > NOW
    else:
        assert isinstance(found, Rejection) and found.message
