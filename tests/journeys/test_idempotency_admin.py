"""Records of keyed RPCs at a running sidecar's admin addresses: gRPC, HTTP and the command line, each with what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from sidecar.control.admin.api import admin_pb2 as pb
from tests.journeys.records_office import Office


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    found = Office(tmp_path_factory.mktemp("office"))
    yield found
    found.stop()


def test_programs_list_show_and_settle_records(office: Office) -> None:
    everything = office.ask("ListRecords", pb.ListRecordsRequest())["records"]
    assert [each["record"] for each in everything] == ["a1", "a2", "b1", "c1", "c2"]
    page = office.ask("ListRecords", pb.ListRecordsRequest(after="a1", limit=1, state="unknown"))
    assert [each["record"] for each in page["records"]] == ["a2"]
    shown = office.ask("GetRecord", pb.GetRecordRequest(record="b1"))["record"]
    assert (shown["state"], shown["identity"], shown["bytes"]) == ("done", "spiffe://m/a", 6)

    order = pb.ResolveRecordRequest(record="a1", outcome=pb.RECORD_OUTCOME_EXECUTED, by="ann")
    settled = office.ask("ResolveRecord", order)["record"]
    assert (settled["state"], settled["settled_by"]) == ("done", "ann")
    code, text = office.refused("ResolveRecord", order)
    assert (code, text) == ("FAILED_PRECONDITION", "it is done; only what is unknown can be settled")
    assert office.refused("ResolveRecord", pb.ResolveRecordRequest(record="a2"))[0] == "INVALID_ARGUMENT"
    assert office.refused("GetRecord", pb.GetRecordRequest(record="no"))[0] == "NOT_FOUND"
    assert office.refused("ListRecords", pb.ListRecordsRequest(limit=1001))[0] == "INVALID_ARGUMENT"


def test_over_http_each_refusal_has_its_status(office: Office) -> None:
    status, found = office.http("/idempotency?state=done")
    assert status == 200
    assert found[-1]["record"] == "b1"
    assert {each["state"] for each in found} == {"done"}
    assert office.http("/idempotency?limit=0") == (400, "limit: a number from 1 to 1000\n")
    assert office.http("/idempotency?record=no")[0] == 404
    assert office.http("/idempotency/resolve?record=a1", post=True)[0] == 400
    assert office.http("/idempotency/resolve?record=b1&outcome=executed", post=True)[0] == 409
    assert office.http("/idempotency/resolve?record=c1&outcome=executed")[0] == 405, "reading changes nothing"
    assert office.http("/idempotency/resolve?record=c1&outcome=not_executed", post=True)[1]["state"] == "released"


def test_people_read_lines_and_hear_what_is_wrong(office: Office) -> None:
    listed = office.command("list", "--limit", "2", "--after", "a1").stdout.splitlines()
    assert [line.split()[:2] for line in listed[:2]] == [["a2", "unknown"], ["b1", "done"]]
    assert listed[2] == "there may be more: --after b1"
    assert "identity     spiffe://m/a" in office.command("show", "b1").stdout
    assert office.command("list", "--state", "running").stdout == "no records\n"
    wrong = office.command("resolve", "a1")
    assert (wrong.returncode, "--executed or --not-executed" in wrong.stderr) == (2, True)
    missing = office.command("show", "no")
    assert (missing.returncode, "there is no record no" in missing.stderr) == (1, True)


def test_who_settled_what_is_in_the_audit_log(office: Office) -> None:
    order = pb.ResolveRecordRequest(record="c2", outcome=pb.RECORD_OUTCOME_NOT_EXECUTED, by="night shift")
    assert office.ask("ResolveRecord", order)["record"]["state"] == "released"
    office.sidecar.stop()
    noted = [json.loads(line) for line in (office.folder / "audit.jsonl").read_text().splitlines()]
    (note,) = [each for each in noted if each["kind"] == "idempotency" and each["record"] == "c2"]
    assert (note["outcome"], note["by"], note["method"]) == ("not_executed", "night shift", "/pay.v1.Payments/Pay")
