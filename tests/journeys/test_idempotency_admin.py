"""Records of keyed RPCs at a running sidecar's admin addresses: gRPC, HTTP and the command line, each with what it refuses."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from sidecar.clock import LoopClock
from sidecar.control.admin.api import admin_pb2 as pb
from sidecar.control.admin.api.admin_pb2_grpc import AdminStub
from sidecar.policies.idempotency.record import Execution, State, dump
from sidecar.store.sealing import Sealing
from sidecar.store.url import open_store
from tests.support.processes import ROOT, Sidecar

LIMIT = 20.0
CONFIG = """
admin: {{bind: "127.0.0.1:0", grpc: "127.0.0.1:0"}}
store: {{url: "sqlite:///s.db"}}
listeners:
  - name: inbound
    direction: inbound
    bind: "127.0.0.1:0"
    policies: {{idempotency: {{}}, audit: {{sink: "file://{folder}/audit.jsonl"}}}}
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
clusters: {{local: {{endpoints: ["127.0.0.1:1"]}}}}
"""


def execution(state: State, **more: Any) -> Execution:
    return Execution(state, 1, "someone", "0" * 64, "/pay.v1.Payments/Pay", "spiffe://m/a", time.time(), 60.0, **more)


async def keep(folder: Path) -> None:
    """Records, as sidecars before this one have left them."""
    clock = LoopClock(asyncio.get_running_loop())
    store = open_store("sqlite:///s.db", clock=clock, random=random.Random(1), directory=folder)
    for name, each in {
        "a1": execution(State.UNKNOWN),
        "a2": execution(State.UNKNOWN),
        "b1": execution(State.DONE, messages=b"\0\0\0\0\1x", code=0),
        "c1": execution(State.UNKNOWN),
        "c2": execution(State.UNKNOWN),
    }.items():
        assert await store.put(f"idempotency:{name}", None, Sealing().seal(dump(each)), keep=3600.0) is True
    await store.close()


class Office:
    """A sidecar with records, and the ways to ask for them."""

    def __init__(self, folder: Path) -> None:
        asyncio.run(keep(folder))
        self.folder = folder
        self.sidecar = Sidecar(CONFIG.format(folder=folder), folder)
        self.sidecar.start()
        address = str(self.sidecar.wait_for_log(lambda line: line.get("event") == "ready")["admin_grpc"])
        self.channel = grpc.insecure_channel(address)
        self.stub: Any = AdminStub(self.channel)  # type: ignore[arg-type]

    def ask(self, method: str, request: Any) -> dict[str, Any]:
        return json_format.MessageToDict(getattr(self.stub, method)(request, timeout=LIMIT))

    def refused(self, method: str, request: Any) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self.ask(method, request)
        error: Any = caught.value
        return error.code().name, error.details()

    def http(self, path: str, *, post: bool = False) -> tuple[int, Any]:
        request = urllib.request.Request(f"http://{self.sidecar.admin}{path}", data=b"" if post else None)
        try:
            with urllib.request.urlopen(request, timeout=LIMIT) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sidecar", "idempotency", *words, "--admin", f"http://{self.sidecar.admin}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    found = Office(tmp_path_factory.mktemp("office"))
    yield found
    found.channel.close()
    found.sidecar.stop()


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
