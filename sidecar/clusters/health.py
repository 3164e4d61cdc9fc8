"""Active health checks by grpc.health.v1: Watch, with Check as fallback (gRFC A17), on the endpoint's own connection.

Why not grpcio's client? It would open a connection of its own, with its own TLS: what it finds says nothing of the connection on which
RPCs travel, and the process would carry a second gRPC stack. Two messages of one field each need no generated code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sidecar import __version__
from sidecar.config.model import Model
from sidecar.config.units import Duration, duration_between
from sidecar.grpc_wire.messages import MalformedMessage, MessageReader, MessageTooLarge, frame
from sidecar.grpc_wire.status import StatusCode, from_http_status, from_rst_code, parse_status
from sidecar.grpc_wire.timeout import encode as format_timeout
from sidecar.http2.errors import CONNECTION_LOST, NOT_PROCESSED, ErrorCode
from sidecar.http2.hpack import encode_field
from sidecar.http2.stream import Stream

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from sidecar.clock import Clock, Timer
    from sidecar.http2.blocks import HeaderBlock
    from sidecar.http2.connection import Connection

_WATCH = b"/grpc.health.v1.Health/Watch"
_CHECK = b"/grpc.health.v1.Health/Check"
_SERVING = 1
_WORDS = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_FIRST_BACKOFF = 1.0
_BACKOFF_FACTOR = 1.6
_LONGEST_BACKOFF = 30.0
_JITTER = 0.1
_LARGEST_ANSWER = 4096


class HealthCheckConfig(Model):
    """Asking endpoints whether they can serve."""

    service: str = Field(default="", max_length=255, description="which service to ask for; empty = the whole server")
    mode: Literal["watch", "check", "off"] = Field(
        default="watch", description="watch: told of changes, with check as fallback; check: asked again and again; off"
    )
    interval: Annotated[Duration, duration_between("100ms", "1h")] = Field(
        default=5.0, description="between two checks"
    )
    timeout: Annotated[Duration, duration_between("10ms", "5m")] = Field(
        default=1.0, description="a check, or the first answer to a watch, must come within"
    )
    unhealthy_after: int = Field(default=3, ge=1, le=100, description="failed checks in a row that make it unhealthy")
    healthy_after: int = Field(default=1, ge=1, le=100, description="passed checks in a row that make it healthy again")


class Question(Stream):
    """One RPC to the health service. `on_answer` gets each status, `on_over` how it ended; neither after `cancel`."""

    __slots__ = ("_headers_status", "_on_answer", "_on_over", "_over", "_reader")

    def __init__(self, on_answer: Callable[[int], None], on_over: Callable[[StatusCode, str], None]) -> None:
        self._on_answer = on_answer
        self._on_over = on_over
        self._reader = MessageReader(_LARGEST_ANSWER)
        self._over = False

    def cancel(self) -> None:
        if not self._over:
            self._over = True
            self.reset(ErrorCode.CANCEL)

    def _end(self, code: StatusCode, why: str, *, reset: bool = False) -> None:
        if self._over:
            return
        self._over = True
        if reset:
            self.reset(ErrorCode.CANCEL)
        self._on_over(code, why)

    def on_headers(self, headers: HeaderBlock, end_stream: bool) -> None:
        status = headers.index.get(b":status")
        if status != b"200":
            number = int(status) if status is not None and status.isdigit() else 0
            self._end(from_http_status(number), f"it answered with HTTP status {number}", reset=not end_stream)
        elif end_stream:
            self.on_trailers(headers)

    def on_data(self, payload: bytes, end_stream: bool) -> None:
        self.consume(len(payload))
        try:
            for flag, message in self._reader.feed(payload):
                if self._over:
                    return
                if flag:
                    raise MalformedMessage("a compressed message")
                self._on_answer(read_response(message))
        except (MalformedMessage, MessageTooLarge, ValueError):
            self._end(StatusCode.INTERNAL, "its answer is no HealthCheckResponse", reset=True)
            return
        if end_stream:
            self._end(StatusCode.INTERNAL, "it ended the stream without a grpc-status")

    def on_trailers(self, headers: HeaderBlock) -> None:
        value = headers.index.get(b"grpc-status")
        if value is None:
            self._end(StatusCode.INTERNAL, "it ended the stream without a grpc-status")
        else:
            code = parse_status(value)
            self._end(code, f"it ended the check with {code.name}")

    def on_reset(self, code: int) -> None:
        if code in {CONNECTION_LOST, NOT_PROCESSED}:
            # The endpoint follows its connections by itself.
            self._over = True
        else:
            self._end(from_rst_code(code), f"it reset the stream ({code})")

    def on_drained(self, size: int) -> None:
        """The request is small; whether it had to wait does not matter."""

    def on_headers_too_large(self, size: int) -> None:
        self._end(StatusCode.INTERNAL, "its metadata is too large", reset=True)


class Health:
    """What one endpoint says of itself. `verdict` is None until the first answer on its connection.

    `changed(why)` is called when the verdict has changed, `passed()` at each sign that it serves, `warn(text)` for what an
    operator should know.
    """

    def __init__(
        self,
        config: HealthCheckConfig,
        *,
        authority: str,
        scheme: str,
        clock: Clock,
        rng: random.Random,
        changed: Callable[[str], None],
        passed: Callable[[], None],
        warn: Callable[[str], None],
    ) -> None:
        self._config = config
        self._clock = clock
        self._rng = rng
        self._changed = changed
        self._passed = passed
        self._warn = warn
        self._request = frame(write_request(config.service))
        common = [
            (b":method", b"POST"),
            (b":scheme", scheme.encode()),
            (b":authority", authority.encode()),
        ]
        after = [
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", f"grpc-sidecar/{__version__}".encode()),
        ]
        self._headers = {
            path: b"".join(encode_field(*each)[2] for each in [*common, (b":path", path), *after])
            for path in (_WATCH, _CHECK)
        }
        self._headers[_CHECK] += encode_field(b"grpc-timeout", format_timeout(config.timeout))[2]
        self.verdict: bool | None = None
        self.why = ""
        self._connection: Connection | None = None
        self._question: Question | None = None
        self._timer: Timer | None = None
        self._backoff = 0.0
        # Does the endpoint know Watch?
        self._watches = config.mode == "watch"
        self._status: int | None = None
        self._successes = 0
        self._failures = 0
        self._told = False

    def follow(self, connection: Connection | None) -> None:
        """RPCs go over `connection` now; None = the endpoint has none, and nothing is known of it."""
        if connection is self._connection:
            return
        self._stop()
        self._connection = connection
        self._backoff = 0.0
        self._successes = self._failures = 0
        self._watches = self._config.mode == "watch"
        if connection is None:
            self.verdict = None
        else:
            self._ask()

    def close(self) -> None:
        """It is no longer wanted."""
        self._stop()
        self._connection = None

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        question, self._question = self._question, None
        if question is not None:
            question.cancel()

    def _ask(self) -> None:
        self._timer = None
        connection = self._connection
        if connection is None:
            return
        if not connection.is_open:
            # As many RPCs run as the endpoint allows: a sign of life. If it is gone, we shall be told.
            self._later(self._config.interval)
            return
        self._status = None
        question = self._question = Question(self._answered, self._over)
        connection.open(question)
        question.send_headers(self._headers[_WATCH if self._watches else _CHECK])
        question.send_data(self._request, True)
        self._timer = self._clock.call_later(self._config.timeout, self._too_slow)

    def _later(self, seconds: float) -> None:
        self._timer = self._clock.call_later(seconds * self._rng.uniform(1 - _JITTER, 1 + _JITTER), self._ask)

    # ── what comes back ──

    def _answered(self, status: int) -> None:
        if not self._watches:
            self._status = status
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # A17: the backoff is reset by each message.
        self._backoff = 0.0
        # A17: everything but SERVING, SERVICE_UNKNOWN included, is unhealthy.
        self._judge(status == _SERVING, _WORDS.get(status, f"status {status}"))

    def _over(self, code: StatusCode, why: str) -> None:
        self._question = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if code is StatusCode.UNIMPLEMENTED:
            if self._watches:
                self._watches = False
                self._ask()
                return
            # A17: no health service means healthy, and is not asked again.
            if not self._told:
                self._told = True
                self._warn("the endpoint has no health service and is taken for healthy")
            self._judge(True, "it has no health service")
        elif self._watches:
            # A17: any other end is unhealthy, and is tried again.
            self._failed_watch(why)
        else:
            if code is StatusCode.OK:
                why = (
                    "it gave no answer" if self._status is None else _WORDS.get(self._status, f"status {self._status}")
                )
            self._count(code is StatusCode.OK and self._status == _SERVING, why)

    def _too_slow(self) -> None:
        self._timer = None
        question, self._question = self._question, None
        if question is not None:
            question.cancel()
        why = f"no answer within {self._config.timeout:g} s"
        if self._watches:
            self._failed_watch(why)
        else:
            self._count(False, why)

    def _failed_watch(self, why: str) -> None:
        self._backoff = min(max(self._backoff * _BACKOFF_FACTOR, _FIRST_BACKOFF), _LONGEST_BACKOFF)
        self._later(self._backoff)
        self._judge(False, why)

    def _count(self, passed: bool, why: str) -> None:
        self._later(self._config.interval)
        if passed:
            self._successes += 1
            self._failures = 0
            if self.verdict is not False or self._successes >= self._config.healthy_after:
                self._judge(True, why)
        else:
            self._failures += 1
            self._successes = 0
            if not self.verdict or self._failures >= self._config.unhealthy_after:
                self._judge(False, why)

    def _judge(self, verdict: bool, why: str) -> None:
        self.why = why
        if verdict is not self.verdict:
            self.verdict = verdict
            self._changed(why)
        if verdict:
            self._passed()


# ── the two messages (grpc/health/v1/health.proto) ──


def write_request(service: str) -> bytes:
    """`HealthCheckRequest{service = 1}`."""
    name = service.encode()
    if not name:
        return b""
    # 255 bytes of ASCII, or a few more of other letters: two bytes of length are enough.
    length = bytes([len(name)]) if len(name) < 0x80 else bytes([len(name) & 0x7F | 0x80, len(name) >> 7])
    return b"\x0a" + length + name


def read_response(message: bytes) -> int:
    """`HealthCheckResponse{status = 1}`. Raises ValueError for what is none."""
    status = position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(message, position)
            if tag >> 3 == 1:
                status = value
        elif kind == 2:
            size, position = _varint(message, position)
            position += size
        elif kind in {1, 5}:
            position += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
    if position > len(message):
        raise ValueError("the message is cut off")
    return status


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a number is cut off")
