from __future__ import annotations

import json
import re
import traceback
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from sidecar.identity.certificate import DAY
from sidecar.identity.load import MAX_FILE, load, read_certificates
from tests.support.pki import STARTED, Leaf, Pki


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def test_a_good_triple_is_summed_up_without_a_secret(pki: Pki) -> None:
    leaf = pki.leaf("orders")
    found = load(leaf.certificate, leaf.private_key, leaf.ca)
    assert [one.identity for one in found.chain] == ["spiffe://mesh.local/agent/orders"]
    assert [one.subject for one in found.authorities] == ["CN=mesh CA"]
    assert found.problems(STARTED) == []
    assert found.days_left(STARTED) == 30
    shown = json.dumps(found.summary(STARTED))
    assert '"days_left": 30.0' in shown
    assert "PRIVATE" not in shown
    assert leaf.private_key.read_text().splitlines()[1] not in shown


def test_each_part_may_be_absent(pki: Pki) -> None:
    leaf = pki.leaf("orders")
    assert load(None, None, leaf.ca).days_left(STARTED) is None
    assert load(leaf.certificate, leaf.private_key, None).authorities == ()


@pytest.mark.parametrize("absent", ["certificate", "private_key"])
def test_half_a_pair_is_refused(pki: Pki, absent: str) -> None:
    leaf = pki.leaf("orders")
    pair = {"certificate": leaf.certificate, "private_key": leaf.private_key}
    with pytest.raises(ValueError, match="come together"):
        load(**{**pair, absent: None}, trusted_ca=None)


def damage(leaf: Leaf, part: str, content: bytes | None) -> Path:
    path: Path = getattr(leaf, part)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("part", "content", "why"),
    [
        ("certificate", None, "cannot be read: No such file or directory"),
        ("private_key", None, "cannot be read: No such file or directory"),
        ("ca", None, "cannot be read: No such file or directory"),
        ("certificate", b"", "holds no certificate in PEM"),
        ("ca", b"# nothing here\n", "holds no certificate in PEM"),
        ("certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "damaged or incomplete"),
        ("certificate", b"-----BEGIN CERTIFICATE-----\nMIIB", "damaged or incomplete"),
        ("private_key", b"", "holds no private key in PEM"),
        ("private_key", b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n", "cannot be read"),
        ("certificate", b" " * (MAX_FILE + 1), "is larger than 1024 KiB"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(pki: Pki, part: str, content: bytes | None, why: str) -> None:
    leaf = pki.leaf("orders")
    path = damage(leaf, part, content)
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")) as caught:
        load(leaf.certificate, leaf.private_key, leaf.ca)
    assert why in str(caught.value)
    assert "c2VjcmV0" not in str(caught.value)
    # Nor in what a traceback would add: the parser's own error is not shown.
    assert "c2VjcmV0" not in "".join(traceback.format_exception(caught.value, limit=0))
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_files_in_the_wrong_place_are_told_as_such(pki: Pki) -> None:
    leaf = pki.leaf("orders")
    with pytest.raises(ValueError, match=r"orders\.key: holds a private key, no certificate"):
        load(leaf.private_key, leaf.private_key, leaf.ca)
    with pytest.raises(ValueError, match=r"orders\.crt: holds no private key"):
        load(leaf.certificate, leaf.certificate, leaf.ca)
    with pytest.raises(ValueError, match=r"orders\.crt: holds no CA certificate \(CN=orders is a leaf\)"):
        load(leaf.certificate, leaf.private_key, leaf.certificate)


def test_an_encrypted_key_is_refused_and_not_asked_for(pki: Pki) -> None:
    leaf = pki.leaf("orders")
    key = load_pem_private_key(leaf.private_key.read_bytes(), None)
    leaf.private_key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass")))
    with pytest.raises(ValueError, match=r"orders\.key: the private key is encrypted"):
        load(leaf.certificate, leaf.private_key, leaf.ca)


def test_the_key_of_another_certificate_is_refused(pki: Pki) -> None:
    orders, data = pki.leaf("orders"), pki.leaf("data")
    with pytest.raises(ValueError, match=r"data\.key: the key does not match the certificate in .*orders\.crt"):
        load(orders.certificate, data.private_key, orders.ca)


def test_a_chain_stands_leaf_first_and_each_issuer_after_it(pki: Pki) -> None:
    leaf = pki.leaf("orders", intermediate="middle")
    found = load(leaf.certificate, leaf.private_key, leaf.ca)
    assert [one.subject for one in found.chain] == ["CN=orders", "CN=middle CA"]
    first, second = leaf.certificate.read_text().split("-----END CERTIFICATE-----\n", 1)
    first += "-----END CERTIFICATE-----\n"
    leaf.certificate.write_text(second + first)
    with pytest.raises(ValueError, match="belongs to certificate 2 of the file, not the first"):
        load(leaf.certificate, leaf.private_key, leaf.ca)
    leaf.certificate.write_text(first + pki.leaf("other").certificate.read_text() + second)
    with pytest.raises(ValueError, match="certificate 2 did not issue certificate 1"):
        load(leaf.certificate, leaf.private_key, leaf.ca)


def test_text_around_the_certificates_does_not_matter(pki: Pki) -> None:
    leaf = pki.leaf("orders")
    leaf.certificate.write_text("Bag Attributes\n" + leaf.certificate.read_text() + "# end\n")
    assert len(read_certificates(leaf.certificate)) == 1


def test_what_is_not_valid_in_time_is_a_problem_that_names_the_file(pki: Pki) -> None:
    old, young = pki.expired("old"), pki.not_yet_valid("young")
    assert load(old.certificate, old.private_key, old.ca).problems(STARTED) == [
        f"{old.certificate}: the certificate CN=old expired 1 day ago"
    ]
    assert load(young.certificate, young.private_key, young.ca).problems(STARTED) == [
        f"{young.certificate}: the certificate CN=young is valid only in 1 day"
    ]


def test_one_valid_ca_among_several_is_enough(pki: Pki) -> None:
    late = STARTED + 4000 * DAY
    assert load(None, None, pki.ca).problems(late) == [f"{pki.ca}: the CA CN=mesh CA expired 350 days ago"]
    fresh = pki.leaf("fresh", is_ca=True, ends=5000)
    pki.ca.write_bytes(pki.ca.read_bytes() + fresh.certificate.read_bytes())
    assert load(None, None, pki.ca).problems(late) == []
