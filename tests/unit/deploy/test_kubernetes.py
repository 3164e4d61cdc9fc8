"""deploy/kubernetes: what `kubectl apply -k` would send holds together, and the sidecar takes its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from agent_server.cli import main as agent_server
from sidecar.cli.main import sidecar
from sidecar.config.load import load
from tests.support.command_line import takes
from tests.support.pki import Pki
from tests.support.processes import ROOT

BASE = ROOT / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((BASE / "kustomization.yaml").read_text())
CONFIG = BASE / KUSTOMIZATION["configMapGenerator"][0]["files"][0]
CERTIFICATES = "/var/run/secrets/spiffe.io"
ENVIRONMENT = {"POD_NAME": "data-agent-5d9c7", "ADMIN_TOKEN": "0123456789abcdef"}
API_VERSIONS = {
    "Namespace": "v1",
    "ServiceAccount": "v1",
    "Deployment": "apps/v1",
    "Service": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
}


def resources() -> dict[str, dict[str, Any]]:
    found = {}
    for name in KUSTOMIZATION["resources"]:
        for document in yaml.safe_load_all((BASE / name).read_text()):
            assert document["apiVersion"] == API_VERSIONS[document["kind"]]
            found[document["kind"]] = document
    return found


RESOURCES = resources()
POD: dict[str, Any] = RESOURCES["Deployment"]["spec"]["template"]["spec"]
[SIDECAR] = POD["initContainers"]
[AGENT] = POD["containers"]


def test_every_file_is_used() -> None:
    files = {path.name for path in BASE.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(KUSTOMIZATION["resources"])
    assert set(RESOURCES) == set(API_VERSIONS)


def test_the_sidecar_is_a_native_one() -> None:
    assert SIDECAR["restartPolicy"] == "Always"
    assert "restartPolicy" not in AGENT
    assert takes(sidecar, SIDECAR["args"]) == ["run"]
    assert SIDECAR["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert SIDECAR["livenessProbe"]["httpGet"]["path"] == "/livez"
    ports = {port["name"]: port["containerPort"] for port in SIDECAR["ports"]}
    root = load(CONFIG, environ=ENVIRONMENT).root
    assert f"0.0.0.0:{ports['admin']}" == root.admin.bind
    assert f"0.0.0.0:{ports['mtls']}" == root.listeners[0].bind
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert SIDECAR[probe]["httpGet"]["port"] in ports
    # The agent's grace, then the drain, end before the kubelet kills.
    grace = float(AGENT["args"][AGENT["args"].index("--grace") + 1])
    assert grace + root.drain_timeout < POD["terminationGracePeriodSeconds"]


def test_the_agent_listens_where_the_sidecar_calls() -> None:
    assert AGENT["command"] == ["agent-server"]
    assert takes(agent_server, AGENT["args"]) == ["run"]
    bind = AGENT["args"][AGENT["args"].index("--bind") + 1]
    assert load(CONFIG, environ=ENVIRONMENT).root.clusters["local"].endpoints == (bind,)
    program, *words = AGENT["readinessProbe"]["exec"]["command"]
    assert program == "sidecar"
    assert takes(sidecar, words) == ["probe"]
    assert words[words.index("--addr") + 1] == bind
    shared = str(Path(bind.removeprefix("unix:")).parent)
    assert all(shared in {mount["mountPath"] for mount in each["volumeMounts"]} for each in (SIDECAR, AGENT))


def test_volumes_are_there_and_used() -> None:
    mounted = {mount["name"] for each in (SIDECAR, AGENT) for mount in each["volumeMounts"]}
    assert mounted == {volume["name"] for volume in POD["volumes"]}
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    assert volumes["config"]["configMap"]["name"] == KUSTOMIZATION["configMapGenerator"][0]["name"]
    assert volumes["certs"]["csi"]["driver"] == "spiffe.csi.cert-manager.io"
    mounts = {mount["name"]: mount["mountPath"] for mount in SIDECAR["volumeMounts"]}
    assert mounts["certs"] == CERTIFICATES
    assert SIDECAR["args"][-1] == f"{mounts['config']}/{CONFIG.name}"


@pytest.mark.parametrize("container", [SIDECAR, AGENT], ids=["sidecar", "agent"])
def test_the_namespace_lets_the_containers_in(container: dict[str, Any]) -> None:
    """The pod security standard `restricted`, which the namespace enforces."""
    labels = RESOURCES["Namespace"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    rights = container["securityContext"]
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["readOnlyRootFilesystem"] is True
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert POD["automountServiceAccountToken"] is False
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert container["image"] in {each["name"] for each in KUSTOMIZATION["images"]}
    assert POD["securityContext"]["runAsUser"] == 10001, "the image's"


def test_selectors_select_the_pods() -> None:
    [labels] = KUSTOMIZATION["labels"]
    # includeSelectors would put the labels into the peers of the NetworkPolicy, and Prometheus and DNS have others.
    assert labels["includeTemplates"] is True
    assert "includeSelectors" not in labels
    wanted = {"app.kubernetes.io/name": labels["pairs"]["app.kubernetes.io/name"]}
    for kind, path in {
        "Deployment": "selector",
        "PodDisruptionBudget": "selector",
        "PodMonitor": "selector",
        "NetworkPolicy": "podSelector",
    }.items():
        assert RESOURCES[kind]["spec"][path] == {"matchLabels": wanted}, kind
    assert RESOURCES["Service"]["spec"]["selector"] == wanted


def test_the_network_policy_lets_in_what_the_mesh_and_prometheus_need() -> None:
    spec = RESOURCES["NetworkPolicy"]["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    opened = [port["port"] for rule in spec["ingress"] for port in rule["ports"]]
    assert opened == [port["containerPort"] for port in SIDECAR["ports"]]
    assert all(rule["from"] for rule in spec["ingress"])
    cluster = load(CONFIG, environ=ENVIRONMENT).root.clusters["orders"]
    assert {int(each.rpartition(":")[2]) for each in cluster.endpoints} <= {
        p["port"] for r in spec["egress"] for p in r["ports"]
    }
    [endpoint] = RESOURCES["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in SIDECAR["ports"]}
    secrets = {each["name"]: each.get("valueFrom", {}).get("secretKeyRef") for each in SIDECAR["env"]}
    assert endpoint["authorization"]["credentials"] == secrets["ADMIN_TOKEN"]
    assert set(secrets) == set(ENVIRONMENT)


def test_the_configuration_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With certificates as csi-driver-spiffe makes them: a SPIFFE id of the service account, and no name."""
    account = POD["serviceAccountName"]
    assert account == RESOURCES["ServiceAccount"]["metadata"]["name"]
    identity = f"spiffe://mesh.local/ns/{KUSTOMIZATION['namespace']}/sa/{account}"
    leaf = Pki(tmp_path).leaf("tls", uris=(identity,), dns=(), ips=())
    leaf.ca.rename(tmp_path / "ca.crt")
    path = tmp_path / "sidecar.yaml"
    source = CONFIG.read_text()
    assert source.count(CERTIFICATES) == 6
    path.write_text(source.replace(CERTIFICATES, str(tmp_path)))
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    shown = CliRunner().invoke(sidecar, ["validate", "-c", str(path)])
    assert shown.exit_code == 0, shown.output
    words = ["explain", "-c", str(path), "--listener", "inbound", "--method", "/agent.v1.AgentService/Execute"]
    assert CliRunner().invoke(sidecar, [*words, "--identity", identity]).exit_code == 0
    assert CliRunner().invoke(sidecar, [*words, "--identity", "spiffe://mesh.local/ns/other/sa/x"]).exit_code == 3
