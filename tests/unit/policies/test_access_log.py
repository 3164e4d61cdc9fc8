from __future__ import annotations

import io
import json
import logging
from dataclasses import replace
from typing import Any

import pytest

from sidecar.grpc_wire.status import StatusCode
from sidecar.policies.access_log import AccessLog
from sidecar.policies.audit.records import Ended
from sidecar.policies.audit.trail import TrailSettings
from sidecar.proxy.policy import Origin, Outcome
from sidecar.proxy.rejection import Reason
from sidecar.telemetry.logs import LogWriter
from tests.support.bench import Bench, of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Log:
    """A bench whose access log is read."""

    def __init__(self, section: str, level: str = "INFO") -> None:
        self.stream = io.StringIO()
        self.writer = LogWriter(self.stream)
        self.log = logging.getLogger(f"test.{id(self)}")
        self.log.setLevel(level)
        self.bench: Bench[AccessLog] = of(
            AccessLog, section, prepare=lambda runtime: replace(runtime, lines=self.writer, log=self.log)
        )

    def end(self, code: StatusCode, message: str = "") -> None:
        self.bench.last.connection.now = self.bench.clock.monotonic()
        self.bench.end(code, message=message)

    def lines(self) -> list[dict[str, Any]]:
        self.writer.stop()
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


def test_a_line_says_what_happened() -> None:
    log = Log("{}")
    log.bench.request(metadata={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-00"})
    log.bench.clock.advance(0.25)
    log.end(StatusCode.NOT_FOUND, "no order with token=abcdef")
    (line,) = log.lines()
    assert line.pop("time").endswith("Z")
    assert line.pop("request_id")
    assert line == {
        "level": "warning",
        "event": "rpc",
        "listener": "bench",
        "route": "bench",
        "method": "/test.Service/Method",
        "identity": "spiffe://mesh.local/agent/caller",
        "remote": "10.0.0.9:5000",
        "status": "NOT_FOUND",
        "origin": "agent",
        "message": "no order with token=[masked]",
        "duration_ms": 250.0,
        "received": {"messages": 0, "bytes": 0},
        "sent": {"messages": 0, "bytes": 0},
        "endpoint": "bench",
        "attempts": 1,
        "trace_id": TRACE,
    }


def test_of_what_went_well_a_sample_of_what_failed_everything() -> None:
    log = Log("{sample: 10}")
    for i in range(400):
        log.bench.request()
        log.bench.end(StatusCode.UNAVAILABLE if i % 4 == 0 else StatusCode.OK)
    lines = log.lines()
    assert sum(each["status"] == "UNAVAILABLE" for each in lines) == 100
    assert 10 <= sum(each["status"] == "OK" for each in lines) <= 55


@pytest.mark.parametrize(("level", "seen"), [("INFO", ["OK", "ABORTED"]), ("WARNING", ["ABORTED"]), ("ERROR", [])])
def test_the_level_decides_at_each_call(level: str, seen: list[str]) -> None:
    log = Log("{}")
    log.log.setLevel(level)
    for code in (StatusCode.OK, StatusCode.ABORTED):
        log.bench.request()
        log.bench.end(code)
    assert [each["status"] for each in log.lines()] == seen


def test_explaining_is_not_logged() -> None:
    log = Log("{}")
    log.bench.request(peek=True)
    log.bench.end(StatusCode.ABORTED)
    assert log.lines() == []


def test_a_call_that_lasts_has_a_line_before_its_end() -> None:
    log = Log("{sample: 0}")
    log.bench.request(end=False)
    log.bench.clock.advance(90)
    log.bench.last.connection.now = log.bench.clock.monotonic()
    log.bench.policy.still_runs(log.bench.last)
    (line,) = log.lines()
    assert (line["event"], line["duration_ms"], line["silent_ms"]) == ("rpc runs", 90_000.0, 90_000)
    assert "status" not in line


def test_its_words_are_those_of_an_audit_record() -> None:
    log = Log("{}")
    log.bench.request()
    call = log.bench.last
    outcome = Outcome(StatusCode.UNAVAILABLE, "no", Origin.SIDECAR, Reason.OVERLOADED)
    record = Ended(
        TrailSettings(1, 1), "call", "l", "r", call.path, call.identity, "a", outcome, None, 0.0, 1.0,
        (0, 0, 0, 0), call.request_id[1], None, "e", 1,
    ).describe(0.0)  # fmt: skip
    log.bench.end(outcome.code)
    (line,) = log.lines()
    assert set(line) - {"level", "event"} <= set(record)
    assert record["reason"] == Reason.OVERLOADED.name
