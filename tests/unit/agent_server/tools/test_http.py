"""Fetching, over a network of written bytes."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

import httpcore
import pytest

from agent_server.tools.addresses import AddressRule
from agent_server.tools.http import Fetched, Fetcher


class Wire(httpcore.AsyncNetworkBackend):
    """Answers each connection with the next script and notes whom it was meant for."""

    def __init__(self, *scripts: list[bytes]) -> None:
        self.scripts = list(scripts)
        self.connected: list[tuple[str, int]] = []
        self.streams: list[Recorded] = []

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        self.connected.append((host, port))
        stream = Recorded(self.scripts.pop(0))
        self.streams.append(stream)
        return stream


class Recorded(httpcore.AsyncMockStream):
    def __init__(self, script: list[bytes]) -> None:
        super().__init__(script)
        self.sent = b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.sent += buffer


def answer(status: str, body: bytes = b"", *headers: str) -> list[bytes]:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
    return ["\r\n".join(lines).encode() + b"\r\n\r\n", body]


def fetch(wire: Wire, url: str, max_bytes: int = 1000, headers: dict[str, str] | None = None) -> Fetched:
    async def work() -> Fetched:
        rule = AddressRule(["127.0.0.0/8"])
        fetcher = Fetcher(rule, now=lambda: 0.0, user_agent="tester/1", network=wire)
        try:
            return await fetcher.fetch(url, headers=headers or {}, timeout=5.0, max_bytes=max_bytes)
        finally:
            await fetcher.close()

    return asyncio.run(work())


def test_an_answer() -> None:
    wire = Wire(answer("200 OK", b"hello", "content-type: text/plain; charset=latin-1"))
    found = fetch(wire, "http://127.0.0.1:8080/a?b=c", headers={"x-a": "1"})
    assert (found.status, found.body, found.charset, found.reason) == (200, b"hello", "latin-1", "")
    assert wire.connected == [("127.0.0.1", 8080)]
    sent = wire.streams[0].sent.decode().lower()
    assert sent.startswith("get /a?b=c http/1.1\r\nhost: 127.0.0.1:8080\r\n")
    assert "user-agent: tester/1" in sent
    assert "x-a: 1" in sent


def test_an_error_status_is_an_answer() -> None:
    assert fetch(Wire(answer("503 Busy", b"no")), "http://127.0.0.1/").status == 503


def test_a_long_body_is_cut() -> None:
    found = fetch(Wire(answer("200 OK", b"x" * 500)), "http://127.0.0.1/", max_bytes=100)
    assert (len(found.body), found.is_truncated) == (100, True)


def test_a_body_of_just_the_limit_is_whole() -> None:
    found = fetch(Wire(answer("200 OK", b"x" * 100)), "http://127.0.0.1/", max_bytes=100)
    assert (len(found.body), found.is_truncated) == (100, False)


@pytest.mark.parametrize(("encoding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_bodies_are_decoded(encoding: str, encode: Any) -> None:
    wire = Wire(answer("200 OK", encode(b"hello"), f"content-encoding: {encoding}"))
    assert fetch(wire, "http://127.0.0.1/").body == b"hello"


def test_a_compression_bomb_is_cut_while_it_expands() -> None:
    wire = Wire(answer("200 OK", gzip.compress(bytes(50_000_000)), "content-encoding: gzip"))
    found = fetch(wire, "http://127.0.0.1/", max_bytes=1000)
    assert (len(found.body), found.is_truncated) == (1000, True)


@pytest.mark.parametrize(
    ("body", "header"), [(b"not gzip at all", "content-encoding: gzip"), (b"x", "content-encoding: br")]
)
def test_encodings_that_cannot_be_read(body: bytes, header: str) -> None:
    assert fetch(Wire(answer("200 OK", body, header)), "http://127.0.0.1/").reason == "BAD_ENCODING"


def test_redirects_are_followed() -> None:
    wire = Wire(answer("302 Found", b"", "location: /next"), answer("200 OK", b"there"))
    found = fetch(wire, "http://127.0.0.1/")
    assert (found.body, found.final_url) == (b"there", "http://127.0.0.1/next")


def test_redirects_to_addresses_that_are_not_allowed_are_not_followed() -> None:
    wire = Wire(answer("302 Found", b"", "location: http://169.254.169.254/secrets"))
    found = fetch(wire, "http://127.0.0.1/")
    assert (found.status, found.reason) == (None, "ADDRESS_REFUSED")
    assert wire.connected == [("127.0.0.1", 80)]


def test_redirects_to_other_schemes_are_not_followed() -> None:
    found = fetch(Wire(answer("302 Found", b"", "location: file:///etc/passwd")), "http://127.0.0.1/")
    assert found.reason == "BAD_URL"


def test_headers_of_the_caller_do_not_go_to_other_hosts() -> None:
    wire = Wire(answer("302 Found", b"", "location: http://127.0.0.2/"), answer("200 OK"))
    fetch(wire, "http://127.0.0.1/", headers={"authorization": "secret"})
    assert b"secret" in wire.streams[0].sent
    assert b"secret" not in wire.streams[1].sent


def test_redirects_without_end() -> None:
    wire = Wire(*(answer("302 Found", b"", "location: /again") for _ in range(10)))
    assert fetch(wire, "http://127.0.0.1/").reason == "TOO_MANY_REDIRECTS"
    assert len(wire.connected) == 6


@pytest.mark.parametrize(
    ("script", "reason"), [([b"nonsense\r\n\r\n"], "PROTOCOL_ERROR"), ([b"HTTP/1.1 200 OK\r\n"], "PROTOCOL_ERROR")]
)
def test_answers_that_are_none(script: list[bytes], reason: str) -> None:
    assert fetch(Wire(script), "http://127.0.0.1/").reason == reason


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://127.0.0.1/", "http://", "http://[::1", "http://127.0.0.1:99999/", f"http://{'a' * 70}.test/"],
)
def test_urls_that_are_none(url: str) -> None:
    assert fetch(Wire(), url).reason == "BAD_URL"


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://[::1]/", "http://2130706434.0.0.1.1/"])
def test_addresses_that_are_refused_are_not_connected_to(url: str) -> None:
    wire = Wire()
    assert fetch(wire, url).reason in {"ADDRESS_REFUSED", "NAME_NOT_FOUND"}
    assert wire.connected == []


def test_cookies_of_one_call_are_not_sent_with_the_next() -> None:
    wire = Wire(answer("200 OK", b"", "set-cookie: session=ann; path=/"), answer("200 OK"))

    async def work() -> None:
        fetcher = Fetcher(AddressRule(["127.0.0.0/8"]), now=lambda: 0.0, user_agent="tester/1", network=wire)
        for _ in range(2):
            await fetcher.fetch("http://127.0.0.1/", headers={}, timeout=5, max_bytes=10)
        await fetcher.close()

    asyncio.run(work())
    assert b"session" not in wire.streams[1].sent


def test_credentials_of_the_url_are_sent_to_its_host_and_shown_nowhere() -> None:
    wire = Wire(answer("302 Found", b"", "location: http://127.0.0.2/"), answer("200 OK"))
    fetch(wire, "http://ann:hush@127.0.0.1/")
    assert b"authorization: Basic YW5uOmh1c2g=" in wire.streams[0].sent.lower().replace(
        b"basic yw5uomh1c2g=", b"Basic YW5uOmh1c2g="
    )
    assert b"authorization" not in wire.streams[1].sent.lower()


def test_a_name_that_changes_its_meaning_is_connected_to_as_it_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    meanings = iter(["127.0.0.1", "10.0.0.1"])

    async def getaddrinfo(self: Any, host: str, port: int, **_: Any) -> Any:
        looked_up.append(host)
        return [(2, 1, 6, "", (next(meanings), port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    wire = Wire(answer("200 OK"))
    assert fetch(wire, "http://rebound.example/").status == 200
    # Looked up once: what was checked is what was connected to.
    assert (looked_up, wire.connected) == (["rebound.example"], [("127.0.0.1", 80)])
    assert fetch(wire, "http://rebound.example/").reason == "ADDRESS_REFUSED"
