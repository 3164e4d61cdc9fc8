"""A sidecar with records of keyed RPCs that nobody knows the outcome of, and the ways to ask for them."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from sidecar.clock import LoopClock
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

    def stop(self) -> None:
        self.channel.close()
        self.sidecar.stop()
