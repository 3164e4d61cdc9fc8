from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.config.files import Loaders, check_files
from sidecar.config.load import Loaded, parse

FILE = """
listeners:
  - name: inbound
    direction: inbound
    bind: 127.0.0.1:8443
    tls:
      certificate: good.crt
      private_key: good.key
      trusted_ca: ca.crt
    routes:
      - {name: all, match: {method: /*}, to: local}
clusters:
  local:
    endpoints: ["127.0.0.1:50051"]
    tls: {certificate: good.crt, private_key: good.key, trusted_ca: ca.crt}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("good.crt", "good.key", "ca.crt"):
        (tmp_path / name).write_text("good")
    return tmp_path


def test_files_that_are_good_are_no_problem(folder: Path, order: Any) -> None:
    assert check_files(_loaded(folder, order), LOADERS) == []


def test_each_file_is_told_at_each_line_that_names_it(folder: Path, order: Any) -> None:
    (folder / "ca.crt").unlink()
    (folder / "good.key").write_text("bad")
    assert [str(each) for each in check_files(_loaded(folder, order), LOADERS)] == [
        f"c.yaml:8:20: listeners.0.tls.private_key: `{folder}/good.key` holds no private key",
        f"c.yaml:9:19: listeners.0.tls.trusted_ca: `{folder}/ca.crt` does not exist; "
        "name an existing PEM file (relative paths begin at the configuration file)",
        f"c.yaml:15:47: clusters.local.tls.private_key: `{folder}/good.key` holds no private key",
        f"c.yaml:15:69: clusters.local.tls.trusted_ca: `{folder}/ca.crt` does not exist; "
        "name an existing PEM file (relative paths begin at the configuration file)",
    ]


def test_a_directory_is_no_file(folder: Path, order: Any) -> None:
    (folder / "ca.crt").unlink()
    (folder / "ca.crt").mkdir()
    assert {each.message.split("` ")[1] for each in check_files(_loaded(folder, order), LOADERS)} == {
        "is a directory; name a PEM file"
    }


def test_a_key_must_belong_to_its_certificate(folder: Path, order: Any) -> None:
    (folder / "good.key").write_text("good, of another")
    assert {(each.path, each.message.split("` ")[1]) for each in check_files(_loaded(folder, order), LOADERS)} == {
        ("listeners.0.tls.private_key", "does not match the certificate"),
        ("clusters.local.tls.private_key", "does not match the certificate"),
    }


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied"), "may not be read by this user; give it read permission"),
        (OSError(5, "Input/output error"), "cannot be read: Input/output error; name a readable PEM file"),
    ],
)
def test_what_the_system_refuses_is_told(folder: Path, order: Any, error: OSError, message: str) -> None:
    def refuse(_: Path) -> None:
        raise error

    loaders = Loaders(certificate=LOADERS.certificate, private_key=refuse, trusted_ca=_read, pair=LOADERS.pair)
    problems = check_files(_loaded(folder, order), loaders)
    assert {each.message for each in problems} == {f"`{folder}/good.key` {message}"}


def _loaded(folder: Path, order: Any) -> Loaded:
    return parse(FILE, file="c.yaml", base=folder, order=order)


def _read(path: Path) -> None:
    if not path.read_text().startswith("good"):
        raise ValueError(f"{path}: holds no private key")


def _match(certificate: Path, key: Path) -> None:
    if certificate.read_text() != key.read_text():
        raise ValueError(f"{key}: does not match the certificate")


LOADERS = Loaders(certificate=_read, private_key=_read, trusted_ca=_read, pair=_match)
