"""Tokens: whom they are believed, and every forgery that must not be."""

from __future__ import annotations

import base64
import hmac
import json
import logging
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.http2.blocks import Beginning, HeaderBlock
from sidecar.http2.hpack import Field, encode_field
from sidecar.policies.authz.jwt import JwtConfig, Token, Tokens
from sidecar.proxy.rejection import Rejection
from tests.support.tokens import Idp, forged, private_jwk, public_jwk, public_pem, signed

NOW = 1_800_000_000.0


def headers(*values: str, name: str = "authorization", beginning: bool = False) -> HeaderBlock:
    fields: tuple[Field, ...] = tuple(encode_field(name.encode(), value.encode("latin-1")) for value in values)
    return HeaderBlock(Beginning(b"", fields), ()) if beginning else HeaderBlock(None, fields)


def config(idp: Idp, **issuer: Any) -> JwtConfig:
    section = {"issuer": idp.issuer, "audiences": ["mesh", "other"], "jwks_file": str(idp.file)} | issuer
    return JwtConfig.model_validate_json(json.dumps({"issuers": [section]}))


@pytest.fixture
def idp(tmp_path: Path) -> Idp:
    return Idp(tmp_path / "jwks.json")


@pytest.fixture
def tokens(idp: Idp) -> Tokens:
    return Tokens(config(idp))


def read(tokens: Tokens, token: str, now: float = NOW) -> Token | Rejection | None:
    return tokens.read(headers(f"Bearer {token}"), now)


def reason(result: Token | Rejection | None) -> str:
    assert isinstance(result, Rejection), result
    return result.reason.name


def good(result: Token | Rejection | None) -> Token:
    assert isinstance(result, Token), result
    return result


# ── what is accepted ──


@pytest.mark.parametrize("kid", ["ec-1", "rsa-1"])
def test_a_token_of_a_configured_issuer_is_believed(idp: Idp, tokens: Tokens, kid: str) -> None:
    token = good(read(tokens, idp.token({"role": "operator"}, now=NOW, kid=kid)))
    assert token.claims["role"] == ("operator",)
    assert token.subject == "alice"
    assert token.issuer == idp.issuer


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
def test_the_scheme_is_read_in_any_case_and_with_any_spaces(idp: Idp, tokens: Tokens, scheme: str) -> None:
    good(tokens.read(headers(scheme + idp.token(now=NOW)), NOW))


def test_no_token_is_no_token(tokens: Tokens) -> None:
    assert tokens.read(headers(), NOW) is None
    assert tokens.read(headers("Basic YTpi"), NOW) is None, "that is between the caller and the agent"


def test_another_header_carries_the_token_bare_or_after_bearer(idp: Idp) -> None:
    tokens = Tokens(config(idp).model_copy(update={"header": "x-jwt"}))
    token = idp.token(now=NOW)
    good(tokens.read(headers(token, name="x-jwt"), NOW))
    good(tokens.read(headers(f"Bearer {token}", name="x-jwt"), NOW))
    assert tokens.read(headers(f"Bearer {token}"), NOW) is None


def test_a_token_in_the_repeated_beginning_of_a_block_is_found(idp: Idp, tokens: Tokens) -> None:
    good(tokens.read(headers(f"Bearer {idp.token(now=NOW)}", beginning=True), NOW))


def test_a_token_without_kid_is_for_the_only_key(idp: Idp, tokens: Tokens) -> None:
    good(read(tokens, idp.token(now=NOW, kid=None)))
    idp.publish("ec-1", "ec-2")
    tokens.reload()
    assert reason(read(tokens, idp.token(now=NOW, kid=None))) == "TOKEN_UNKNOWN_KEY"


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("operator", ("operator",)),
        (["a", "b"], ("a", "b")),
        (True, ("true",)),
        (7, ("7",)),
        ({"nested": "x"}, ()),
        (["a", {"b": 1}, ["c"]], ("a",)),
        ([], ()),
        ("a b", ("a b",)),
    ],
)
def test_claims_become_texts(value: object, texts: tuple[str, ...]) -> None:
    assert Token({"x": value}).claims["x"] == texts


def test_a_scope_is_a_list_and_null_is_absent() -> None:
    assert Token({"scope": "read write"}).claims["scope"] == ("read", "write")
    assert "x" not in Token({"x": None}).claims


@pytest.mark.parametrize("audience", ["mesh", ["x", "mesh"], ["other"]])
def test_one_audience_of_ours_is_enough(idp: Idp, tokens: Tokens, audience: object) -> None:
    good(read(tokens, idp.token({"aud": audience}, now=NOW)))


# ── time ──


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"exp": NOW - 29.9}, None),
        ({"exp": NOW - 30}, "TOKEN_EXPIRED"),
        ({"exp": NOW - 3600}, "TOKEN_EXPIRED"),
        ({"exp": 0}, "TOKEN_EXPIRED"),
        ({"nbf": NOW + 30}, None),
        ({"nbf": NOW + 31}, "TOKEN_NOT_YET_VALID"),
        ({"nbf": NOW + 3600}, "TOKEN_NOT_YET_VALID"),
        ({"exp": "tomorrow"}, "TOKEN_INVALID"),
        ({"exp": True}, "TOKEN_INVALID"),
        ({"exp": float("inf")}, "TOKEN_INVALID"),
        ({"exp": float("nan")}, "TOKEN_INVALID"),
        ({"exp": -1}, "TOKEN_INVALID"),
        ({"exp": 10**400}, "TOKEN_INVALID"),
        ({"exp": [NOW + 60]}, "TOKEN_INVALID"),
        ({"nbf": "now"}, "TOKEN_INVALID"),
        ({"nbf": None}, "TOKEN_INVALID"),
    ],
)
def test_time_is_judged_with_thirty_seconds_of_leeway(
    idp: Idp, tokens: Tokens, claims: dict[str, Any], expected: str | None
) -> None:
    token = signed({"iss": idp.issuer, "aud": "mesh", "exp": NOW + 300} | claims)
    result = read(tokens, token)
    if expected is None:
        good(result)
    else:
        assert reason(result) == expected


def test_a_token_without_exp_is_refused_and_without_nbf_is_not(idp: Idp, tokens: Tokens) -> None:
    assert reason(read(tokens, idp.token(now=NOW, without=("exp",)))) == "TOKEN_INVALID"
    good(read(tokens, idp.token(now=NOW, without=("nbf",))))


def test_the_leeway_is_configured(idp: Idp) -> None:
    tokens = Tokens(config(idp, leeway="0s"))
    token = idp.token(now=NOW)
    good(read(tokens, token, NOW + 299))
    assert reason(read(tokens, token, NOW + 300)) == "TOKEN_EXPIRED"


def test_a_verified_token_is_remembered_but_never_beyond_its_end(
    idp: Idp, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = idp.token({"exp": NOW + 20}, now=NOW)
    first = read(tokens, text)
    with monkeypatch.context() as patch:
        patch.setattr(Tokens, "_verify", lambda *_: pytest.fail("verified again"))
        assert read(tokens, text, NOW + 49.9) is first
    assert reason(read(tokens, text, NOW + 50)) == "TOKEN_EXPIRED"


def test_a_verified_token_is_looked_at_again_after_a_minute(idp: Idp, tokens: Tokens) -> None:
    text = idp.token(now=NOW)
    first = read(tokens, text)
    assert read(tokens, text, NOW + 59) is first
    assert good(read(tokens, text, NOW + 60)) is not first


def test_only_so_many_tokens_are_remembered_and_none_in_clear(
    idp: Idp, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.policies.authz.jwt._TOKENS_KEPT", 4)
    texts = [idp.token({"n": n}, now=NOW) for n in range(10)]
    for text in texts:
        good(read(tokens, text))
    assert len(tokens._verified) == 4
    assert sha256(texts[-1].encode()).digest() in tokens._verified
    assert all(text not in repr(vars(tokens)) for text in texts)


# ── forgeries ──

CLAIMS = {"iss": "https://idp", "aud": "mesh", "exp": NOW + 300, "sub": "admin"}


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", None, 7, ["ES256"], {}])
@pytest.mark.parametrize("signature", [b"", b"x" * 64])
def test_no_algorithm_is_no_signature(tokens: Tokens, alg: object, signature: bytes) -> None:
    assert reason(read(tokens, forged({"alg": alg, "kid": "ec-1"}, CLAIMS, signature))) == "TOKEN_INVALID"


def test_a_token_without_alg_is_refused(tokens: Tokens) -> None:
    assert reason(read(tokens, forged({"kid": "ec-1"}, CLAIMS, b"x" * 64))) == "TOKEN_INVALID"


@pytest.mark.parametrize("kid", ["ec-1", "rsa-1"])
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_public_key_is_no_shared_secret(tokens: Tokens, kid: str, algorithm: str) -> None:
    header = {"alg": algorithm, "kid": kid, "typ": "JWT"}
    signing_input = forged(header, CLAIMS).removesuffix(".")
    for secret in (public_pem(kid), json.dumps(public_jwk(kid)).encode(), b""):
        signature = hmac.digest(secret, signing_input.encode(), algorithm.replace("HS", "sha"))
        assert reason(read(tokens, forged(header, CLAIMS, signature))) == "TOKEN_INVALID"


def test_a_key_verifies_only_what_its_kind_can(idp: Idp, tokens: Tokens) -> None:
    # The kid of the RSA key over a signature by the EC key, and the other way round.
    assert reason(read(tokens, idp.token(now=NOW, kid="rsa-1", key="ec-1"))) == "TOKEN_UNKNOWN_KEY"
    assert reason(read(tokens, idp.token(now=NOW, kid="ec-1", key="rsa-1"))) == "TOKEN_UNKNOWN_KEY"


def test_an_algorithm_that_is_not_pinned_is_refused(idp: Idp) -> None:
    tokens = Tokens(config(idp, algorithms=["RS256"]))
    assert reason(read(tokens, idp.token(now=NOW))) == "TOKEN_INVALID"
    good(read(tokens, idp.token(now=NOW, kid="rsa-1")))


def test_ed25519_verifies_where_it_is_pinned(idp: Idp) -> None:
    idp.publish("ec-1", "ed-1")
    token = idp.token({"sub": "ed"}, now=NOW, kid="ed-1")
    assert reason(read(Tokens(config(idp)), token)) == "TOKEN_INVALID"
    assert good(read(Tokens(config(idp, algorithms=["EdDSA"])), token)).subject == "ed"


def test_another_key_of_the_same_name_does_not_sign_for_it(idp: Idp, tokens: Tokens) -> None:
    assert reason(read(tokens, idp.token(now=NOW, kid="ec-1", key="ec-other"))) == "TOKEN_INVALID"


def test_an_unknown_kid_is_refused(idp: Idp, tokens: Tokens) -> None:
    assert reason(read(tokens, idp.token(now=NOW, kid="ec-9"))) == "TOKEN_UNKNOWN_KEY"


@pytest.mark.parametrize("kid", ["../../etc/passwd", "' OR 1=1 --", "", "ec-1\x00", "EC-1"])
def test_a_kid_is_looked_up_and_nothing_else(idp: Idp, tokens: Tokens, kid: str) -> None:
    assert reason(read(tokens, idp.token(now=NOW, kid=kid, key="ec-1"))) == "TOKEN_UNKNOWN_KEY"


@pytest.mark.parametrize("kid", [7, None, ["ec-1"], {}])
def test_a_kid_that_is_no_text_is_refused(tokens: Tokens, kid: object) -> None:
    assert reason(read(tokens, forged({"alg": "ES256", "kid": kid}, CLAIMS, b"x" * 64))) == "TOKEN_INVALID"


def test_keys_that_a_token_brings_along_are_not_used(idp: Idp, tokens: Tokens) -> None:
    brought = {"jwk": public_jwk("ec-evil"), "jku": "https://evil/jwks.json", "x5u": "https://evil/x"}
    assert reason(read(tokens, idp.token(now=NOW, key="ec-evil", headers=brought))) == "TOKEN_INVALID"


def test_critical_extensions_that_nobody_understands_are_refused(idp: Idp, tokens: Tokens) -> None:
    assert reason(read(tokens, idp.token(now=NOW, headers={"crit": ["exp"]}))) == "TOKEN_INVALID"


@pytest.mark.parametrize("issuer", ["https://evil", "https://idp/", "HTTPS://IDP", "", None, 7, ["https://idp"]])
def test_an_issuer_is_compared_exactly(idp: Idp, tokens: Tokens, issuer: object) -> None:
    header = {"alg": "ES256", "kid": "ec-1"}
    assert reason(read(tokens, forged(header, CLAIMS | {"iss": issuer}, b"x" * 64))) == "TOKEN_INVALID"


def test_an_issuer_cannot_sign_for_another(tmp_path: Path) -> None:
    one, two = Idp(tmp_path / "one.json"), Idp(tmp_path / "two.json", issuer="https://two")
    two.publish("ec-2")
    section = [{"issuer": each.issuer, "audiences": ["mesh"], "jwks_file": str(each.file)} for each in (one, two)]
    tokens = Tokens(JwtConfig.model_validate_json(json.dumps({"issuers": section})))
    good(read(tokens, two.token(now=NOW, kid="ec-2")))
    assert reason(read(tokens, one.token(now=NOW, kid="ec-2"))) == "TOKEN_UNKNOWN_KEY"
    assert reason(read(tokens, one.token(now=NOW, kid="ec-1", key="ec-2"))) == "TOKEN_INVALID"


@pytest.mark.parametrize("audience", ["elsewhere", [], ["a", "b"], None, 7, "MESH", "mesh2", [["mesh"]], {"mesh": 1}])
def test_a_token_for_somebody_else_is_refused(idp: Idp, tokens: Tokens, audience: object) -> None:
    assert reason(read(tokens, signed(CLAIMS | {"aud": audience}))) == "TOKEN_WRONG_AUDIENCE"


def test_a_changed_payload_is_found(idp: Idp, tokens: Tokens) -> None:
    header, payload, signature = idp.token({"role": "guest"}, now=NOW).split(".")
    other = idp.token({"role": "admin"}, now=NOW, key="ec-evil").split(".")[1]
    assert reason(read(tokens, f"{header}.{other}.{signature}")) == "TOKEN_INVALID"
    assert reason(read(tokens, f"{header}.{payload}.{signature[:-4]}AAAA")) == "TOKEN_INVALID"
    assert reason(read(tokens, f"{header}.{payload}.")) == "TOKEN_INVALID"


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "a.b.c.d.e",
        "eyJhbGciOiJFUzI1NiJ9",
        "eyJhbGciOiJFUzI1NiJ9..",
        "\xff\xfe.\xff.\xff",
        "null.null.null",
        "IA.IA.IA",
        forged({"alg": "ES256"}, {}),
        "{}.{}.{}",
        "A" * 5000,
        "W1tbW1tbW1tb." * 100,
    ],
)
def test_garbage_is_refused(tokens: Tokens, garbage: str) -> None:
    assert reason(read(tokens, garbage)) == "TOKEN_INVALID"


def test_nesting_without_end_is_refused(tokens: Tokens) -> None:
    nested = forged({"alg": "ES256"}, {}).split(".")[0] + "." + _b64("[" * 9000) + "."
    assert reason(read(tokens, nested)) == "TOKEN_INVALID"


def _b64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def test_a_megabyte_is_refused_before_anything_looks_at_it(
    idp: Idp, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokens, "_verify", lambda *_: pytest.fail("parsed"))
    huge = idp.token({"padding": "x" * 1_000_000}, now=NOW)
    assert reason(read(tokens, huge)) == "TOKEN_INVALID"
    assert not tokens._verified


def test_two_tokens_are_refused_though_each_be_good(idp: Idp, tokens: Tokens) -> None:
    token = f"Bearer {idp.token(now=NOW)}"
    assert reason(tokens.read(headers(token, token), NOW)) == "TOKEN_INVALID"
    assert reason(tokens.read(headers("Basic YTpi", token), NOW)) == "TOKEN_INVALID"
    assert reason(tokens.read(headers(token, "Basic YTpi"), NOW)) == "TOKEN_INVALID"
    first = encode_field(b"authorization", token.encode())
    split = HeaderBlock(Beginning(b"", (first,)), (first,))
    assert reason(tokens.read(split, NOW)) == "TOKEN_INVALID"


def test_a_value_without_scheme_is_refused(idp: Idp, tokens: Tokens) -> None:
    assert reason(tokens.read(headers(idp.token(now=NOW)), NOW)) == "TOKEN_INVALID"
    assert reason(tokens.read(headers("Bearer"), NOW)) == "TOKEN_INVALID"


def test_no_refusal_repeats_the_token(idp: Idp, tokens: Tokens, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for text in (
        idp.token({"sub": "secret-subject", "exp": NOW - 99}, now=NOW),
        idp.token({"sub": "secret-subject"}, now=NOW, kid="ec-secret-kid", key="ec-1"),
        idp.token({"sub": "secret-subject", "iss": "https://secret-issuer"}, now=NOW),
        forged({"alg": "secret-alg"}, CLAIMS, b"secret-signature"),
    ):
        result = read(tokens, text)
        assert isinstance(result, Rejection)
        told = f"{result} {caplog.text}"
        assert "secret" not in told
        assert not any(part and part in told for part in text.split("."))


# ── keys ──


def test_keys_are_rotated_by_the_file(idp: Idp, tokens: Tokens) -> None:
    old, new = idp.token(now=NOW, kid="ec-1"), idp.token(now=NOW, kid="ec-2")
    good(read(tokens, old))
    assert reason(read(tokens, new)) == "TOKEN_UNKNOWN_KEY"
    idp.publish("ec-1", "ec-2")
    assert tokens.reload()
    good(read(tokens, old))
    good(read(tokens, new))
    idp.publish("ec-2")
    assert tokens.reload()
    assert reason(read(tokens, old)) == "TOKEN_UNKNOWN_KEY", "although it was verified before"
    good(read(tokens, new))


def test_an_unchanged_file_changes_nothing(idp: Idp, tokens: Tokens) -> None:
    first = read(tokens, idp.token(now=NOW, kid="rsa-1"))
    assert isinstance(first, Token)
    assert not tokens.reload()
    assert tokens.files == (idp.file,)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a JSON Web Key Set"),
        ('{"keys": {}}', "is not a JSON Web Key Set"),
        ('{"keys": []}', "holds no public key for ES256, RS256"),
        ('{"keys": [7, null, "x", {}]}', "holds no public key"),
        ('{"keys": [{"kty": "oct", "kid": "a", "k": "c2VjcmV0"}]}', "holds no public key"),
        ('{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}', "keys.0: is not a usable EC key"),
        ('{"keys": [{"kty": "EC", "crv": "P-256"}]}', "keys.0: is not a usable EC key"),
        ('{"keys": [{"kty": "EC", "crv": "P-256", "x": 7, "y": []}]}', "keys.0: is not a usable EC key"),
    ],
)
def test_a_bad_key_file_is_named_and_the_former_keys_stay(
    idp: Idp, tokens: Tokens, document: str, problem: str
) -> None:
    idp.write(document)
    with pytest.raises(ValueError, match=problem) as raised:
        tokens.reload()
    assert str(raised.value).startswith(f"jwt.issuers.0.jwks_file: {idp.file}: ")
    good(read(tokens, idp.token(now=NOW)))
    with pytest.raises(ValueError, match=problem):
        Tokens(config(idp))


def test_keys_that_must_not_be_there_are_refused(idp: Idp, tokens: Tokens) -> None:
    for kid in ("ec-1", "rsa-1"):
        idp.write({"keys": [private_jwk(kid)]})
        with pytest.raises(ValueError, match=r"keys.0: holds a private key") as raised:
            tokens.reload()
        assert private_jwk(kid)["d"] not in str(raised.value)
    idp.publish("rsa-weak")
    with pytest.raises(ValueError, match="RSA key of 1024 bits; at least 2048"):
        tokens.reload()
    idp.write({"keys": [public_jwk("ec-1"), public_jwk("ec-2") | {"kid": "ec-1"}]})
    with pytest.raises(ValueError, match=r"keys.1: its kid is taken"):
        tokens.reload()


@pytest.mark.parametrize("narrowing", [{"use": "enc"}, {"key_ops": ["sign"]}, {"key_ops": 7}, {"alg": "ES384"}])
def test_what_a_key_says_of_itself_narrows_its_use(idp: Idp, tokens: Tokens, narrowing: dict[str, Any]) -> None:
    idp.write({"keys": [public_jwk("ec-1") | narrowing, public_jwk("rsa-1")]})
    tokens.reload()
    assert reason(read(tokens, idp.token(now=NOW))) == "TOKEN_UNKNOWN_KEY"


def test_a_missing_or_huge_key_file_is_named(idp: Idp, tokens: Tokens) -> None:
    idp.file.write_bytes(b" " * (1024 * 1024 + 1))
    with pytest.raises(ValueError, match="larger than"):
        tokens.reload()
    idp.file.unlink()
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        tokens.reload()
    good(read(tokens, idp.token(now=NOW)))


@pytest.mark.parametrize("algorithm", ["none", "HS256", "HS512", "es256", "RS1", ""])
def test_algorithms_that_prove_nothing_cannot_be_configured(idp: Idp, algorithm: str) -> None:
    with pytest.raises(ValidationError):
        config(idp, algorithms=[algorithm])


@pytest.mark.parametrize("broken", [{"audiences": []}, {"algorithms": []}, {"issuer": ""}, {"leeway": "1h"}, {"x": 1}])
def test_an_issuer_is_configured_whole(idp: Idp, broken: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(idp, **broken)


def test_an_issuer_stands_once(idp: Idp) -> None:
    section = {"issuer": "a", "audiences": ["mesh"], "jwks_file": str(idp.file)}
    with pytest.raises(ValidationError, match=r"issuers\.1\.issuer"):
        JwtConfig.model_validate_json(json.dumps({"issuers": [section, section]}))


def test_without_the_library_the_field_is_named(idp: Idp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt.api_jws", None)
    with pytest.raises(ValueError, match="jwt: needs PyJWT"):
        Tokens(config(idp))
