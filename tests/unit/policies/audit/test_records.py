"""What a record says, and what it never says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.grpc_wire.status import StatusCode
from sidecar.policies.audit.records import Ended
from sidecar.policies.audit.trail import TrailSettings
from sidecar.proxy.policy import Origin, Outcome
from sidecar.proxy.rejection import Reason

SETTINGS = TrailSettings(rotate_size=1 << 20, keep=1)
TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def ended(settings: TrailSettings = SETTINGS, **changed: Any) -> Ended:
    facts: dict[str, Any] = {
        "kind": "call",
        "listener": "inbound",
        "route": "orders",
        "method": "/shop.Orders/Place",
        "identity": "spiffe://mesh.local/agent/web",
        "address": "10.0.0.9:5000",
        "outcome": Outcome(StatusCode.OK, "", Origin.AGENT),
        "notes": None,
        "started": 1000.0,
        "now": 1000.25,
        "sizes": (1, 2, 30, 40),
        "request_id": b"id-1",
        "traceparent": TRACE,
        "endpoint": "127.0.0.1:50051",
        "attempts": 1,
    }
    return Ended(settings, **{**facts, **changed})


def test_all_about_a_call() -> None:
    notes = {"authz": SimpleNamespace(decision="allow", rule="web"), "idempotency": "replayed"}
    assert ended(notes=notes).describe(1_799_999_000.0) == {
        "kind": "call",
        "time": "2027-01-15T08:00:00.250Z",
        "listener": "inbound",
        "route": "orders",
        "method": "/shop.Orders/Place",
        "identity": "spiffe://mesh.local/agent/web",
        "remote": "10.0.0.9:5000",
        "decision": "allow",
        "rule": "web",
        "status": "OK",
        "origin": "agent",
        "request_id": "id-1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "duration_ms": 250.0,
        "received": {"messages": 1, "bytes": 30},
        "sent": {"messages": 2, "bytes": 40},
        "idempotency": "replayed",
        "endpoint": "127.0.0.1:50051",
        "attempts": 1,
    }


def test_a_decision_says_who_what_and_why_alone() -> None:
    refused = Outcome(StatusCode.PERMISSION_DENIED, "no rule allows it", Origin.SIDECAR, Reason.NO_RULE_ALLOWS)
    notes = {"authz": SimpleNamespace(decision="deny", rule="default")}
    record = ended(kind="decision", outcome=refused, notes=notes, endpoint=None).describe(0.0)
    assert record["decision"] == "deny"
    assert record["rule"] == "default"
    assert record["reason"] == "NO_RULE_ALLOWS"
    assert record["origin"] == "sidecar"
    assert not {"duration_ms", "received", "sent", "endpoint", "attempts", "message"} & set(record)


@pytest.mark.parametrize(
    ("reason", "decision"),
    [
        (Reason.IDENTITY_UNUSABLE, "deny"),
        (Reason.RATE_LIMITED, "allow"),
        (Reason.UPSTREAM_LOST, "allow"),
        (None, "allow"),
    ],
)
def test_without_authorization_only_an_identity_is_denied(reason: Reason | None, decision: str) -> None:
    code = reason.code if reason else StatusCode.OK
    record = ended(outcome=Outcome(code, "", Origin.SIDECAR, reason)).describe(0.0)
    assert record["decision"] == decision
    assert "rule" not in record


def test_what_is_not_known_is_left_out() -> None:
    record = ended(identity=None, route="", endpoint=None, traceparent=None, request_id=b"").describe(0.0)
    assert not {
        "identity",
        "route",
        "endpoint",
        "trace_id",
        "request_id",
        "rule",
        "reason",
        "message",
        "idempotency",
    } & set(record)


@pytest.mark.parametrize(
    "value", [b"", b"00-short-1-1", b"00-" + b"g" * 32 + b"-" + b"0" * 16 + b"-01", TRACE + b"\n", b"\xff"]
)
def test_a_malformed_traceparent_names_no_trace(value: bytes) -> None:
    assert "trace_id" not in ended(traceparent=value).describe(0.0)


def test_a_later_version_of_traceparent_still_names_the_trace() -> None:
    assert (
        ended(traceparent=b"cc" + TRACE[2:] + b"-what-else").describe(0.0)["trace_id"]
        == "4bf92f3577b34da6a3ce929d0e0e4736"
    )


def test_text_of_others_is_masked_and_bounded() -> None:
    message = "card 4111 1111 1111 1111 with password=hunter2; " + "x" * 5000
    record = ended(outcome=Outcome(StatusCode.INTERNAL, message, Origin.AGENT)).describe(0.0)
    assert record["message"].startswith("card [masked] with password=[masked]; xxx")
    assert len(record["message"]) == 1025


def test_a_note_may_be_an_object_with_an_outcome() -> None:
    assert ended(notes={"idempotency": SimpleNamespace(outcome="executed")}).describe(0.0)["idempotency"] == "executed"


def test_a_record_names_the_configuration_that_decided() -> None:
    settings = TrailSettings(rotate_size=1 << 20, keep=1, generation=7)
    assert ended(settings).describe(0.0)["generation"] == 7
    assert ended(settings, kind="decision").describe(0.0)["generation"] == 7
    assert "generation" not in ended().describe(0.0)
