"""Tokens: a signed JWT in a metadata entry, verified against the keys of its issuer; what it says are claims.

The rules of RFC 8725 that shape this file: algorithms are pinned per issuer and bound to the kind of key (§3.1), keys
are asymmetric and come from the issuer's own file (§3.8), audience and issuer are always checked (§3.8, §3.9), and
nothing of a token is believed, kept or repeated before its signature holds.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard

from pydantic import Field

from sidecar.config.model import Model
from sidecar.config.units import Duration, FilePath, MetadataName
from sidecar.proxy.rejection import Reason, Rejection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from jwt import PyJWK
    from jwt.api_jws import PyJWS

    from sidecar.http2.blocks import HeaderBlock
    from sidecar.policies.authz.conditions import Claims

# No `none`, and none of the HS family: with a symmetric key whoever verifies can also sign, and a public key that is
# taken for a shared secret is the oldest forgery there is (RFC 8725 §2.1).
AlgorithmName: TypeAlias = Literal[
    "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA"
]
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_RSA_BITS = 2048
_MAX_TOKEN = 16 * 1024
_MAX_FILE = 1024 * 1024
_TOKENS_KEPT = 1024
_KEPT_FOR = 60.0
_LAST_SECOND = 2.0**53
"""A later time than any float counts exactly."""


class IssuerConfig(Model):
    """Whose tokens are accepted."""

    issuer: str = Field(min_length=1, description="the `iss` of its tokens, exactly")
    audiences: tuple[str, ...] = Field(min_length=1, description="one of these must be in `aud`")
    jwks_file: FilePath = Field(description="its public keys, a JSON Web Key Set; watched and reloaded")
    algorithms: tuple[AlgorithmName, ...] = Field(
        default=("ES256", "RS256"), min_length=1, description="the only algorithms its tokens may be signed with"
    )
    leeway: Duration = Field(default=30.0, ge=0, le=600, description="how far clocks may differ for `exp` and `nbf`")


class JwtConfig(Model):
    """Tokens in metadata."""

    issuers: tuple[IssuerConfig, ...] = Field(min_length=1, description="whose tokens are accepted")
    header: MetadataName = Field(
        default="authorization",
        description="the metadata entry that carries the token, after `Bearer ` in authorization",
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        seen: set[str] = set()
        for i, each in enumerate(self.issuers):
            if each.issuer in seen:
                yield f"issuers.{i}.issuer", "is configured already; an issuer stands here once, with all its audiences"
            seen.add(each.issuer)


class Token:
    """A verified token: its claims, and until when it may be believed without looking again (wall clock, seconds)."""

    __slots__ = ("claims", "issuer", "subject", "until")

    def __init__(self, payload: Mapping[str, Any], until: float = math.inf) -> None:
        self.claims: Claims = {name: _texts(name, value) for name, value in payload.items() if value is not None}
        self.issuer = next(iter(self.claims.get("iss", ())), "")
        self.subject = next(iter(self.claims.get("sub", ())), "")
        self.until = until


@dataclass(frozen=True, slots=True)
class _Issuer:
    config: IssuerConfig
    keys: Mapping[str | None, tuple[PyJWK, ...]]

    def key(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """The key for a token; one that names none is meant for the only key there is (RFC 7515 §4.1.4)."""
        if kid is not None:
            candidates = [each for each in self.keys.get(kid, ()) if each.algorithm_name == algorithm]
            return candidates[0] if candidates else None
        candidates = [each for keys in self.keys.values() for each in keys if each.algorithm_name == algorithm]
        return candidates[0] if len(candidates) == 1 else None


class Tokens:
    """Reads and verifies the token of a request. Keys come from files; `reload` when they have changed."""

    def __init__(self, config: JwtConfig) -> None:
        """Raises ValueError, naming the field, if PyJWT is missing or a key file cannot be used."""
        try:
            from jwt.api_jws import PyJWS
        except ImportError:
            raise ValueError("jwt: needs PyJWT; install the sidecar with its extra `jwt`") from None
        self._config = config
        self._header = config.header.encode("ascii")
        self._is_authorization = config.header == "authorization"
        algorithms = sorted({name for each in config.issuers for name in each.algorithms})
        self._jws: PyJWS = PyJWS(algorithms, {"verify_signature": True, "enforce_minimum_key_length": True})
        self._contents: tuple[bytes, ...] = ()
        self._issuers: dict[str, _Issuer] = {}
        # By SHA-256, so that no token stays in memory; the oldest goes first.
        self._verified: dict[bytes, Token] = {}
        self.reload()

    @property
    def files(self) -> tuple[Path, ...]:
        """The key files, to be watched."""
        return tuple(each.jwks_file for each in self._config.issuers)

    def reload(self) -> bool:
        """Read the key files again; did they differ? Raises ValueError naming the field; the former keys stay then."""
        contents = tuple(
            _read(each.jwks_file, f"jwt.issuers.{i}.jwks_file") for i, each in enumerate(self._config.issuers)
        )
        if contents == self._contents:
            return False
        self._issuers = {
            each.issuer: _Issuer(each, _keys(content, each, f"jwt.issuers.{i}.jwks_file"))
            for i, (each, content) in enumerate(zip(self._config.issuers, contents, strict=True))
        }
        self._contents = contents
        # What a withdrawn key has signed counts no longer.
        self._verified.clear()
        return True

    def read(self, headers: HeaderBlock, now: float) -> Token | Rejection | None:
        """The verified token of a request, why it is refused, or None if there is none. `now`: wall clock, seconds."""
        value = headers.get(self._header)
        if value is None:
            return None
        if sum(field[0] == self._header for field in headers.fields) > 1:
            # Which of them the agent would take is not ours to guess.
            return self._invalid(f"{self._config.header} was sent more than once")
        if len(value) > _MAX_TOKEN:
            return self._invalid(f"it is longer than {_MAX_TOKEN} bytes")
        scheme, space, rest = value.partition(b" ")
        if space and scheme.lower() == b"bearer":
            value = rest.lstrip(b" ")
        elif self._is_authorization:
            # Basic and the like are between the caller and the agent.
            return None if space else self._invalid("the value is not of the form `Bearer TOKEN`")
        digest = sha256(value).digest()
        token = self._verified.get(digest)
        if token is not None and now < token.until:
            return token
        verified = self._verify(value, now)
        if isinstance(verified, Token):
            self._verified.pop(digest, None)
            if len(self._verified) >= _TOKENS_KEPT:
                del self._verified[next(iter(self._verified))]
            self._verified[digest] = verified
        return verified

    def _verify(self, value: bytes, now: float) -> Token | Rejection:
        from jwt.exceptions import PyJWTError

        try:
            unverified = self._jws.decode_complete(value, options={"verify_signature": False})
            claimed = json.loads(unverified["payload"])
        except (PyJWTError, ValueError, RecursionError):
            return self._invalid("it is not a JWT")
        header = unverified["header"]
        name = claimed.get("iss") if isinstance(claimed, dict) else None
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            return self._invalid("its issuer is not one that is configured")
        algorithm = header.get("alg")
        if algorithm not in issuer.config.algorithms:
            allowed = ", ".join(issuer.config.algorithms)
            return self._invalid(f"its algorithm is not one of {allowed}, which its issuer signs with", issuer)
        key = issuer.key(header.get("kid"), algorithm)
        if key is None:
            return Reason.TOKEN_UNKNOWN_KEY.reject(
                f"the token is signed with a key that {issuer.config.jwks_file.name} does not hold for its algorithm",
                issuer=issuer.config.issuer,
            )
        try:
            verified = self._jws.decode_complete(value, key, algorithms=[algorithm])
        except PyJWTError:
            return self._invalid("its signature does not hold", issuer)
        payload: dict[str, Any] = json.loads(verified["payload"])
        return self._judge(payload, issuer, now)

    def _judge(self, payload: Mapping[str, Any], issuer: _Issuer, now: float) -> Token | Rejection:
        """The signature holds: is the token for us, and is it its time? (RFC 7519 §4.1)"""
        config = issuer.config
        audience = payload.get("aud")
        meant = audience if isinstance(audience, list) else [audience]
        if not any(each in config.audiences for each in meant if isinstance(each, str)):
            allowed = ", ".join(config.audiences)
            return Reason.TOKEN_WRONG_AUDIENCE.reject(
                f"the token is not for this mesh; its audience must hold one of {allowed}",
                issuer=config.issuer,
                audiences=allowed,
            )
        ends, begins = payload.get("exp"), payload.get("nbf", 0)
        if not _is_time(ends):
            return self._invalid("it has no usable exp", issuer)
        if not _is_time(begins):
            return self._invalid("it has no usable nbf", issuer)
        if now >= ends + config.leeway:
            late = f"{now - ends:.0f}"
            return Reason.TOKEN_EXPIRED.reject(
                f"the token expired {late} s ago; {config.leeway:g} s are forgiven",
                issuer=config.issuer,
                expiredForSeconds=late,
                leewaySeconds=f"{config.leeway:g}",
            )
        if now < begins - config.leeway:
            early = f"{begins - now:.0f}"
            return Reason.TOKEN_NOT_YET_VALID.reject(
                f"the token is valid only in {early} s; {config.leeway:g} s are forgiven",
                issuer=config.issuer,
                validInSeconds=early,
                leewaySeconds=f"{config.leeway:g}",
            )
        return Token(payload, min(ends + config.leeway, now + _KEPT_FOR))

    def _invalid(self, problem: str, issuer: _Issuer | None = None) -> Rejection:
        return Reason.TOKEN_INVALID.reject(
            f"the token cannot be used: {problem}",
            header=self._config.header,
            problem=problem,
            issuer=issuer.config.issuer if issuer is not None else "",
        )


def _is_time(value: Any) -> TypeGuard[float]:
    # Not bool, which is an int; not NaN, which is before and after nothing.
    return type(value) in {int, float} and 0 <= value <= _LAST_SECOND


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """The values of a claim as text; objects have none."""
    if name == "scope" and isinstance(value, str):
        # RFC 8693 §4.2: one text, values separated by spaces.
        return tuple(value.split(" "))
    values = value if isinstance(value, list) else [value]
    return tuple(_text(each) for each in values if isinstance(each, str | int | float))


def _text(value: str | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


# ── keys ──


def _read(path: Path, field: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise ValueError(f"{field}: {path}: cannot be read: {error.strerror}") from None
    if len(content) > _MAX_FILE:
        raise ValueError(f"{field}: {path}: is larger than {_MAX_FILE} bytes")
    return content


def _keys(content: bytes, config: IssuerConfig, field: str) -> dict[str | None, tuple[PyJWK, ...]]:
    """The keys that may verify, by `kid`, each bound to one of the pinned algorithms. Raises ValueError."""
    where = f"{field}: {config.jwks_file}"
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError(f"{where}: is not JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"{where}: is not a JSON Web Key Set, an object with a list `keys`")  # noqa: TRY004
    found: dict[str | None, tuple[PyJWK, ...]] = {}
    for i, entry in enumerate(entries):
        if isinstance(entry, dict) and "d" in entry:
            raise ValueError(
                f"{where}: keys.{i}: holds a private key, which does not belong here; publish the public one"
            )
        # RFC 7517 §5: keys that are not understood are passed over.
        algorithms = [each for each in config.algorithms if each in _algorithms(entry)]
        if not algorithms:
            continue
        kid = entry.get("kid")
        if kid in found:
            raise ValueError(f"{where}: keys.{i}: its kid is taken by an earlier key")
        found[kid] = tuple(_key(entry, each, f"{where}: keys.{i}") for each in algorithms)
    if not found:
        allowed = ", ".join(config.algorithms)
        raise ValueError(f"{where}: holds no public key for {allowed}")
    return found


def _algorithms(entry: Any) -> tuple[str, ...]:
    """What a key may verify, by its kind alone; what the entry says of itself can only narrow that."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str | None):
        return ()
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return ()
    kind, curve = entry.get("kty"), entry.get("crv")
    able: tuple[str, ...] = ()
    if kind == "RSA":
        able = _RSA
    elif kind == "EC" and isinstance(curve, str) and curve in _CURVES:
        able = (_CURVES[curve],)
    elif kind == "OKP" and curve in {"Ed25519", "Ed448"}:
        able = ("EdDSA",)
    narrowed = entry.get("alg")
    return able if narrowed is None else tuple(each for each in able if each == narrowed)


def _key(entry: Mapping[str, Any], algorithm: str, where: str) -> PyJWK:
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    try:
        key = PyJWK(dict(entry), algorithm)
    except (PyJWTError, ValueError, TypeError):
        raise ValueError(f"{where}: is not a usable {entry['kty']} key") from None
    size = getattr(key.key, "key_size", _RSA_BITS)
    if entry["kty"] == "RSA" and size < _RSA_BITS:
        raise ValueError(f"{where}: is an RSA key of {size} bits; at least {_RSA_BITS} are needed")
    return key
