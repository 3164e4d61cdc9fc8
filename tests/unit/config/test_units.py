from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from sidecar.config import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5.0),
        ("30m", 1800.0),
        ("24h", 86400.0),
        ("1.5m", 90.0),
        ("0s", 0.0),
        ("0.001ms", 1e-06),
        ("87600h", 315360000.0),
    ],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", "has no unit"),
        ("5 s", "is not a duration"),
        ("-5s", "is negative"),
        ("1d", "is not a duration"),
        ("1h30m", "is not a duration"),
        ("5S", "is not a duration"),
        ("٥s", "is not a duration"),
        ("1e3s", "is not a duration"),
        ("87601h", "is too long"),
        ("9" * 13 + "s", "is not a duration"),
        ("", "is not a duration"),
    ],
)
def test_what_is_no_duration_is_told_what_is_one(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}; "):
        units.parse_duration(text)


@settings(deadline=None)
@given(
    st.integers(0, 87_600_000),
    st.sampled_from(["", ".5", ".25", ".125", ".001"]),
    st.sampled_from(["ms", "s", "m", "h"]),
)
def test_a_duration_is_written_as_text_that_means_the_same(count: int, fraction: str, unit: str) -> None:
    try:
        seconds = units.parse_duration(f"{count}{fraction}{unit}")
    except ValueError as error:
        assert str(error).startswith("is too long")  # noqa: PT017
        return
    assert units.parse_duration(units.format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3600.0, "1h"), (90.0, "90s"), (0.25, "250ms"), (0.0, "0s"), (0.0015, "1.5ms"), (600.0, "10m")],
)
def test_a_duration_is_written_in_the_largest_unit_that_is_whole(seconds: float, text: str) -> None:
    assert units.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"), [("0B", 0), ("512B", 512), ("64KiB", 65536), ("4MiB", 4194304), ("2GiB", 2147483648)]
)
def test_sizes_are_bytes(text: str, size: int) -> None:
    assert units.parse_size(text) == size
    assert units.format_size(size) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("64", "has no unit"),
        ("64KB", "is not a size"),
        ("1.5MiB", "is not a size"),
        ("-1KiB", "is negative"),
        ("64kib", "is not a size"),
        ("64 KiB", "is not a size"),
    ],
)
def test_what_is_no_size_is_told_what_is_one(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}; "):
        units.parse_size(text)


@settings(deadline=None)
@given(st.integers(0, 2**40))
def test_a_size_is_written_as_text_that_means_the_same(size: int) -> None:
    assert units.parse_size(units.format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "rate"),
    [("100/1m", units.Rate(100, 60.0)), ("50/1s", units.Rate(50, 1.0)), ("1/250ms", units.Rate(1, 0.25))],
)
def test_rates_are_a_count_in_a_window(text: str, rate: units.Rate) -> None:
    assert units.parse_rate(text) == rate
    assert str(rate) == text


@pytest.mark.parametrize("text", ["100", "100/m", "0/1s", "5/0s", "-1/1s", "1/1d", "1.5/1s", "5/1.2.3s", ""])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"100/1m|250ms"):
        units.parse_rate(text)


@pytest.mark.parametrize(("value", "fits"), [(0, True), (99.5, True), (100, True), (-1, False), (101, False)])
def test_percentages_are_numbers_from_0_to_100(value: float, *, fits: bool) -> None:
    assert _takes(units.Percent, value) is fits


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:8443",
        "[::1]:8443",
        "[fe80::1%eth0]:1",
        "localhost:1",
        "data-agent.mesh.local:65535",
        "data_agent:80",
        "mesh.local.:80",
        "unix:/run/a.sock",
        "unix:/" + "a" * 106,
    ],
)
def test_addresses(text: str) -> None:
    assert units.parse_address(text) == text
    assert units.parse_bind(text) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("127.0.0.1", "has no port"),
        ("http://a:80", "is a URL"),
        ("a:http", "has no port number"),
        ("a:", "has no port number"),
        ("a:70000", "has a port out of range"),
        ("a:-1", "has no port number"),
        (":8443", "has no host"),
        ("*:8443", "has no host"),
        ("::1:8443", "has several colons"),
        ("[::g]:8443", "holds no IPv6"),
        ("300.1.1.1:80", "is no IPv4"),
        ("1.2.3:80", "is no IPv4"),
        ("a b:80", "has a host that is neither"),
        ("a..b:80", "has a host that is neither"),
        ("-a:80", "has a host that is neither"),
        ("unix:run/a.sock", "is not an absolute path"),
        ("unix:/run/", "is a directory"),
        ("unix:/a\0b", "holds a NUL"),
        ("unix:/" + "a" * 107, "is 108 bytes long"),
        ("unix:/" + "é" * 54, "is 109 bytes long"),
    ],
)
def test_what_is_no_address_is_told_why(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        units.parse_address(text)


def test_port_0_is_for_listening_only() -> None:
    assert units.parse_bind("127.0.0.1:0") == "127.0.0.1:0"
    with pytest.raises(ValueError, match="1 to 65535"):
        units.parse_address("127.0.0.1:0")


@pytest.mark.parametrize(
    ("address", "is_loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("LOCALHOST:1", True),
        ("unix:/a", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.evil:1", False),
    ],
)
def test_what_others_cannot_reach(address: str, *, is_loopback: bool) -> None:
    assert units.is_loopback(address) is is_loopback


@pytest.mark.parametrize("text", ["/*", "/a.v1.S/*", "/a.v1.S/Get*", "/a.v1.S/Get", "/a.*", "/a.v1.S*", "/S/_m"])
def test_method_patterns(text: str) -> None:
    assert units.parse_method_pattern(text) == text
    assert _matches_schema(units.MethodPattern, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.v1.S/Get", "does not begin with /"),
        ("*", "does not begin with /"),
        ("", "does not begin with /"),
        ("/a.v1.S", "names no method"),
        ("/a.v1.S/", "names no method"),
        ("//Get", "names no method"),
        ("/a.v1.S/Get/More", "names no method"),
        ("/*/Get", "has a [*] before its end"),
        ("/a.S/G*t", "has a [*] before its end"),
        ("/a.v1.S/Ge%74", "names no method"),
        ("/a.v1.S/Get\n", "names no method"),
    ],
)
def test_what_is_no_method_pattern_is_told_why(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}; write /package"):
        units.parse_method_pattern(text)
    assert not _matches_schema(units.MethodPattern, text.rstrip("\n") or text) or text.endswith("\n")


@pytest.mark.parametrize("text", ["*", "acme-*", "*.local", "exact", "two words"])
def test_text_patterns(text: str) -> None:
    assert units.parse_text_pattern(text) == text
    assert _matches_schema(units.TextPattern, text)


@pytest.mark.parametrize("text", ["", "a*b", "*a*", "**", "é", "a\n"])
def test_what_is_no_text_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"; |allowed"):
        units.parse_text_pattern(text)


@pytest.mark.parametrize("text", ["", "Orders", "-a", "a b", "a.b", "a" * 64, "a\n"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="lower-case letters"):
        units.parse_name(text)


@pytest.mark.parametrize("text", ["x-tenant", "authorization", "user-agent", "trace-bin", "a.b_c"])
def test_metadata_names(text: str) -> None:
    assert units.parse_metadata_name(text) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("X-Tenant", "metadata names are lower case: x-tenant"),
        ("grpc-timeout", "belong to gRPC itself"),
        (":path", "is a pseudo-header"),
        ("x-sidecar-identity", "belong to the sidecar"),
        ("connection", "is reserved"),
        ("te", "is reserved"),
        ("content-type", "is reserved"),
        ("x tenant", "is not a metadata name"),
        ("", "is not a metadata name"),
        ("é", "is not a metadata name"),
    ],
)
def test_what_no_configuration_may_touch(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        units.parse_metadata_name(text)


@pytest.mark.parametrize("text", [" a", "a ", "a\nb", "é", "a\0"])
def test_what_metadata_cannot_carry(text: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII"):
        units.parse_metadata_value(text)


@pytest.mark.parametrize("text", ["", "1", "a b", "Bearer x=="])
def test_what_metadata_can_carry(text: str) -> None:
    assert units.parse_metadata_value(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://mesh.local/agent/data",
        "spiffe://mesh.local/agent/*",
        "spiffe://mesh.local/agent/data-*",
        "spiffe://mesh.local/*",
        "spiffe://mesh.local",
        "data-agent.local",
        "*.mesh.local",
    ],
)
def test_identity_patterns(text: str) -> None:
    assert units.parse_identity_pattern(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "https://mesh.local/a",
        "spiffe://Mesh.local/a",
        "spiffe://mesh.local*",
        "spiffe://*",
        "spiffe://mesh.local/",
        "spiffe://mesh.local//a",
        "spiffe://mesh.local/../a",
        "spiffe://mesh.local/a/*/b",
        "spiffe://mesh.local/a//*",
        "spiffe://mesh.local/a%20",
        "spiffe://mesh.local/a?b",
        "spiffe://m/" + "a" * 2048,
        "*",
        "",
        "a b",
    ],
)
def test_what_no_certificate_can_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"SPIFFE|spiffe|identity"):
        units.parse_identity_pattern(text)


def test_paths_begin_at_the_configuration_file() -> None:
    adapter = TypeAdapter(units.FilePath)
    context = {"directory": Path("/etc/sidecar")}
    assert adapter.validate_json('"certs/a.crt"', context=context) == Path("/etc/sidecar/certs/a.crt")
    assert adapter.validate_json('"/a.crt"', context=context) == Path("/a.crt")


@pytest.mark.parametrize("value", ['""', "5", '"a\\u0000b"', "[]"])
def test_what_is_no_path_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="is not a path"):
        TypeAdapter(units.FilePath).validate_json(value)


@pytest.mark.parametrize(
    ("annotation", "good", "written"),
    [
        (units.Duration, "1500ms", "1500ms"),
        (units.Size, "4096KiB", "4MiB"),
        (units.Rate, "60/60s", "60/1m"),
        (units.FilePath, "/a", "/a"),
        (units.Address, "a:1", "a:1"),
    ],
)
def test_values_are_written_as_the_file_says_them_and_fit_their_schema(
    annotation: Any, good: str, written: str
) -> None:
    adapter = TypeAdapter(annotation)
    value = adapter.validate_json(f'"{good}"', strict=True)
    assert adapter.dump_python(value, mode="json") == written
    assert _matches_schema(annotation, good)


@pytest.mark.parametrize("annotation", [units.Duration, units.Size, units.Rate])
@pytest.mark.parametrize("value", ["5", "true", "1.5", "[]", "{}", "null"])
def test_a_value_without_a_unit_is_refused(annotation: Any, value: str) -> None:
    with pytest.raises(ValidationError, match="write a"):
        TypeAdapter(annotation).validate_json(value)


def test_code_may_give_seconds_and_bytes() -> None:
    assert TypeAdapter(units.Duration).validate_python(5) == 5.0
    assert TypeAdapter(units.Size).validate_python(5) == 5
    assert TypeAdapter(units.Rate).validate_python(units.Rate(1, 1.0)) == units.Rate(1, 1.0)


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (Annotated[units.Duration, units.duration_between("1s", "1h")], "999ms", "is too little; allowed: 1s to 1h"),
        (Annotated[units.Duration, units.duration_between("1s", "1h")], "61m", "is too much; allowed: 1s to 1h"),
        (Annotated[units.Size, units.size_between("1KiB", "1MiB")], "1B", "is too little; allowed: 1KiB to 1MiB"),
        (Annotated[units.Size, units.size_between("1KiB", "1MiB")], "1GiB", "is too much; allowed: 1KiB to 1MiB"),
    ],
)
def test_bounds_are_told_in_their_unit(annotation: Any, value: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(annotation).validate_json(f'"{value}"')


PARSERS: list[Callable[[str], object]] = [
    units.parse_duration,
    units.parse_size,
    units.parse_rate,
    units.parse_address,
    units.parse_bind,
    units.parse_host_name,
    units.parse_method_pattern,
    units.parse_text_pattern,
    units.parse_name,
    units.parse_metadata_name,
    units.parse_metadata_value,
    units.parse_identity_pattern,
]


@settings(deadline=None)
@given(st.sampled_from(PARSERS), st.one_of(st.text(), st.text(alphabet="0159.:/[]*-smhKiMB unxspfe")))
def test_a_parser_takes_text_or_says_why_not_without_repeating_it(parse: Callable[[str], object], text: str) -> None:
    try:
        parse(text)
    except ValueError as error:
        assert type(error) is ValueError  # noqa: PT017
        assert str(error)  # noqa: PT017


def _takes(annotation: Any, value: object) -> bool:
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _matches_schema(annotation: Any, text: str) -> bool:
    return re.search(TypeAdapter(annotation).json_schema().get("pattern", ""), text) is not None
