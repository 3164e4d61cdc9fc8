"""Seals and signatures: every byte of a line counts, and a signature is good for one record of one key."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from sidecar.policies.audit.hashes import GENESIS, Signer, fingerprint, read_checkpoint, read_pin, seal, unseal

RECORD = {"kind": "call", "method": "/a.B/C", "text": 'ümlaut \u2028 "quoted"'}


def test_what_is_sealed_is_unsealed() -> None:
    line, digest = seal(RECORD, 7, GENESIS)
    found = unseal(line.removesuffix(b"\n"))
    assert found is not None
    assert (found.sequence, found.prev, found.hash, found.kind) == (7, GENESIS, digest, "call")
    assert found.record == {"sequence": 7, "prev": GENESIS, **RECORD}
    assert json.loads(line)["hash"] == digest


def test_anybody_can_recompute_a_hash_with_two_commands() -> None:
    line, digest = seal(RECORD, 1, GENESIS)
    body = line.decode().strip().replace(f',"hash":"{digest}"', "")
    assert hashlib.sha256(body.encode()).hexdigest() == digest


def test_every_byte_of_a_line_counts() -> None:
    line = seal(RECORD, 1, GENESIS)[0].removesuffix(b"\n")
    for position in range(len(line)):
        for changed in (line[position] ^ 1, line[position] ^ 0x20):
            assert unseal(line[:position] + bytes([changed]) + line[position + 1 :]) is None, position
        assert unseal(line[:position] + line[position + 1 :]) is None, position


@pytest.mark.parametrize("line", [b"", b"{}", b"[1,2]", b"no json", b'{"hash":"' + b"0" * 64 + b'"}'])
def test_what_is_no_record_is_none(line: bytes) -> None:
    assert unseal(line) is None


@pytest.mark.parametrize(
    "body", [b'{"prev":"x"}', b'{"sequence":true,"prev":"x"}', b'{"sequence":1,"prev":2}', b'["sequence"}']
)
def test_a_seal_alone_makes_no_record(body: bytes) -> None:
    assert unseal(b'%b,"hash":"%b"}' % (body[:-1], hashlib.sha256(body).hexdigest().encode())) is None


def test_a_checkpoint_is_signed_for_its_record_alone() -> None:
    signer = Signer(Ed25519PrivateKey.generate())
    made = signer.sign(12, "ab", "2027-01-15T08:00:00.000Z")
    found = read_checkpoint(made)
    assert found is not None
    assert (found.sequence, found.hash, found.key) == (12, "ab", signer.fingerprint)
    other = Signer(Ed25519PrivateKey.generate()).sign(12, "ab", "2027-01-15T08:00:00.000Z")
    for name, value in (
        ("sequence", 13),
        ("sequence", True),
        ("hash", "ac"),
        ("time", "2028-01-15T08:00:00.000Z"),
        ("key", other["key"]),
        ("signature", other["signature"]),
        ("signature", "?"),
        ("key", "AAAA"),
        ("key", None),
    ):
        assert read_checkpoint({**made, name: value}) is None, name
    assert read_checkpoint([made]) is None


def test_a_missing_key_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "audit.key"
    made = Signer.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Signer.load_or_create(path).fingerprint == made.fingerprint
    assert read_pin(str(tmp_path / "audit.key.pub")) == made.fingerprint
    assert sorted(each.name for each in tmp_path.iterdir()) == ["audit.key", "audit.key.pub"]
    assert "PRIVATE" not in repr(made)


def test_keys_that_cannot_sign_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "k.pem"
    path.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    with pytest.raises(ValueError, match=r"k\.pem: is no Ed25519 key"):
        Signer.load(path)
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    with pytest.raises(ValueError, match=r"k\.pem: is encrypted"):
        Signer.load(path)
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"k\.pem: is no private key in PEM"):
        Signer.load(path)


def test_a_pin_is_a_fingerprint_or_a_public_key_file(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    name = fingerprint(key.public_key())
    assert read_pin(name) == name
    assert read_pin(f"sha256:{name[7:].upper()}") == name
    for bad in ("sha256:12", f"sha256:{'g' * 64}"):
        with pytest.raises(ValueError, match="is no fingerprint"):
            read_pin(bad)
    with pytest.raises(FileNotFoundError):
        read_pin(str(tmp_path / "absent"))
    (tmp_path / "x").write_text("x")
    with pytest.raises(ValueError, match="is no public key in PEM"):
        read_pin(str(tmp_path / "x"))
