"""An identity provider for tests: keys, their JWKS file, and tokens as good or as forged as a test wants them."""

from __future__ import annotations

import base64
import functools
import json
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

if TYPE_CHECKING:
    from pathlib import Path

ISSUER = "https://idp"
AUDIENCE = "mesh"


class Idp:
    """Signs with ES256 (kid `ec-1`) and RS256 (kid `rsa-1`); its public keys are in `file`."""

    def __init__(self, file: Path, issuer: str = ISSUER) -> None:
        self.file = file
        self.issuer = issuer
        self.publish("ec-1", "rsa-1")

    def publish(self, *kids: str, **extra: dict[str, Any]) -> None:
        """Write the JWKS file anew, with these keys; `extra` are further entries by kid, as they are."""
        self.write({"keys": [*map(public_jwk, kids), *({"kid": kid} | entry for kid, entry in extra.items())]})

    def write(self, document: object) -> None:
        self.file.write_text(document if isinstance(document, str) else json.dumps(document))

    def token(
        self,
        claims: dict[str, Any] | None = None,
        *,
        now: float,
        kid: str | None = "ec-1",
        key: str | None = None,
        headers: dict[str, Any] | None = None,
        without: tuple[str, ...] = (),
    ) -> str:
        """A token, valid from `now` for five minutes; `claims` replace its own, `key` signs in the name of `kid`."""
        payload = {"iss": self.issuer, "aud": AUDIENCE, "sub": "alice", "exp": now + 300, "nbf": now} | (claims or {})
        payload = {name: value for name, value in payload.items() if name not in without}
        signer = key or kid or "ec-1"
        named = {} if kid is None else {"kid": kid}
        return jwt.encode(payload, _key(signer), algorithm=algorithm_of(signer), headers=named | (headers or {}))


def bearer(token: str) -> dict[str, str]:
    """The metadata that carries `token`."""
    return {"authorization": f"Bearer {token}"}


def signed(payload: dict[str, Any], kid: str = "ec-1") -> str:
    """A token that says just `payload`, also what no library would sign."""
    body = json.dumps(payload).encode()
    return jwt.api_jws.encode(body, _key(kid), algorithm=algorithm_of(kid), headers={"kid": kid})


def algorithm_of(kid: str) -> str:
    if kid.startswith("ed"):
        return "EdDSA"
    return "RS256" if kid.startswith("rsa") else "ES256"


def public_jwk(kid: str) -> dict[str, Any]:
    """The public key `kid` as a JWKS entry."""
    key: Any = _key(kid)
    algorithm = _kind(kid)
    made: dict[str, Any] = algorithm.to_jwk(key.public_key(), as_dict=True)
    return {"kid": kid, "use": "sig"} | made


def private_jwk(kid: str) -> dict[str, Any]:
    """The private key `kid` as an entry, which no JWKS file should have."""
    key: Any = _key(kid)
    algorithm = _kind(kid)
    made: dict[str, Any] = algorithm.to_jwk(key, as_dict=True)
    return {"kid": kid} | made


def public_pem(kid: str) -> bytes:
    """The public key `kid` as PEM: what an attacker signs with, who hopes that it is taken for a shared secret."""
    return _key(kid).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def forged(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    """A token put together by hand."""
    return ".".join(
        base64.urlsafe_b64encode(part).rstrip(b"=").decode()
        for part in (json.dumps(header).encode(), json.dumps(payload).encode(), signature)
    )


def _kind(kid: str) -> Any:
    if kid.startswith("ed"):
        return OKPAlgorithm
    return RSAAlgorithm if kid.startswith("rsa") else ECAlgorithm


@functools.cache
def _key(kid: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey:
    if kid.startswith("ed"):
        return ed25519.Ed25519PrivateKey.generate()
    if kid.startswith("rsa-weak"):
        return rsa.generate_private_key(public_exponent=65537, key_size=1024)
    if kid.startswith("rsa"):
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())
