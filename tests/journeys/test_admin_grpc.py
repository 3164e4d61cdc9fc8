"""`sidecar.v1.Admin` of a running sidecar, with grpcurl and with grpcio: all it shows, all it can be asked, and who may."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.control.admin.api import admin_pb2 as pb
from sidecar.control.admin.api.admin_pb2_grpc import AdminStub
from tests.support.processes import NotReady, Sidecar

LIMIT = 20.0
TOKEN = "a-token-of-this-test"
CONFIG = """
admin: {{bind: "127.0.0.1:0", grpc: "{grpc}", token: {token}}}
listeners:
  - name: inbound
    direction: inbound
    bind: "127.0.0.1:0"
    policies: {{authz: {{deny: [{{name: nobody-deletes, methods: ["/a.B/Delete"]}}], default: allow}}}}
    routes: [{{name: all, match: {{method: "/*"}}, to: local}}]
clusters:
  local: {{endpoints: ["unix:{folder}/agent.sock"]}}
  next:
    versions: {{stable: {{endpoints: ["127.0.0.1:1"]}}, canary: {{endpoints: ["127.0.0.1:2"]}}}}
    rollout: {{strategy: canary, stable: stable, candidate: canary, steps: [10, 100], first_step_for: 1h}}
agent: {{command: {command}}}
"""


def config(folder: Path, address: str = "127.0.0.1:0") -> str:
    command = [
        sys.executable,
        "-m",
        "agent_server",
        "run",
        "--bind",
        f"unix:{folder}/agent.sock",
        "--log-level",
        "error",
    ]
    return CONFIG.format(grpc=address, token=TOKEN, folder=folder, command=json.dumps(command))


class Asked:
    """A running sidecar, its Admin service, and two ways to ask it."""

    def __init__(self, folder: Path) -> None:
        self.sidecar = Sidecar(config(folder), folder)
        self.sidecar.start()
        self.address = str(self.sidecar.wait_for_log(lambda line: line.get("event") == "ready")["admin_grpc"])
        self.channel = grpc.insecure_channel(self.address)
        self.stub: Any = AdminStub(self.channel)  # type: ignore[arg-type]
        self.metadata = (("authorization", f"Bearer {TOKEN}"),)

    def close(self) -> None:
        self.channel.close()
        assert self.sidecar.stop() == 0

    def ask(self, method: str, request: Any) -> Any:
        return getattr(self.stub, method)(request, metadata=self.metadata, timeout=LIMIT)

    def refused(self, method: str, request: Any) -> tuple[str, str]:
        """Status and text of what is refused."""
        with pytest.raises(grpc.RpcError) as caught:
            self.ask(method, request)
        error: Any = caught.value
        return error.code().name, error.details()

    def grpcurl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        found = shutil.which("grpcurl")
        if found is None:
            pytest.skip("grpcurl is not installed: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest")
        *options, last = arguments
        return subprocess.run(
            [found, "-plaintext", "-max-time", "20", *options, self.address, *last.split()],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT,
        )


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    found = Asked(tmp_path_factory.mktemp("admin"))
    yield found
    found.close()


BEARER = ("-H", f"authorization: Bearer {TOKEN}")


def test_grpcurl_lists_and_describes_it(asked: Asked) -> None:
    assert asked.grpcurl(*BEARER, "list").stdout.split() == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "sidecar.v1.Admin",
    ]
    described = asked.grpcurl(*BEARER, "describe sidecar.v1.Admin").stdout
    assert "rpc WatchStatus ( .sidecar.v1.WatchStatusRequest ) returns ( stream" in described


def test_grpcurl_asks_and_is_answered(asked: Asked) -> None:
    found = asked.grpcurl(*BEARER, "sidecar.v1.Admin/GetReadiness")
    assert found.returncode == 0, found.stderr
    answer = json.loads(found.stdout)
    assert answer["ready"] is True
    assert {"name": "agent", "holds": True, "word": "serving"} in answer["checks"]
    found = asked.grpcurl(*BEARER, "-d", '{"level": "loud"}', "sidecar.v1.Admin/SetLogLevel")
    assert "level: allowed are debug, info, warning, error" in found.stderr
    found = asked.grpcurl(*BEARER, "-d", '{"cluster": "next"}', "sidecar.v1.Admin/GetRollout")
    assert json.loads(found.stdout)["rollout"]["cluster"] == "next", found.stderr


def test_without_the_token_only_health_answers(asked: Asked) -> None:
    health: Any = health_pb2_grpc.HealthStub(asked.channel)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=LIMIT).status == health_pb2.HealthCheckResponse.SERVING
    for metadata in ((), (("authorization", "Bearer something-else"),)):
        with pytest.raises(grpc.RpcError) as caught:
            asked.stub.GetVersion(pb.GetVersionRequest(), metadata=metadata, timeout=LIMIT)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
        with pytest.raises(grpc.RpcError) as caught:
            next(asked.stub.WatchStatus(pb.WatchStatusRequest(), metadata=metadata, timeout=LIMIT))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
    assert "UNAUTHENTICATED" in asked.grpcurl("list").stderr.upper()


def test_what_it_shows_is_what_the_pages_show(asked: Asked) -> None:
    from google.protobuf import json_format  # noqa: PLC0415

    headers = {"authorization": f"Bearer {TOKEN}"}
    for method, request, field, path in (
        ("ListListeners", pb.ListListenersRequest(), "listeners", "/listeners"),
        ("ListClusters", pb.ListClustersRequest(), "clusters", "/clusters"),
        ("ListCertificates", pb.ListCertificatesRequest(), "certificates", "/certs"),
        ("ListRollouts", pb.ListRolloutsRequest(), "rollouts", "/rollout"),
    ):
        page = json.loads(asked.sidecar.get(path, headers)[1])
        shown = json_format.MessageToDict(asked.ask(method, request)).get(field, [])
        assert [sorted(each) for each in shown] == [sorted(each) for each in page], path
    config = asked.ask("GetConfig", pb.GetConfigRequest())
    assert (config.generation >= 1, TOKEN in str(config)) == (True, False)
    assert config.config["clusters"]["local"]["endpoints"][0].endswith("agent.sock")
    assert b"sidecar_agent_serving 1.0" in asked.ask("GetMetrics", pb.GetMetricsRequest()).page
    assert b"# EOF" in asked.ask("GetMetrics", pb.GetMetricsRequest(openmetrics=True)).page
    assert asked.ask("GetVersion", pb.GetVersionRequest()).python.startswith("3.")
    agent = asked.ask("GetAgent", pb.GetAgentRequest()).agent
    assert (agent["serving"], agent["state"]) == (True, "serving")
    assert asked.ask("GetRollout", pb.GetRolloutRequest(cluster="next")).rollout["cluster"] == "next"
    drain = asked.ask("GetDrain", pb.GetDrainRequest())
    assert (drain.state, drain.active_calls) == ("ready", 0)


def test_status_goes_on_until_the_caller_leaves(asked: Asked) -> None:
    stream = asked.ask("WatchStatus", pb.WatchStatusRequest(interval_seconds=0.1))
    found = [next(stream).status for _ in range(3)]
    stream.cancel()
    assert all(len(each) > 0 for each in found)
    assert sorted(found[0]) == sorted(asked.ask("GetStatus", pb.GetStatusRequest()).status)


def test_explain_names_the_rule(asked: Asked) -> None:
    decision = asked.ask("Explain", pb.ExplainRequest(listener="inbound", method="/a.B/Delete")).decision
    assert "nobody-deletes" in str(decision)
    code, said = asked.refused("Explain", pb.ExplainRequest(listener="none", method="/a.B/C"))
    assert (code, "none" in said) == ("INVALID_ARGUMENT", True)


def test_levels_change_at_run_time(asked: Asked) -> None:
    assert asked.ask("SetLogLevel", pb.SetLogLevelRequest(level="debug")).former == "info"
    assert asked.ask("GetLogLevel", pb.GetLogLevelRequest()).level == "debug"
    assert asked.ask("SetLogLevel", pb.SetLogLevelRequest(level="info")).former == "debug"
    assert asked.refused("SetLogLevel", pb.SetLogLevelRequest(level="loud")) == (
        "INVALID_ARGUMENT",
        "level: allowed are debug, info, warning, error",
    )


def test_a_reload_says_what_came_of_it(asked: Asked) -> None:
    before = asked.ask("GetConfig", pb.GetConfigRequest()).generation
    good = asked.sidecar.path.read_text()
    found = asked.ask("Reload", pb.ReloadRequest())
    assert (found.accepted, found.generation, found.problem) == (True, before + 1, "")
    asked.sidecar.path.write_text(good.replace("to: local", "to: nowhere"))
    found = asked.ask("Reload", pb.ReloadRequest())
    assert (found.accepted, found.generation) == (False, before + 1)
    assert "nowhere" in found.problem
    asked.sidecar.path.write_text(good)
    assert asked.ask("Reload", pb.ReloadRequest()).accepted


def test_a_rollout_is_driven(asked: Asked) -> None:
    def order(which: Any, cluster: str = "next") -> pb.OrderRolloutRequest:
        return pb.OrderRolloutRequest(cluster=cluster, order=which, by="test")

    if asked.ask("GetRollout", pb.GetRolloutRequest(cluster="next")).rollout["phase"] in {
        "idle",
        "waiting",
        "initialized",
    }:
        asked.ask("OrderRollout", order(pb.ROLLOUT_ORDER_START))
    phases = [
        asked.ask("OrderRollout", order(each)).rollout["phase"]
        for each in (pb.ROLLOUT_ORDER_PAUSE, pb.ROLLOUT_ORDER_RESUME, pb.ROLLOUT_ORDER_ABORT)
    ]
    assert (phases[0], phases[2]) == ("paused", "rolled_back")
    assert phases[1] in {"verifying", "progressing"}
    assert asked.refused("OrderRollout", order(pb.ROLLOUT_ORDER_RESUME))[0] == "FAILED_PRECONDITION"
    assert asked.refused("OrderRollout", order(pb.ROLLOUT_ORDER_UNSPECIFIED))[0] == "INVALID_ARGUMENT"
    code, said = asked.refused("OrderRollout", order(pb.ROLLOUT_ORDER_PAUSE, "nothing"))
    assert (code, "known: next" in said) == ("NOT_FOUND", True)


def test_the_agent_is_restarted(asked: Asked) -> None:
    health: Any = health_pb2_grpc.HealthStub(asked.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service="sidecar.v1.Admin"), timeout=LIMIT)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    before = asked.ask("GetAgent", pb.GetAgentRequest()).agent["starts"]
    asked.ask("RestartAgent", pb.RestartAgentRequest())
    asked.sidecar.wait_for_log(lambda line: line.get("event") == "recovery" and line.get("action") == "restart")
    served = [line for line in asked.sidecar.log() if line.get("event") == "agent serves"]
    asked.sidecar.wait_for_log(
        lambda line: line.get("event") == "agent serves" and line["pid"] != served[0]["pid"], LIMIT
    )
    assert asked.ask("GetAgent", pb.GetAgentRequest()).agent["starts"] == before + 1
    assert asked.ask("ClearCache", pb.ClearCacheRequest()).forgotten == 0
    watch.cancel()


def test_an_address_that_is_taken_is_no_start(asked: Asked, tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"cannot be bound"):
        Sidecar(config(tmp_path, asked.address), tmp_path).start()


def test_drain_ends_it(tmp_path: Path) -> None:
    found = Asked(tmp_path)
    try:
        drain = found.ask("Drain", pb.DrainRequest())
        assert drain.state == "draining"
        assert found.sidecar.wait(LIMIT) == 0
    finally:
        found.channel.close()
        found.sidecar.kill()


def test_alerts(asked: Asked) -> None:
    from google.protobuf import json_format  # noqa: PLC0415

    found = json_format.MessageToDict(asked.ask("GetAlerts", pb.GetAlertsRequest()).alerts)
    assert "agent-given-up" in {each["name"] for each in found["rules"]}
    assert found["receivers"] == []
    assert list(asked.ask("TestAlerts", pb.TestAlertsRequest()).receivers) == []
    refused = asked.refused("TestAlerts", pb.TestAlertsRequest(receiver="pager"))
    assert refused == ("NOT_FOUND", "no receiver is called 'pager'; known: none")


def test_drills(asked: Asked) -> None:
    from google.protobuf import json_format  # noqa: PLC0415

    assert json_format.MessageToDict(asked.ask("GetDrill", pb.GetDrillRequest()).drills)["running"] is None
    wrong = asked.refused("StartDrill", pb.StartDrillRequest(name="errors", options={"percent": "many"}))
    assert wrong == ("INVALID_ARGUMENT", "percent: is no number; allowed: 0 to 100")
    nothing = asked.refused("StartDrill", pb.StartDrillRequest(name="store-loss"))
    assert nothing == ("FAILED_PRECONDITION", "no store is configured; see `store:`")
    order = pb.StartDrillRequest(
        name="latency", options={"for": "5m", "percent": "10", "delay": "1ms", "by": "night shift"}
    )
    running = json_format.MessageToDict(asked.ask("StartDrill", order).drills)["running"]
    assert (running["name"], running["by"]) == ("latency", "night shift")
    assert running["what"].startswith("10 % of the RPCs wait 1ms on ")
    assert asked.refused("StartDrill", order) == ("FAILED_PRECONDITION", "the drill latency runs; one at a time")
    ended = json_format.MessageToDict(asked.ask("EndDrill", pb.EndDrillRequest()).drills)
    assert (ended["running"], ended["last"]["ended"]) == (None, "it was told to end")
