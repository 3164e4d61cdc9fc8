"""Addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_server.service.binding import BindError, TcpAddress, UnixAddress, claim, is_local, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50051", TcpAddress("127.0.0.1", 50051)),
        ("localhost:0", TcpAddress("localhost", 0)),
        ("[::1]:80", TcpAddress("::1", 80)),
        ("unix:/run/a.sock", UnixAddress(Path("/run/a.sock"))),
        ("unix:///run/a.sock", UnixAddress(Path("/run/a.sock"))),
        ("unix:a.sock", UnixAddress(Path("a.sock"))),
    ],
)
def test_addresses(text: str, address: object) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "50051", ":50051", "host:", "host:x", "host:70000", "host:-1", "::g:80", "unix:", "unix:/" + "a" * 120]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_address(text)


def test_addresses_are_written_as_they_are_read() -> None:
    for text in ("127.0.0.1:1", "[::1]:1", "unix:/a"):
        assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.2:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/a", True),
        ("0.0.0.0:1", False),
        ("h:1", False),
    ],
)
def test_who_can_reach_it(text: str, expected: bool) -> None:
    assert is_local(parse_address(text)) is expected


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(BindError, match="is not a socket"):
        claim(UnixAddress(file))
    assert file.read_text() == "mine"


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BindError, match="no such directory"):
        claim(UnixAddress(tmp_path / "missing" / "a.sock"))
