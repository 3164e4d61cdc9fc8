"""The log of a real sidecar: a line per failed RPC with the words of the refusal, levels changed while it runs."""

from __future__ import annotations

import subprocess
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from tests.support.processes import ROOT, Sidecar

CONFIG = """
admin: {{bind: "127.0.0.1:0"}}
listeners:
  - name: inbound
    direction: inbound
    bind: "127.0.0.1:0"
    policies:
      access_log: {{sample: 100}}
      mask: {{fields: [shop.Order.customer], in: [logs]}}
    routes:
      - {{name: all, match: {{method: "/shop.Orders/*"}}, to: local}}
clusters:
  local: {{endpoints: ["{agent}"]}}
"""


class Agent(grpc.GenericRpcHandler):
    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, message: bytes, context: Any) -> bytes:
        if message:
            context.abort(grpc.StatusCode.NOT_FOUND, message.decode())
        return message


def test_what_is_logged_and_how_it_is_changed(tmp_path: Path) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Agent(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Sidecar(CONFIG.format(agent=f"127.0.0.1:{port}"), tmp_path) as sidecar:
        with grpc.insecure_channel(sidecar.addresses["inbound"]) as channel:

            def call(method: str, body: bytes = b"") -> grpc.RpcError | None:
                try:
                    channel.unary_unary(method)(body, timeout=10)
                except grpc.RpcError as error:
                    return error
                return None

            assert call("/shop.Orders/Get") is None
            assert call("/shop.Orders/Get", b"customer=Ada has password=hunter2") is not None
            refused = call("/shop.Stock/Get")
            well = sidecar.wait_for_log(lambda line: line.get("status") == "OK")
            failed = sidecar.wait_for_log(lambda line: line.get("status") == "NOT_FOUND")
            line = sidecar.wait_for_log(lambda line: line.get("reason") == "NO_ROUTE")

            assert (well["event"], well["level"], well["method"]) == ("rpc", "info", "/shop.Orders/Get")
            assert (failed["level"], failed["origin"]) == ("warning", "agent")
            assert failed["message"] == "customer=[masked] has password=[masked]"
            assert line["route" if "route" in line else "listener"] == "inbound"
            _same_word(sidecar, refused, line)

            assert _logging(sidecar, "warning") == "warning"
            assert call("/shop.Orders/Get") is None
            assert call("/shop.Orders/Get", b"second") is not None
            sidecar.wait_for_log(lambda line: line.get("message") == "second")
            assert sum(each.get("status") == "OK" for each in sidecar.log()) == 1
            assert _logging(sidecar) == "warning"
            assert sidecar.request("PUT", "/logging?level=info")[0] == 200
            assert _logging(sidecar) == "info"
            assert sidecar.request("POST", "/logging?level=loud")[0] == 400
    server.stop(None).wait()


def _same_word(sidecar: Sidecar, refused: Any, line: dict[str, Any]) -> None:
    """The log field, the metric label and ErrorInfo.reason are one word."""
    details = next(value for name, value in refused.trailing_metadata() if name == "grpc-status-details-bin")
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(details).details[0].Unpack(info)
    assert info.reason == line["reason"]
    _, page = sidecar.get("/metrics")
    assert f'reason="{info.reason}"' in page


def _logging(sidecar: Sidecar, *level: str) -> str:
    command = (sys.executable, "-m", "sidecar", "logging", *level, "--admin", f"http://{sidecar.admin}")
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
