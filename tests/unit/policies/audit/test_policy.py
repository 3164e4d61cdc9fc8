"""What is recorded, what is sampled, what happens when the queue is full: on the bench, in the real data path."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.grpc_wire.status import StatusCode
from sidecar.policies.audit.policy import Audit, WaitingAudit, parse_sink, sink_path
from sidecar.policies.audit.verify import verify
from sidecar.policies.audit.writer import Writer
from sidecar.proxy.plan import Plan
from sidecar.proxy.policy import Origin, Outcome
from sidecar.proxy.rejection import Reason
from sidecar.telemetry import names
from tests.support.bench import Bench, config_of, of

ALLOWED = {"authz": SimpleNamespace(decision="allow", rule="all", rejection=None)}
WOULD_DENY = {"authz": SimpleNamespace(decision="would_deny", rule="strict", rejection=None)}


def bench_for(folder: Path, more: str = "") -> Bench[Audit]:
    return of(Audit, f'{{sink: "file://{folder}/audit.jsonl"{more}}}')


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's thread stays away: the queue is what the data path made it."""
    monkeypatch.setattr(Writer, "wake", lambda self: None)


def records(bench: Bench[Audit]) -> list[dict[str, Any]]:
    bench.policy.writer.close()
    lines = bench.policy.writer.path.read_bytes().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] in {"call", "decision"}]


def test_one_record_per_call_with_what_happened(tmp_path: Path) -> None:
    bench = bench_for(tmp_path)
    bench.request(
        notes=ALLOWED,
        metadata={"x-request-id": "abc", "x-secret": "hunter2", "authorization": "Bearer hunter2"},
        end=False,
    )
    bench.message(b"12345")
    bench.clock.advance(0.5)
    bench.message(b"", end=True)
    bench.end(StatusCode.NOT_FOUND, message="no such order")
    (record,) = records(bench)
    assert record["method"] == "/test.Service/Method"
    assert (record["listener"], record["route"], record["remote"]) == ("bench", "bench", "10.0.0.9:5000")
    assert (record["decision"], record["rule"], record["status"], record["message"]) == (
        "allow",
        "all",
        "NOT_FOUND",
        "no such order",
    )
    assert record["duration_ms"] == 500.0
    assert record["received"] == {"messages": 2, "bytes": 15}
    assert (record["request_id"], record["endpoint"], record["attempts"]) == ("abc", "bench", 1)
    assert b"hunter2" not in bench.policy.writer.path.read_bytes()


def test_every_end_is_seen_once(tmp_path: Path) -> None:
    bench = bench_for(tmp_path)
    bench.request(end=False)
    bench.cancel()
    bench.request()
    bench.end(StatusCode.OK)
    bench.end(StatusCode.OK)
    assert [(record["status"], record["origin"]) for record in records(bench)] == [
        ("CANCELLED", "caller"),
        ("OK", "agent"),
    ]


def test_decisions_alone(tmp_path: Path) -> None:
    bench = bench_for(tmp_path, ", record: [decisions]")
    bench.request(notes=ALLOWED)
    bench.end(StatusCode.OK)
    (record,) = records(bench)
    assert (record["kind"], record["decision"]) == ("decision", "allow")
    assert "duration_ms" not in record


def test_sampling_takes_so_many_of_the_allowed(tmp_path: Path, still: None) -> None:
    bench = bench_for(tmp_path, ", sample: 10")
    for _ in range(500):
        bench.request(notes=ALLOWED)
        bench.end(StatusCode.OK)
    assert 25 <= len(bench.policy.writer.queue) <= 85


def test_refusals_and_would_be_denials_are_always_recorded(tmp_path: Path) -> None:
    bench = bench_for(tmp_path, ", sample: 0")
    for _ in range(20):
        bench.request(notes=ALLOWED)
        bench.end(StatusCode.OK)
    bench.request(notes=WOULD_DENY)
    bench.end(StatusCode.OK)
    bench.request()
    bench.last.reject(Reason.RATE_LIMITED.reject("too many"))
    assert [(record["decision"], record.get("reason")) for record in records(bench)] == [
        ("would_deny", None),
        ("allow", "RATE_LIMITED"),
    ]


def test_routes_of_one_sink_are_one_chain(tmp_path: Path) -> None:
    bench = bench_for(tmp_path)
    other = Audit(
        config_of(Audit, f'{{sink: "file://{tmp_path}/audit.jsonl"}}'),
        bench.runtime.scoped(listener="b", route="b", direction="inbound"),
    )
    assert other.writer is bench.policy.writer
    assert bench.runtime.closers == [bench.policy.writer.close]


def test_a_full_queue_drops_counts_and_records_the_gap(tmp_path: Path, still: None) -> None:
    bench = bench_for(tmp_path, ", queue: 3")
    for _ in range(8):
        bench.request()
        bench.end(StatusCode.OK)
    path = str(tmp_path / "audit.jsonl")
    assert bench.metrics.samples(names.AUDIT_DROPPED) == {(path,): 5}
    assert bench.metrics.samples(names.AUDIT_QUEUE) == {(path,): 3}
    bench.policy.writer.write()
    bench.policy.writer.finish()
    assert bench.metrics.samples(names.AUDIT_RECORDS) == {(path,): 4}
    assert bench.metrics.samples(names.AUDIT_WRITE_FAILURES) == {(path,): 0}
    assert any("5 records were dropped" in each for each in verify([tmp_path / "audit.jsonl"]).warnings)


async def test_blocking_holds_new_calls_until_there_is_room(tmp_path: Path, still: None) -> None:
    bench = bench_for(tmp_path, ", queue: 2, on_overflow: block")
    assert type(bench.policy) is WaitingAudit
    for _ in range(2):
        assert bench.request() is None
        bench.end(StatusCode.OK)
    assert asyncio.iscoroutine(bench.request())
    await turns()
    bench.clock.advance(1)
    await turns()
    assert bench.forwarded == 2
    bench.policy.writer.write()
    bench.clock.advance(1)
    await turns()
    assert bench.forwarded == 3
    bench.end(StatusCode.OK)
    assert bench.policy.writer.dropped == 0
    bench.policy.writer.finish()


async def test_blocking_gives_up_at_the_deadline_of_the_caller(tmp_path: Path, still: None) -> None:
    bench = bench_for(tmp_path, ", queue: 1, on_overflow: block")
    bench.request()
    bench.end(StatusCode.OK)
    bench.request(metadata={"grpc-timeout": "1S"})
    await turns()
    for _ in range(30):
        bench.clock.advance(0.1)
        await turns()
    assert bench.outcomes[-1].code is StatusCode.DEADLINE_EXCEEDED


async def test_blocking_bounds_what_ends_without_having_been_let_in(tmp_path: Path, still: None) -> None:
    bench = bench_for(tmp_path, ", queue: 2, on_overflow: block")
    for _ in range(2):
        bench.request()
        bench.end(StatusCode.OK)
    for _ in range(5):
        bench.request(end=False)
        await turns()
        bench.cancel()
        await turns()
    assert (len(bench.policy.writer.queue), bench.policy.writer.dropped) == (4, 3)


def test_an_audit_that_waits_still_sees_what_others_refuse(tmp_path: Path) -> None:
    """A policy with `on_request` gets no end of a call it never saw; an observer does."""
    bench = bench_for(tmp_path, ", on_overflow: block")
    plan = Plan(listener="l", route="r", policies=[bench.policy], cluster=None, runtime=bench.runtime)
    assert plan.unwind == ((bench.policy.on_end,), (bench.policy.on_end,))


def test_an_audit_that_drops_has_no_request_hook(tmp_path: Path) -> None:
    bench = bench_for(tmp_path)
    plan = Plan(listener="l", route="r", policies=[bench.policy], cluster=None, runtime=bench.runtime)
    assert plan.on_request == ()


def test_a_call_that_is_only_explained_is_not_recorded(tmp_path: Path, still: None) -> None:
    bench = bench_for(tmp_path)
    bench.request(peek=True)
    bench.last.end(Outcome(StatusCode.OK, "", Origin.SIDECAR))
    assert not bench.policy.writer.queue


# ── configuration ──


@pytest.mark.parametrize(
    ("sink", "problem"),
    [
        ("audit.jsonl", "is no file URL"),
        ("/var/log/audit.jsonl", "is no file URL"),
        ("https://logs.example/audit", "is no file URL"),
        ("file:audit.jsonl", "names no file"),
        ("file://audit.jsonl", "names a host, or a relative path"),
        ("file://host/audit.jsonl", "names a host, or a relative path"),
        ("file:///var/log/", "names no file"),
        ("file:///var/log/a?b", "holds more than a path"),
    ],
)
def test_sinks_that_are_refused(sink: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as raised:
        parse_sink(sink)
    assert "write file:///var/log/sidecar/audit.jsonl" in str(raised.value) or "holds more" in problem


def test_a_sink_is_a_url() -> None:
    assert sink_path(parse_sink("file:///var/log/a%20b.jsonl")) == Path("/var/log/a b.jsonl")
    assert sink_path(parse_sink("file://localhost/var/log/a")) == Path("/var/log/a")


@pytest.mark.parametrize(
    "more",
    [
        ", record: []",
        ", record: [calls, calls]",
        ", record: [everything]",
        ", sample: 101",
        ", rotate: {size: 1KiB}",
        ", rotate: {keep: 0}",
        ", on_overflow: wait",
        ", queue: 0",
        ", checkpoint: {}",
        ", checkpoint: {key: k, every: 0}",
        ", colour: red",
    ],
)
def test_sections_that_are_refused(tmp_path: Path, more: str) -> None:
    with pytest.raises(ValidationError):
        bench_for(tmp_path, more)


def test_a_sink_that_cannot_be_written_is_found_before_traffic(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sink: there is no directory"):
        bench_for(tmp_path / "absent")
    (tmp_path / "audit.jsonl").mkdir()
    with pytest.raises(ValueError, match="is a directory"):
        bench_for(tmp_path)


def test_a_key_that_is_none_is_found_before_traffic(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("no key")
    with pytest.raises(ValueError, match=r"checkpoint\.key: .*/k: is no private key in PEM"):
        bench_for(tmp_path, f", checkpoint: {{key: {tmp_path}/k}}")
    with pytest.raises(ValueError, match="does not exist and cannot be made there"):
        bench_for(tmp_path, f", checkpoint: {{key: {tmp_path}/absent/k}}")


def test_making_the_policy_touches_no_file(tmp_path: Path) -> None:
    """`sidecar validate` disturbs nothing."""
    bench_for(tmp_path, f", checkpoint: {{key: {tmp_path}/k}}")
    assert list(tmp_path.iterdir()) == []


async def turns() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(turn.set_result, None)
        await turn
