from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.identity.certificate import DAY, facts, is_dns_name
from tests.support.pki import STARTED, Pki


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def test_one_spiffe_id_is_the_identity_and_all_facts_are_read(pki: Pki) -> None:
    leaf = pki.leaf("orders")
    certificate = x509.load_der_x509_certificate(leaf.der)
    found = facts(leaf.der)
    assert found.identity == "spiffe://mesh.local/agent/orders"
    assert found.problem is None
    assert found.uri_sans == ("spiffe://mesh.local/agent/orders",)
    assert found.dns_sans == ("orders", "localhost")
    assert found.ip_sans == ("127.0.0.1", "::1")
    assert int(found.serial, 16) == certificate.serial_number
    assert found.subject == "CN=orders"
    assert found.issuer == "CN=mesh CA"
    assert found.not_before == STARTED - DAY
    assert found.not_after == STARTED + 30 * DAY
    assert found.fingerprint == hashlib.sha256(leaf.der).hexdigest()
    assert not found.is_authority


def test_two_uris_are_no_identity_although_both_are_well_formed(pki: Pki) -> None:
    found = facts(pki.two_uris("orders").der)
    assert found.identity is None
    assert found.problem == "it has 2 URI SANs; exactly one is allowed"


def test_a_second_uri_of_another_scheme_counts_too(pki: Pki) -> None:
    leaf = pki.leaf("orders", uris=("spiffe://mesh.local/agent/orders", "https://orders.example"))
    assert facts(leaf.der).identity is None


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("spiffe://Mesh.Local/agent/orders", "lower-case"),
        ("spiffe://mesh.local/agent/../admin", "no dot segments"),
        ("spiffe://mesh.local/agent%2Forders", "no percent-encoding"),
        ("https://mesh.local/agent/orders", "begins with spiffe://"),
        ("spiffe://mesh.local", "no path"),
    ],
)
def test_an_unusable_uri_is_a_problem_and_never_falls_back_to_a_dns_name(pki: Pki, uri: str, why: str) -> None:
    found = facts(pki.malformed("orders", uri).der)
    assert found.identity is None
    assert why in (found.problem or "")
    assert found.dns_sans == ("orders", "localhost")


def test_a_foreign_trust_domain_is_refused_only_where_ours_are_named(pki: Pki) -> None:
    der = pki.foreign("orders").der
    assert facts(der).identity == "spiffe://elsewhere.example/agent/orders"
    assert facts(der, frozenset({"elsewhere.example"})).identity == "spiffe://elsewhere.example/agent/orders"
    found = facts(der, frozenset({"mesh.local"}))
    assert (found.identity, found.problem) == (None, "its trust domain elsewhere.example is not one of ours")


def test_without_a_uri_the_first_dns_name_is_the_identity(pki: Pki) -> None:
    found = facts(pki.dns_only("orders", "Orders.Mesh.Example", "other.example").der)
    assert (found.identity, found.problem) == ("orders.mesh.example", None)


@pytest.mark.parametrize(
    "name", ["*.mesh.example", "spiffe://mesh.local/admin", "two words", "a..b", "-a.example", "a\x00b"]
)
def test_a_dns_name_that_is_no_single_host_is_no_identity(pki: Pki, name: str) -> None:
    found = facts(pki.dns_only("odd", name).der)
    assert (found.identity, found.problem) == (None, "its first DNS SAN is not the name of one host")


def test_no_names_at_all_is_a_problem_even_with_a_subject(pki: Pki) -> None:
    found = facts(pki.no_san("orders").der)
    assert (found.identity, found.problem) == (None, "it has neither a URI SAN nor a DNS SAN")


def test_a_ca_certificate_does_not_identify_a_workload(pki: Pki) -> None:
    found = facts(pki.ca_leaf("orders").der)
    assert found.identity is None
    assert found.is_authority
    assert "CA certificate" in (found.problem or "")


def test_a_leaf_whose_key_may_sign_certificates_does_not_either(pki: Pki) -> None:
    found = facts(pki.leaf("orders", may_sign=True).der)
    assert found.identity is None
    assert "may sign certificates" in (found.problem or "")


def test_the_end_of_validity_is_told_with_the_time_given(pki: Pki) -> None:
    found = facts(pki.leaf("orders").der)
    assert found.validity_problem(STARTED) is None
    assert found.validity_problem(found.not_after) is None
    assert found.validity_problem(found.not_after + 1) == "expired less than a minute ago"
    assert found.validity_problem(found.not_after + 3 * DAY) == "expired 3 days ago"
    assert found.validity_problem(found.not_before - 3600) == "is valid only in 1 hour"
    assert found.days_left(STARTED) == 30
    assert found.days_left(found.not_after + DAY) == -1


@pytest.mark.parametrize("der", [b"", b"\x30", b"no certificate", b"\x30\x82\xff\xff" + bytes(100)])
def test_bytes_that_are_no_certificate_are_a_problem(der: bytes) -> None:
    found = facts(der)
    assert (found.identity, found.problem) == (None, "the certificate cannot be read")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_certificate_never_raises(pki: Pki, data: st.DataObject) -> None:
    der = bytearray(pki.leaf("orders").der)
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    found = facts(bytes(der[: data.draw(st.integers(1, len(der)))]))
    assert (found.identity is None) == (found.problem is not None)


def test_an_extension_that_cannot_be_read_is_a_problem_that_keeps_the_serial(pki: Pki) -> None:
    leaf = pki.leaf("orders")
    # A byte that no URI SAN may hold, in place of one that it may.
    found = facts(leaf.der.replace(b"mesh.local/agent/orders", b"mesh.local/agent/\xffrders"))
    assert (found.identity, found.problem) == (None, "its extensions cannot be read")
    assert found.serial == facts(leaf.der).serial


def test_the_summary_is_plain_data_for_json(pki: Pki) -> None:
    shown = facts(pki.leaf("orders").der).summary(STARTED)
    assert shown["identity"] == "spiffe://mesh.local/agent/orders"
    assert shown["days_left"] == 30.0
    assert shown["dns_sans"] == ["orders", "localhost"]


@pytest.mark.parametrize("name", ["a", "orders", "orders.shop.svc", "_grpc.example", "x-1.y", "a" * 63])
def test_host_names(name: str) -> None:
    assert is_dns_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "a.", "A", "a b", "a:b", "a/b", "*", "a-", "a" * 64, "a.b\n", ".".join(["a" * 60] * 5)]
)
def test_what_is_no_host_name(name: str) -> None:
    assert not is_dns_name(name)
