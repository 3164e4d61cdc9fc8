from __future__ import annotations

import json
import stat
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from sidecar.cli.certs import certs
from sidecar.identity.load import load
from sidecar.store.sealing import Sealing
from tests.support.pki import Pki, shake_hands


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(certs, [str(one) for one in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert run("ca", "--out", tmp_path).exit_code == 0
    return tmp_path


def test_ca_writes_two_files_and_prints_their_names_only_on_stdout(tmp_path: Path) -> None:
    done = run("ca", "--out", tmp_path / "certs")
    assert done.exit_code == 0
    assert done.stdout == f"{tmp_path}/certs/ca.crt\n{tmp_path}/certs/ca.key\n"
    assert "development CA for mesh.local" in done.stderr
    assert stat.S_IMODE((tmp_path / "certs" / "ca.key").stat().st_mode) == 0o600


def test_ca_is_not_overwritten_without_force(folder: Path) -> None:
    before = (folder / "ca.crt").read_bytes()
    done = run("ca", "--out", folder)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr == f"Error: {folder}/ca.key: exists already; it is not overwritten without --force\n"
    assert (folder / "ca.crt").read_bytes() == before
    assert run("ca", "--out", folder, "--force").exit_code == 0
    assert (folder / "ca.crt").read_bytes() != before


def test_issue_names_all_that_a_grpc_client_may_dial(folder: Path) -> None:
    done = run("issue", "orders", "--ca", folder, "--out", folder)
    assert done.exit_code == 0
    assert done.stdout == f"{folder}/orders.crt\n{folder}/orders.key\n"
    assert done.stderr.startswith("spiffe://mesh.local/agent/orders, valid until ")
    found = load(folder / "orders.crt", folder / "orders.key", folder / "ca.crt").chain[0]
    assert found.identity == "spiffe://mesh.local/agent/orders"
    assert found.dns_sans == ("orders", "localhost")
    assert found.ip_sans == ("127.0.0.1", "::1")


def test_issue_takes_an_id_and_more_names(folder: Path) -> None:
    identity = "spiffe://mesh.local/ns/shop/sa/orders"
    done = run(
        *("issue", "orders", "--ca", folder, "--out", folder / "out", "--id", identity, "--days", "7"),
        *("--dns", "orders.shop.svc", "--dns", "localhost", "--ip", "10.0.0.5"),
    )
    assert done.exit_code == 0
    assert "(7 days)" in done.stderr
    found = load(folder / "out" / "orders.crt", folder / "out" / "orders.key", None).chain[0]
    assert found.identity == identity
    assert found.dns_sans == ("orders", "localhost", "orders.shop.svc")
    assert found.ip_sans == ("127.0.0.1", "::1", "10.0.0.5")


def test_what_was_issued_shakes_hands(folder: Path) -> None:
    from sidecar.transport.tls import client_context, server_context

    for name in ("orders", "data"):
        assert run("issue", name, "--ca", folder, "--out", folder).exit_code == 0
    ca = folder / "ca.crt"
    caller = client_context(folder / "orders.crt", folder / "orders.key", ca)
    called = server_context(folder / "data.crt", folder / "data.key", ca)
    for name in ("data", "localhost", "127.0.0.1", "::1"):
        assert shake_hands(caller, called, name)[0].selected_alpn_protocol() == "h2"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["orders", "--id", "spiffe://Mesh.local/x"], "lower-case"),
        (["orders", "--trust-domain", "elsewhere.example"], "issues for the trust domain mesh.local"),
        (["orders", "--dns", "two words"], "is not a DNS name"),
        (["orders", "--ip", "localhost"], "is not an IP address"),
        (["ca"], "is the name of the CA's own files"),
        (["../orders"], "is not a usable name"),
    ],
)
def test_issue_tells_what_is_wrong_and_writes_nothing(folder: Path, arguments: list[str], why: str) -> None:
    done = run("issue", "--ca", folder, "--out", folder / "out", *arguments)
    assert done.exit_code == 1
    assert why in done.stderr
    assert done.stdout == ""
    assert not (folder / "out").exists()


def test_issue_without_a_ca_names_the_missing_file(tmp_path: Path) -> None:
    done = run("issue", "orders", "--ca", tmp_path, "--out", tmp_path)
    assert done.exit_code == 1
    assert done.stderr == f"Error: {tmp_path}/ca.crt: cannot be read: No such file or directory\n"


def test_a_folder_that_cannot_be_written_is_told(folder: Path) -> None:
    (folder / "file").write_text("no folder")
    done = run("issue", "orders", "--ca", folder, "--out", folder / "file" / "below")
    assert done.exit_code == 1
    assert done.stderr == f"Error: {folder}/file/below: Not a directory\n"


@pytest.mark.parametrize(
    "arguments", [["issue", "orders"], ["ca"], ["show"], ["issue", "orders", "--days", "0"], ["nonsense"]]
)
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_rotate_keeps_the_names_and_changes_the_key(folder: Path) -> None:
    run("issue", "orders", "--ca", folder, "--out", folder, "--dns", "orders.shop.svc")
    before = load(folder / "orders.crt", folder / "orders.key", None).chain[0]
    former_key = (folder / "orders.key").read_bytes()
    done = run("rotate", "orders", "--ca", folder, "--out", folder)
    assert done.exit_code == 0
    after = load(folder / "orders.crt", folder / "orders.key", None).chain[0]
    assert (after.uri_sans, after.dns_sans, after.ip_sans) == (before.uri_sans, before.dns_sans, before.ip_sans)
    assert after.serial != before.serial
    assert (folder / "orders.key").read_bytes() != former_key


def test_rotate_needs_something_to_rotate(folder: Path) -> None:
    done = run("rotate", "orders", "--ca", folder, "--out", folder)
    assert done.exit_code == 1
    assert "orders.crt: cannot be read" in done.stderr


def test_rotate_refuses_what_is_no_spiffe_certificate(folder: Path) -> None:
    Pki(folder).dns_only("odd")
    done = run("rotate", "odd", "--ca", folder, "--out", folder)
    assert done.exit_code == 1
    assert "has 0 URI SANs" in done.stderr


def test_show_prints_a_table_without_colours_into_a_pipe(folder: Path) -> None:
    run("issue", "orders", "--ca", folder, "--out", folder)
    done = run("show", folder / "orders.crt", folder / "ca.crt")
    assert done.exit_code == 0
    assert f"{folder}/orders.crt\n  identity  spiffe://mesh.local/agent/orders\n" in done.stdout
    assert "(30 days left)" in done.stdout
    assert "  identity  CA\n" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_show_as_json_is_for_programs(folder: Path) -> None:
    run("issue", "orders", "--ca", folder, "--out", folder)
    shown = json.loads(run("show", folder / "orders.crt", folder / "ca.crt", "-o", "json").stdout)
    assert [one["authority"] for one in shown] == [False, True]
    assert shown[0]["file"] == str(folder / "orders.crt")
    assert shown[0]["identity"] == "spiffe://mesh.local/agent/orders"
    assert shown[0]["days_left"] == 30.0


def test_show_tells_what_is_expired_and_what_is_unusable(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    done = run("show", pki.expired("old").certificate, pki.two_uris("twice").certificate)
    assert done.exit_code == 0
    assert "(expired 1 day ago)" in done.stdout
    assert "unusable: it has 2 URI SANs" in done.stdout


def test_show_goes_on_after_a_bad_file_and_never_shows_a_key(folder: Path) -> None:
    done = run("show", folder / "ca.key", folder / "absent.crt", folder / "ca.crt")
    assert done.exit_code == 1
    assert "ca.key: holds a private key, no certificate" in done.stderr
    assert "absent.crt: cannot be read" in done.stderr
    assert f"{folder}/ca.crt\n" in done.stdout
    assert (folder / "ca.key").read_text().splitlines()[1] not in done.output


@pytest.mark.parametrize("command", [[], ["ca"], ["issue"], ["rotate"], ["show"]])
def test_each_help_ends_with_examples(command: list[str]) -> None:
    text = run(*command, "--help").stdout
    assert "Examples:" in text
    examples = text.partition("Examples:")[2].strip().splitlines()
    assert all(line.strip().startswith(("sidecar certs ", "--")) for line in examples)


def test_the_commands_are_those_of_the_contract() -> None:
    assert isinstance(certs, click.Group)
    assert set(certs.commands) == {"ca", "issue", "key", "rotate", "show"}


def test_key_makes_keys_that_encryption_takes() -> None:
    keys = [run("key").stdout.strip() for _ in range(2)]
    assert keys[0] != keys[1]
    sealing = Sealing(keys)
    assert sealing.open(sealing.seal(b"content")) == b"content"
