"""The words for values in the configuration: durations, sizes, rates, percentages, addresses, patterns, names.

Each type is an `Annotated` one: it parses text from the file, holds a plain value (seconds, bytes, …), writes itself
back as the file would say it, and describes itself to editors. The messages do not repeat the value: the report puts
what the file says before them, which is not always what was parsed (`${TOKEN}`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from sidecar.grpc_wire.status import StatusCode

# ── durations ──

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)(ms|s|m|h)", re.ASCII)
_SECONDS = {"h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_LONGEST = 87_600 * 3600
_DURATION_HELP = "write a number and a unit: 250ms, 5s, 30m, 24h"


def parse_duration(text: str) -> float:
    """`250ms`, `5s`, `1.5m`, `24h` → seconds. Raises ValueError saying what is allowed."""
    found = _DURATION.fullmatch(text)
    if found is None:
        if text.startswith("-"):
            raise ValueError(f"is negative; {_DURATION_HELP}")
        if re.fullmatch(r"[0-9.]+", text):
            raise ValueError(f"has no unit; {_DURATION_HELP}")
        raise ValueError(f"is not a duration; {_DURATION_HELP}")
    seconds = float(Decimal(found[1]) * _SECONDS[found[2]])
    if seconds > _LONGEST:
        raise ValueError("is too long; at most 87600h (ten years)")
    return seconds


def format_duration(seconds: float) -> str:
    """Seconds → the text that parses to them, in the largest unit that gives a whole number."""
    exact = Decimal(repr(float(seconds)))
    if not exact:
        return "0s"
    for unit, length in _SECONDS.items():
        count = exact / length
        if count == count.to_integral_value():
            return f"{int(count)}{unit}"
    return f"{(exact / _SECONDS['ms']).normalize():f}ms"


def _duration(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return parse_duration(value)
    # Code may give seconds; a file must name the unit.
    if info.mode == "python" and isinstance(value, float | int):
        return float(value)
    if isinstance(value, float | int) and not isinstance(value, bool):
        raise ValueError(f"has no unit; {_DURATION_HELP}")  # noqa: TRY004 - pydantic takes ValueError
    raise ValueError(f"is not a duration; {_DURATION_HELP}")


Duration: TypeAlias = Annotated[
    float,
    BeforeValidator(_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^[0-9]{1,12}(\.[0-9]{1,3})?(ms|s|m|h)$",
            "examples": ["250ms", "5s", "30m", "24h"],
        }
    ),
]
"""Seconds as float; in the file `250ms`, `5s`, `30m`, `24h`."""


def duration_between(low: str, high: str) -> AfterValidator:
    """For `Annotated[Duration, duration_between("1s", "1h")]`: both ends are allowed."""
    return _between(parse_duration(low), parse_duration(high), f"allowed: {low} to {high}")


# ── sizes ──

_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB)", re.ASCII)
_BYTES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
_SIZE_HELP = "write a whole number and a unit: 512B, 64KiB, 4MiB, 1GiB"


def parse_size(text: str) -> int:
    """`512B`, `64KiB`, `4MiB`, `1GiB` → bytes. Raises ValueError saying what is allowed."""
    found = _SIZE.fullmatch(text)
    if found is None:
        if text.startswith("-"):
            raise ValueError(f"is negative; {_SIZE_HELP}")
        if re.fullmatch(r"[0-9]+", text):
            raise ValueError(f"has no unit; {_SIZE_HELP}")
        raise ValueError(f"is not a size; {_SIZE_HELP}")
    return int(found[1]) * _BYTES[found[2]]


def format_size(size: int) -> str:
    """Bytes → the text that parses to them, in the largest unit that gives a whole number."""
    for unit, length in _BYTES.items():
        if size and size % length == 0:
            return f"{size // length}{unit}"
    return "0B"


def _size(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return parse_size(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if info.mode == "python":
            return value
        raise ValueError(f"has no unit; {_SIZE_HELP}")
    raise ValueError(f"is not a size; {_SIZE_HELP}")


Size: TypeAlias = Annotated[
    int,
    BeforeValidator(_size),
    PlainSerializer(format_size, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]{1,15}(B|KiB|MiB|GiB)$", "examples": ["64KiB", "4MiB"]}),
]
"""Bytes as int; in the file `64KiB`, `4MiB`."""


def size_between(low: str, high: str) -> AfterValidator:
    """For `Annotated[Size, size_between("1KiB", "1MiB")]`: both ends are allowed."""
    return _between(parse_size(low), parse_size(high), f"allowed: {low} to {high}")


def _between(low: float, high: float, allowed: str) -> AfterValidator:
    def check(value: float) -> float:
        if value < low:
            raise ValueError(f"is too little; {allowed}")
        if value > high:
            raise ValueError(f"is too much; {allowed}")
        return value

    return AfterValidator(check)


# ── rates and percentages ──

_RATE = re.compile(r"([0-9]{1,15})/([0-9.]+(?:ms|s|m|h))", re.ASCII)
_RATE_HELP = "write a count and a window: 100/1m, 50/1s"


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in so many seconds; in the file `100/1m`."""

    count: int
    per_seconds: float

    def __str__(self) -> str:
        return f"{self.count}/{format_duration(self.per_seconds)}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(str, when_used="json")
        return core_schema.no_info_plain_validator_function(_rate, serialization=written)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "type": "string",
            "pattern": r"^[0-9]{1,15}/[0-9]{1,12}(\.[0-9]{1,3})?(ms|s|m|h)$",
            "examples": ["100/1m"],
        }


def parse_rate(text: str) -> Rate:
    """`100/1m` → Rate(100, 60.0). Raises ValueError saying what is allowed."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(f"is not a rate; {_RATE_HELP}")
    try:
        window = parse_duration(found[2])
    except ValueError as error:
        raise ValueError(f"has a window that {error}") from None
    if window <= 0:
        raise ValueError(f"has a window of no length; {_RATE_HELP}")
    if not int(found[1]):
        raise ValueError(f"allows nothing at all; {_RATE_HELP}")
    return Rate(int(found[1]), window)


def _rate(value: object) -> Rate:
    if isinstance(value, Rate):
        return value
    if isinstance(value, str):
        return parse_rate(value)
    raise ValueError(f"is not a rate; {_RATE_HELP}")


Percent: TypeAlias = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
"""A number from 0 to 100."""

# ── addresses ──

UNIX_PATH_MAX = 107
"""Bytes: Linux' `sun_path` is 108 with the final NUL."""
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_ADDRESS_HELP = "write host:port ([::1]:8443 for IPv6) or unix:/path"
_ADDRESS_PATTERN = r"^(unix:/.+|\[[0-9A-Fa-f:.%A-Za-z0-9_-]+\]:[0-9]{1,5}|[A-Za-z0-9._-]+:[0-9]{1,5})$"


def parse_bind(text: str) -> str:
    """An address to listen on: `host:port` (port 0 = any free one) or `unix:/path`. Raises ValueError."""
    return _check_address(text, lowest_port=0)


def parse_address(text: str) -> str:
    """An address to connect to: `host:port` (an IP address or a DNS name) or `unix:/path`. Raises ValueError."""
    return _check_address(text, lowest_port=1)


def is_loopback(address: str) -> bool:
    """Can nobody outside this machine reach `address`?"""
    if address.startswith("unix:"):
        return True
    host = split_address(address)[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port`, already checked → (host, port)."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _check_address(text: str, *, lowest_port: int) -> str:
    if text.startswith("unix:"):
        return _check_unix(text)
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"has no port; {_ADDRESS_HELP}")
    if "://" in text:
        raise ValueError(f"is a URL; {_ADDRESS_HELP}")
    if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII):
        raise ValueError(f"has no port number after its last colon; {_ADDRESS_HELP}")
    if not lowest_port <= int(port) <= 65535:  # the highest port there is
        raise ValueError(f"has a port out of range; allowed: {lowest_port} to 65535")
    _check_host(host)
    return text


def _check_unix(text: str) -> str:
    path = text.removeprefix("unix:")
    if not path.startswith("/"):
        raise ValueError("is not an absolute path; write unix:/path")
    if "\0" in path:
        raise ValueError("holds a NUL; write unix:/path")
    if path.endswith("/"):
        raise ValueError("is a directory; name the socket: unix:/path/name.sock")
    length = len(path.encode())
    if length > UNIX_PATH_MAX:
        raise ValueError(f"is {length} bytes long; a socket path has at most {UNIX_PATH_MAX}")
    return text


def _check_host(host: str) -> None:
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise ValueError(f"holds no IPv6 address between the brackets; {_ADDRESS_HELP}") from None
        return
    if not host or host == "*":
        raise ValueError("has no host; 0.0.0.0 or [::] stand for every interface")
    if ":" in host:
        raise ValueError("has several colons; put an IPv6 address into brackets: [::1]:8443")
    if re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError("is no IPv4 address; four numbers from 0 to 255: 127.0.0.1:8443") from None
        return
    if not _HOST_NAME.fullmatch(host):
        raise ValueError("has a host that is neither an IP address nor a DNS name (letters, digits, `-`, `.`)")


def parse_host_name(text: str) -> str:
    """A DNS name. Raises ValueError saying what is allowed."""
    if not _HOST_NAME.fullmatch(text):
        raise ValueError("is not a host name; letters, digits, `-` and `.`, at most 253")
    return text


def _text(parse: Callable[[str], str]) -> AfterValidator:
    return AfterValidator(parse)


Address: TypeAlias = Annotated[
    str, _text(parse_address), WithJsonSchema({"type": "string", "pattern": _ADDRESS_PATTERN})
]
"""Where to connect to: `host:port` or `unix:/path`, as text."""
BindAddress: TypeAlias = Annotated[
    str, _text(parse_bind), WithJsonSchema({"type": "string", "pattern": _ADDRESS_PATTERN})
]
"""Where to listen: `host:port` or `unix:/path`, as text; port 0 takes any free one."""

HostName: TypeAlias = Annotated[
    str, _text(parse_host_name), WithJsonSchema({"type": "string", "pattern": r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}$"})
]
"""A DNS name."""

# ── patterns ──

_METHOD = re.compile(
    r"/(?:\*|[A-Za-z_][A-Za-z0-9_.]*(?:\*|/(?:\*|[A-Za-z_][A-Za-z0-9_]*\*?)))",
    re.ASCII,
)
_METHOD_HELP = "write /package.Service/Method, /package.Service/Get*, /package.Service/* or /*"


def parse_method_pattern(text: str) -> str:
    """`/pkg.Svc/Get`, `/pkg.Svc/Get*`, `/pkg.Svc/*`, `/pkg.*`, `/*`. Raises ValueError saying what is allowed."""
    if not _METHOD.fullmatch(text):
        if not text.startswith("/"):
            raise ValueError(f"does not begin with /; {_METHOD_HELP}")
        if "*" in text[:-1]:
            raise ValueError(f"has a * before its end; {_METHOD_HELP}")
        raise ValueError(f"names no method; {_METHOD_HELP}")
    return text


METHOD_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": f"^{_METHOD.pattern}$",
    "examples": ["/agent.v1.AgentService/Get*", "/*"],
}
MethodPattern: TypeAlias = Annotated[str, _text(parse_method_pattern), WithJsonSchema(METHOD_SCHEMA)]
"""A method, or the beginning of one and `*`."""


def parse_text_pattern(text: str) -> str:
    """`exact`, `prefix*`, `*suffix`, `*` (gRFC A43). Raises ValueError saying what is allowed."""
    if not text:
        raise ValueError("is empty; write the exact text, prefix*, *suffix or *")
    if text.count("*") > 1 or ("*" in text and not (text.startswith("*") or text.endswith("*"))):
        raise ValueError("has a * that is not at one end; write the exact text, prefix*, *suffix or *")
    if not re.fullmatch(r"[ -~]+", text):
        raise ValueError("holds a character that metadata cannot carry; visible ASCII and spaces are allowed")
    return text


TextPattern: TypeAlias = Annotated[
    str,
    _text(parse_text_pattern),
    WithJsonSchema({"type": "string", "pattern": r"^(\*|\*?[ -)+-~]+|[ -)+-~]+\*)$", "examples": ["acme-*", "*"]}),
]
"""Text to compare with: exact, `prefix*`, `*suffix`, `*`."""

# ── names ──

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)


def parse_name(text: str) -> str:
    """The name of a listener, route or cluster. Raises ValueError saying what is allowed."""
    if not _NAME.fullmatch(text):
        raise ValueError("is not a name; lower-case letters, digits, - and _, at most 63, a letter or digit first")
    return text


_FAILURES = tuple(code.name for code in StatusCode if code is not StatusCode.OK)


def parse_failure_code(text: str) -> str:
    """The name of a status code that is a failure, in upper case. Raises ValueError saying what is allowed."""
    if text.upper() not in _FAILURES:
        raise ValueError(f"is no status code of a failure; allowed: {', '.join(_FAILURES)}")
    return text.upper()


FailureCode: TypeAlias = Annotated[
    str, _text(parse_failure_code), WithJsonSchema({"type": "string", "enum": list(_FAILURES)})
]
"""UNAVAILABLE, DEADLINE_EXCEEDED, …"""

Name: TypeAlias = Annotated[str, _text(parse_name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})]
"""The name of a listener, route or cluster."""

_METADATA_NAME = re.compile(r"[a-z0-9_.-]+", re.ASCII)
# RFC 9110 §7.6.1 and RFC 9113 §8.2.2; `host` is what `:authority` says, content-* belong to gRPC's own framing.
_RESERVED = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def parse_metadata_name(text: str) -> str:
    """The name of a metadata entry a user may match, set or remove. Raises ValueError saying what is allowed."""
    if text.startswith(":"):
        raise ValueError("is a pseudo-header and belongs to HTTP/2; name an ordinary metadata entry such as x-tenant")
    if text != text.lower() and _METADATA_NAME.fullmatch(text.lower()):
        raise ValueError(f"has upper-case letters; metadata names are lower case: {text.lower()}")
    if not _METADATA_NAME.fullmatch(text):
        raise ValueError("is not a metadata name; lower-case letters, digits, `-`, `_` and `.` are allowed")
    if text.startswith("grpc-"):
        raise ValueError("is reserved: names that begin with grpc- belong to gRPC itself; choose another name")
    if text.startswith("x-sidecar-"):
        raise ValueError("is reserved: names that begin with x-sidecar- belong to the sidecar; choose another name")
    if text in _RESERVED:
        raise ValueError("is reserved: it belongs to the connection or to gRPC's framing; choose another name")
    return text


MetadataName: TypeAlias = Annotated[
    str,
    _text(parse_metadata_name),
    WithJsonSchema({"type": "string", "pattern": r"^(?!grpc-|x-sidecar-)[a-z0-9_.-]+$", "examples": ["x-tenant"]}),
]
"""A metadata entry that configuration may match, set or remove."""


def parse_metadata_value(text: str) -> str:
    """The value of a metadata entry. Raises ValueError saying what is allowed."""
    if not re.fullmatch(r"(?! )[ -~]*(?<! )", text):
        raise ValueError("is not a metadata value; visible ASCII without a space at either end is allowed")
    return text


MetadataValue: TypeAlias = Annotated[
    str, _text(parse_metadata_value), WithJsonSchema({"type": "string", "pattern": r"^([!-~]([ -~]*[!-~])?)?$"})
]
"""What a metadata entry can carry."""

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}", re.ASCII)
_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]+", re.ASCII)
_DNS_IDENTITY = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*", re.ASCII)


_IDENTITY_HELP = "write spiffe://domain/path, spiffe://domain/prefix* or a DNS name"


def parse_identity_pattern(text: str) -> str:
    """`spiffe://domain/path`, `spiffe://domain/prefix*`, or a DNS name. Raises ValueError saying what is allowed."""
    if "://" in text:
        _check_spiffe(text)
    elif not _DNS_IDENTITY.fullmatch(text):
        raise ValueError(f"is not an identity; {_IDENTITY_HELP}")
    return text


def _check_spiffe(text: str) -> None:
    if not text.startswith("spiffe://"):
        raise ValueError(f"is not a SPIFFE ID; {_IDENTITY_HELP}")
    if len(text) > 2048:  # SPIFFE-ID.md §2.3
        raise ValueError("is longer than the 2048 bytes of a SPIFFE ID")
    domain, slash, path = text.removeprefix("spiffe://").partition("/")
    # A * in the trust domain would let in every domain that merely begins alike.
    if not _TRUST_DOMAIN.fullmatch(domain):
        raise ValueError(f"has no lower-case trust domain after spiffe://; {_IDENTITY_HELP}")
    segments = path.split("/") if slash else []
    if segments and segments[-1].endswith("*"):
        beginning = segments.pop()[:-1]
        if beginning and not _SEGMENT.fullmatch(beginning + "x"):
            segments.append(beginning)
    # SPIFFE-ID.md §2.2: no empty and no dot segments, no trailing slash.
    if not all(map(_SEGMENT.fullmatch, segments)):
        raise ValueError(f"has an empty segment, a dot segment or a character that no SPIFFE ID has; {_IDENTITY_HELP}")


IdentityPattern: TypeAlias = Annotated[
    str,
    _text(parse_identity_pattern),
    WithJsonSchema({"type": "string", "examples": ["spiffe://mesh.local/agent/data"]}),
]
"""Whom a certificate may name: a SPIFFE ID, the beginning of one and `*`, or a DNS name."""

# ── files ──


def _file(value: object, info: ValidationInfo) -> object:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str):
        raise ValueError("is not a path; write the path of a file, relative to this one or absolute")  # noqa: TRY004 - pydantic takes ValueError
    if not value or "\0" in value:
        raise ValueError("is not a path; write the path of a file, relative to this one or absolute")
    context: dict[str, Any] = info.context or {}
    return Path(context.get("directory", "."), value)


FilePath: TypeAlias = Annotated[
    Path,
    PlainValidator(_file),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "minLength": 1}),
]
"""A file; relative paths are relative to the configuration file's directory."""
