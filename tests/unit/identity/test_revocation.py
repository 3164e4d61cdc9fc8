from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.identity.certificate import facts
from sidecar.identity.revocation import Revocations
from tests.support.pki import Pki


def write(folder: Path, text: str) -> Path:
    path = folder / "revoked.txt"
    path.write_bytes(text.encode())
    return path


def test_serials_and_identities_are_read_in_every_spelling(tmp_path: Path) -> None:
    found = Revocations.load(
        write(
            tmp_path,
            "# lost laptops\n\n0A:1B:2c   # that one\r\n0x00ff\nserial: 0d0e\n"
            "spiffe://mesh.local/agent/retired\nOld.Mesh.Example\nidentity: cafe\n",
        )
    )
    assert found.serials == {"a1b2c", "ff", "d0e"}
    assert found.identities == {"spiffe://mesh.local/agent/retired", "old.mesh.example", "cafe"}


def test_a_revoked_serial_is_found_as_openssl_writes_it(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    one, other = facts(pki.leaf("orders").der), facts(pki.leaf("orders", generation=2).der)
    padded = one.serial.zfill(len(one.serial) + len(one.serial) % 2).upper()
    colons = ":".join(re.findall("..", padded))
    found = Revocations.load(write(tmp_path, colons))
    assert found.is_revoked(one)
    assert not found.is_revoked(other)


def test_a_revoked_identity_is_revoked_in_every_certificate(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    found = Revocations.load(write(tmp_path, "spiffe://mesh.local/agent/orders"))
    assert found.is_revoked(facts(pki.leaf("orders").der))
    assert found.is_revoked(facts(pki.leaf("orders", generation=2).der))
    assert not found.is_revoked(facts(pki.leaf("data").der))


def test_an_empty_file_revokes_nobody_not_even_who_has_no_identity(tmp_path: Path) -> None:
    found = Revocations.load(write(tmp_path, "# nobody\n"))
    assert found == Revocations()
    assert not found.is_revoked(facts(Pki(tmp_path).no_san("orders").der))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("spiffe://Mesh.local/agent", "lower-case"),
        ("spiffe://mesh.local/agent/", "end with a slash"),
        ("two words", "neither a serial in hex, nor a SPIFFE id, nor a DNS name"),
        ("*.example", "neither"),
        ("serial: xyz", "not a serial in hex"),
        ("0a:1b:", "neither"),
        ("ab" * 32, "is this a fingerprint?"),
        ("identity:", "neither"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, why: str) -> None:
    path = write(tmp_path, f"# first\n0a1b\n{line}\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}:3: ")) as caught:
        Revocations.load(path)
    assert why in str(caught.value)


def test_a_missing_file_and_one_that_is_not_text_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"revoked\.txt: cannot be read: No such file"):
        Revocations.load(tmp_path / "revoked.txt")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        Revocations.load(binary)
