"""The configuration that nobody had to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar.config.load import parse
from sidecar.supervision.without_file import WithoutFile, WithoutFileError


def configured(**given: Any) -> Any:
    text = WithoutFile(**{"app": "127.0.0.1:50051", "command": ("./agent",), **given}).configuration()
    return parse(text, environ={}, host="here").root


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    for name in ("ca.crt", "ca.key", "orders.crt", "orders.key"):
        (tmp_path / name).write_text("")
    return tmp_path


def test_without_certificates_it_is_for_this_machine_only() -> None:
    root = configured()
    assert (root.listeners[0].bind, root.listeners[0].tls) == ("127.0.0.1:8443", None)
    assert (root.admin.bind, root.clusters["local"].endpoints) == ("127.0.0.1:9901", ("127.0.0.1:50051",))
    with pytest.raises(WithoutFileError, match="without --certs there is no TLS"):
        configured(bind="0.0.0.0:1")


def test_with_certificates_callers_must_show_one(certs: Path) -> None:
    root = configured(certs=certs)
    tls = root.listeners[0].tls
    assert (root.node.name, root.listeners[0].bind) == ("orders", "0.0.0.0:8443")
    assert (tls.certificate, tls.client_certificate) == (certs / "orders.crt", "require")


def test_several_certificates_need_a_name(certs: Path) -> None:
    for name in ("stock.crt", "stock.key"):
        (certs / name).write_text("")
    with pytest.raises(WithoutFileError, match="choose one with --name: orders, stock"):
        configured(certs=certs)
    assert configured(certs=certs, name="stock").node.name == "stock"
    with pytest.raises(WithoutFileError, match=r"no other.crt with its other.key; found: orders, stock"):
        configured(certs=certs, name="other")


def test_a_folder_without_certificates_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(WithoutFileError, match="sidecar certs ca"):
        configured(certs=tmp_path)
    (tmp_path / "ca.crt").write_text("")
    with pytest.raises(WithoutFileError, match="sidecar certs issue"):
        configured(certs=tmp_path)


def test_what_was_typed_is_taken_as_it_is() -> None:
    command = ("sh", "-c", 'echo ${HOME} $$ "ä" \\ # x: [y]', "")
    assert configured(command=command).agent.command == command


@pytest.mark.parametrize(("option", "value"), [("app", "nowhere"), ("bind", "x"), ("admin", ":1"), ("name", "a b")])
def test_a_wrong_value_names_its_option(option: str, value: str) -> None:
    with pytest.raises(WithoutFileError, match=f"--{option} {value} "):
        configured(**{option: value})
