"""Seals: each line holds the hash of the line before (`prev`) and its own (`hash`); checkpoints sign a hash with Ed25519.

The hash is SHA-256 over the line as it stands, without its last member `,"hash":"…"`. Not over a re-serialised form: what
is verified is every byte that was written, and no two spellings of the same record share a seal.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

GENESIS = "0" * 64
"""The `prev` of the first record of all."""

_BEFORE_HASH = b',"hash":"'
_SEAL_LENGTH = len(_BEFORE_HASH) + 64 + len(b'"}')
_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode
_CONTEXT = "sidecar audit checkpoint v1"
"""A signature of ours is good for nothing else (and no other one for this)."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A record whose hash fits its line."""

    record: dict[str, Any]
    sequence: int
    prev: str
    hash: str

    @property
    def kind(self) -> str:
        return str(self.record.get("kind", ""))


def seal(record: Mapping[str, Any], sequence: int, prev: str) -> tuple[bytes, str]:
    """`record` as a line with its newline, and its hash. What is no JSON is written as text."""
    body = _encode({"sequence": sequence, "prev": prev, **record}).encode()
    digest = hashlib.sha256(body).hexdigest()
    return b'%b,"hash":"%b"}\n' % (body[:-1], digest.encode()), digest


def unseal(line: bytes) -> Sealed | None:
    """The record in `line` (without its newline), or None: no record, or the hash does not fit."""
    if len(line) <= _SEAL_LENGTH or not line.endswith(b'"}'):
        return None
    body = line[:-_SEAL_LENGTH] + b"}"
    digest = hashlib.sha256(body).hexdigest()
    if line[-_SEAL_LENGTH:] != b'%b%b"}' % (_BEFORE_HASH, digest.encode()):
        return None
    try:
        record = json.loads(body)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    sequence, prev = record.get("sequence"), record.get("prev")
    if type(sequence) is not int or not isinstance(prev, str):
        return None
    return Sealed(record, sequence, prev, digest)


# ── checkpoints ──


def signed_bytes(sequence: int, digest: str, time: str) -> bytes:
    """What a checkpoint signs: the record `sequence` has the hash `digest`, and this was so at `time`."""
    return f"{_CONTEXT}\n{sequence}\n{digest}\n{time}\n".encode()


def fingerprint(public: Ed25519PublicKey) -> str:
    """The name of a key to be pinned: `sha256:` and the hash of its 32 bytes."""
    return f"sha256:{hashlib.sha256(public.public_bytes_raw()).hexdigest()}"


class Signer:
    """An Ed25519 private key that signs checkpoints. `repr` does not show the key."""

    __slots__ = ("_key", "_public", "fingerprint")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
        self.fingerprint = fingerprint(key.public_key())

    @classmethod
    def load(cls, path: Path) -> Signer:
        """Read a PEM file. Raises OSError; ValueError, naming the file, for what is no Ed25519 private key."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(path.read_bytes(), None)
        except TypeError:
            raise ValueError(
                f"{path}: is encrypted; a checkpoint key has no passphrase, its mode protects it"
            ) from None
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError(f"{path}: is no private key in PEM") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path}: is no Ed25519 key; make one: openssl genpkey -algorithm ed25519")  # noqa: TRY004
        return cls(key)

    @classmethod
    def load_or_create(cls, path: Path) -> Signer:
        """`load`; a file that does not exist is made (0600), with the public half beside it as `<path>.pub`."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

        with contextlib.suppress(FileNotFoundError):
            return cls.load(path)
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        # Whole or not at all: a key that a crash left half-written would stop every later start.
        staged = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            _write_private(staged, private)
            path.with_name(f"{path.name}.pub").write_bytes(public)
            # link does not overwrite: who came first has made the key.
            with contextlib.suppress(FileExistsError):
                os.link(staged, path)
        finally:
            staged.unlink(missing_ok=True)
        return cls.load(path)

    def sign(self, sequence: int, digest: str, time: str) -> dict[str, Any]:
        """A checkpoint: that record `sequence` has the hash `digest`."""
        signature = base64.b64encode(self._key.sign(signed_bytes(sequence, digest, time))).decode()
        return {"sequence": sequence, "hash": digest, "time": time, "key": self._public, "signature": signature}


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose signature fits; `key` is the fingerprint of whoever signed it."""

    sequence: int
    hash: str
    time: str
    key: str


def read_checkpoint(found: object) -> Checkpoint | None:
    """What `Signer.sign` made, checked against the key it names; None = it is not signed by that key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if not isinstance(found, dict):
        return None
    sequence, digest, time = found.get("sequence"), found.get("hash"), found.get("time")
    if type(sequence) is not int or not isinstance(digest, str) or not isinstance(time, str):
        return None
    try:
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(found.get("key", ""), validate=True))
        public.verify(base64.b64decode(found.get("signature", ""), validate=True), signed_bytes(sequence, digest, time))
    except (InvalidSignature, ValueError, TypeError, binascii.Error):
        return None
    return Checkpoint(sequence, digest, time, fingerprint(public))


def read_pin(text: str) -> str:
    """A fingerprint (`sha256:…`) as it is, or that of the public key in the PEM file `text`. Raises ValueError, OSError."""
    from pathlib import Path

    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if text.startswith("sha256:"):
        digits = text.removeprefix("sha256:").lower()
        if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
            raise ValueError(f"{text}: is no fingerprint; sha256: and 64 hexadecimal digits")
        return f"sha256:{digits}"
    try:
        key = load_pem_public_key(Path(text).read_bytes())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{text}: is no public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{text}: is no Ed25519 public key")  # noqa: TRY004
    return fingerprint(key)
