from __future__ import annotations

import errno
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from sidecar.identity.authority import Authority, Issued, check_name, files_of, names_of, write
from sidecar.identity.certificate import DAY
from sidecar.identity.load import load

NOW = 1_800_000_000.0
ORDERS = "spiffe://mesh.local/agent/orders"


@pytest.fixture
def signer() -> Authority:
    return Authority.create("mesh.local", now=NOW, days=3650)[0]


def leaf(signer: Authority, **options: object) -> x509.Certificate:
    arguments: dict[str, object] = {"dns": ("orders",), "ips": ("127.0.0.1", "::1"), "now": NOW, "days": 30, **options}
    return x509.load_pem_x509_certificate(signer.issue("orders", ORDERS, **arguments).certificate)  # type: ignore[arg-type]


def test_the_root_may_sign_leaves_and_nothing_below(signer: Authority) -> None:
    root = signer.certificate
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (True, True, False)
    assert names_of(root)[0] == ["spiffe://mesh.local"]
    assert signer.trust_domain == "mesh.local"
    root.verify_directly_issued_by(root)


def test_a_leaf_is_what_x509_svid_asks_for(signer: Authority) -> None:
    made = leaf(signer)
    made.verify_directly_issued_by(signer.certificate)
    assert isinstance(made.public_key(), ec.EllipticCurvePublicKey)
    assert made.public_key().curve.name == "secp256r1"  # type: ignore[union-attr]
    assert names_of(made) == ([ORDERS], ["orders"], ["127.0.0.1", "::1"])
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.value.ca is False
    usage = made.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert (usage.value.digital_signature, usage.value.key_cert_sign, usage.value.crl_sign) == (True, False, False)
    extended = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(extended) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    root_key = signer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    by = made.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert by.key_identifier == root_key.digest
    assert made.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest != root_key.digest


def test_validity_is_counted_from_the_time_given_and_begins_five_minutes_before(signer: Authority) -> None:
    made = leaf(signer)
    assert made.not_valid_before_utc == datetime.fromtimestamp(NOW - 300, UTC)
    assert made.not_valid_after_utc == datetime.fromtimestamp(NOW + 30 * DAY, UTC)


def test_a_leaf_never_outlives_its_ca(signer: Authority) -> None:
    assert leaf(signer, days=9999).not_valid_after_utc == signer.certificate.not_valid_after_utc


def test_each_leaf_has_its_own_key_and_serial(signer: Authority) -> None:
    one, other = leaf(signer), leaf(signer)
    assert one.serial_number != other.serial_number
    assert one.public_key() != other.public_key()


def test_repeated_names_stand_once(signer: Authority) -> None:
    assert names_of(leaf(signer, dns=("orders", "localhost", "orders"), ips=("::1", "::1")))[1:] == (
        ["orders", "localhost"],
        ["::1"],
    )


@pytest.mark.parametrize(
    ("identity", "options", "why"),
    [
        ("spiffe://Mesh.local/agent/orders", {}, "lower-case"),
        ("spiffe://mesh.local", {}, "has a path"),
        ("spiffe://elsewhere.example/agent/orders", {}, "issues for the trust domain mesh.local"),
        (ORDERS, {"dns": ("two words",)}, "is not a DNS name"),
        (ORDERS, {"dns": ("a..b",)}, "is not a DNS name"),
        (ORDERS, {"ips": ("300.1.1.1",)}, "is not an IP address"),
        (ORDERS, {"days": 0}, "at least one day"),
    ],
)
def test_what_must_not_be_issued_is_refused(
    signer: Authority, identity: str, options: dict[str, object], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        signer.issue("orders", identity, **{"now": NOW, "days": 30, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "../orders", "a/b", "ca", "CA", ".hidden", "a b", "x" * 64, "orders\n"])
def test_a_name_cannot_leave_the_folder_or_be_the_ca(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        check_name(name)


def stored(folder: Path, *, days: int = 3650) -> None:
    write(Authority.create("mesh.local", now=NOW, days=days)[1], files_of(folder, "ca"))


def test_a_ca_is_loaded_from_its_folder_and_issues(tmp_path: Path) -> None:
    stored(tmp_path)
    signer = Authority.load(tmp_path, now=NOW)
    files = files_of(tmp_path, "orders")
    write(signer.issue("orders", ORDERS, now=NOW, days=30), files)
    found = load(files.certificate, files.private_key, tmp_path / "ca.crt")
    assert found.chain[0].identity == ORDERS
    assert found.problems(NOW) == []


def test_a_ca_that_cannot_issue_is_refused(tmp_path: Path) -> None:
    stored(tmp_path, days=10)
    with pytest.raises(ValueError, match=r"ca\.crt: the CA expired on 2027-01-25"):
        Authority.load(tmp_path, now=NOW + 11 * DAY)
    with pytest.raises(ValueError, match="the CA is not valid before"):
        Authority.load(tmp_path, now=NOW - DAY)
    other = tmp_path / "other"
    stored(other)
    (tmp_path / "ca.key").write_bytes((other / "ca.key").read_bytes())
    with pytest.raises(ValueError, match=r"ca\.key: the key does not match the CA certificate in .*ca\.crt"):
        Authority.load(tmp_path, now=NOW)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(ValueError, match=r"ca\.key: cannot be read"):
        Authority.load(tmp_path, now=NOW)


def test_a_leaf_does_not_pass_for_a_ca(tmp_path: Path, signer: Authority) -> None:
    write(signer.issue("orders", ORDERS, now=NOW, days=30), files_of(tmp_path, "ca"))
    with pytest.raises(ValueError, match="is not a CA certificate"):
        Authority.load(tmp_path, now=NOW)


def test_only_the_owner_reads_a_key(tmp_path: Path) -> None:
    files = files_of(tmp_path / "new" / "folder", "ca")
    write(Issued(b"certificate", b"key"), files)
    assert stat.S_IMODE(files.private_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(files.certificate.stat().st_mode) == 0o644
    assert sorted(path.name for path in files.certificate.parent.iterdir()) == ["ca.crt", "ca.key"]


@pytest.mark.parametrize("existing", ["orders.crt", "orders.key"])
def test_nothing_is_overwritten_without_force_and_neither_file_is_touched(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_bytes(b"precious")
    files = files_of(tmp_path, "orders")
    with pytest.raises(FileExistsError, match=existing):
        write(Issued(b"certificate", b"key"), files)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {existing: b"precious"}
    write(Issued(b"certificate", b"key"), files, force=True)
    assert (files.certificate.read_bytes(), files.private_key.read_bytes()) == (b"certificate", b"key")


def test_a_link_left_in_the_place_of_a_key_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / "orders.key").symlink_to(target)
    with pytest.raises(FileExistsError):
        write(Issued(b"certificate", b"key"), files_of(tmp_path, "orders"))
    assert not target.exists()


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_leaves_the_former_pair_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    files = files_of(tmp_path, "orders")
    if force:
        write(Issued(b"former certificate", b"former key"), files)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    synced = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:  # the key was staged, the certificate does not fit
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(Issued(b"certificate", b"key"), files, force=force)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_key_is_not_in_the_text_of_what_was_issued() -> None:
    assert "secret" not in repr(Issued(b"certificate", b"secret"))
