"""docker-compose.yml: its structure, and every sidecar configuration that it mounts, with the certificates its own service makes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from agent_server.cli import main as agent_server
from clients.python.__main__ import main as client
from sidecar.cli.main import sidecar
from sidecar.config.load import load
from tests.support.command_line import takes
from tests.support.processes import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OBSERVABILITY = {"otel-collector", "prometheus", "grafana"}
OURS = {name for name, each in SERVICES.items() if each["image"].startswith("grpc-sidecar")}
SIDECARS = {name for name in OURS if name.startswith("sidecar-")}
KNOWN = {
    "build", "cap_drop", "command", "configs", "depends_on", "entrypoint", "environment", "healthcheck", "image",
    "network_mode", "networks", "ports", "profiles", "read_only", "restart", "security_opt", "stop_grace_period", "tmpfs",
    "user", "volumes", "working_dir",
}  # fmt: skip
MOUNTED = "/etc/sidecar/sidecar.yaml"


def config_of(service: str) -> Path:
    [mounted] = [each["source"] for each in SERVICES[service]["configs"] if each["target"] == MOUNTED]
    return ROOT / COMPOSE["configs"][mounted]["file"]


def environment_of(service: str) -> dict[str, str]:
    """As compose passes it when nothing is set outside."""
    values = SERVICES[service].get("environment", {})
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value)) for name, value in values.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/etc/sidecar as the service `certificates` leaves it: its own script has run."""
    folder = tmp_path_factory.mktemp("etc-sidecar")
    program = folder / "bin" / "sidecar"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sidecar "$@"\n')
    program.chmod(0o755)
    [script] = SERVICES["certificates"]["command"]
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    words = [*SERVICES["certificates"]["entrypoint"], script]
    for _ in range(2):  # a second `up` finds what the first one made
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
    return folder


def test_the_services_are_those_of_the_picture() -> None:
    assert set(SERVICES) == OURS | OBSERVABILITY | {"redis"}
    assert {"certificates", "agent-v1", "agent-v2", "sidecar-v1", "sidecar-v2", "sidecar-caller", "caller"} == OURS
    assert {name for name, each in SERVICES.items() if each.get("profiles") == ["observability"]} == OBSERVABILITY
    assert not {name for name, each in SERVICES.items() if "profiles" in each} - OBSERVABILITY


def test_every_key_is_one_of_compose() -> None:
    assert {each for each in COMPOSE if not each.startswith("x-")} == {
        "name",
        "services",
        "networks",
        "volumes",
        "configs",
    }
    for name, each in SERVICES.items():
        assert set(each) <= KNOWN, name
        assert set(each.get("healthcheck", {})) <= {"test", "interval", "timeout", "retries", "start_period", "disable"}
        # Compose refuses both, and ports of a service that has another's namespace.
        assert len({"networks", "network_mode"} & set(each)) == 1, name
        assert not ("network_mode" in each and "ports" in each), name


def test_every_name_is_defined_and_used() -> None:
    volumes, configs = set(), set()
    for name, each in SERVICES.items():
        volumes |= {volume.split(":")[0] for volume in each.get("volumes", ())}
        configs |= {config["source"] for config in each.get("configs", ())}
        for other, how in each.get("depends_on", {}).items():
            assert other in SERVICES, name
            assert how["condition"] in {"service_healthy", "service_completed_successfully"}
            is_job = SERVICES[other]["restart"] == "no"
            assert is_job == (how["condition"] == "service_completed_successfully"), name
            assert SERVICES[other]["healthcheck"].get("disable") is (True if is_job else None), name
    assert volumes == set(COMPOSE["volumes"])
    assert configs == set(COMPOSE["configs"])
    for each in COMPOSE["configs"].values():
        assert "content" in each or (ROOT / each["file"]).is_file()


def test_sidecars_share_the_namespace_of_what_they_stand_beside() -> None:
    for version in ("v1", "v2"):
        assert SERVICES[f"sidecar-{version}"]["network_mode"] == f"service:agent-{version}"
        assert f"agent-{version}" in SERVICES[f"sidecar-{version}"]["depends_on"]
        assert version in SERVICES[f"agent-{version}"]["command"]
    assert SERVICES["caller"]["network_mode"] == "service:sidecar-caller"
    versions = [SERVICES[f"agent-{version}"]["command"] for version in ("v1", "v2")]
    assert versions[0] != versions[1]


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"certificates", "otel-collector"}))
def test_health_is_asked_every_two_seconds(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert (check["interval"], check["timeout"]) == ("2s", "2s")
    assert check["test"][0] == "CMD"
    if name in OURS:
        program, *words = check["test"][1:]
        assert program == "sidecar"
        assert takes(sidecar, words) == ["probe"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_nothing_has_more_rights_than_it_needs(name: str) -> None:
    each = SERVICES[name]
    assert each["cap_drop"] == ["ALL"]
    assert each["security_opt"] == ["no-new-privileges:true"]
    assert each.get("read_only") or name == "grafana"
    assert all(port.startswith("127.0.0.1:") for port in each.get("ports", ()))
    assert re.fullmatch(r"[a-z/-]+:(local|v?\d+(\.\d+)+(-alpine)?)", each["image"]), "pinned"
    # The CA's key is where certificates are made, and nowhere else.
    assert name == "certificates" or not any(volume.startswith("ca:") for volume in each.get("volumes", ()))


@pytest.mark.parametrize("name", sorted(SIDECARS))
def test_the_configuration_of_a_sidecar_is_valid(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = folder / "state"
    state.mkdir(exist_ok=True)
    source = config_of(name).read_text()
    assert "/var/lib/sidecar" not in source or any(v.endswith(":/var/lib/sidecar") for v in SERVICES[name]["volumes"])
    path = folder / f"{name}.yaml"
    path.write_text(source.replace("sqlite:////var/lib/sidecar", f"sqlite:///{state}"))
    environment = environment_of(name)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    shown = CliRunner().invoke(sidecar, ["validate", "-c", str(path)])
    assert shown.exit_code == 0, shown.output
    words = SERVICES[name]["command"]
    assert words == ["run", "-c", MOUNTED]
    root = load(path, environ=environment).root
    assert root.node.name == environment["SIDECAR_NAME"]
    # Prometheus finds it, with the token.
    assert root.admin.bind == "0.0.0.0:9901"
    scraped = yaml.safe_load((ROOT / COMPOSE["configs"]["prometheus"]["file"]).read_text())["scrape_configs"][0]
    host = SERVICES[name].get("network_mode", f"service:{name}").removeprefix("service:")
    assert f"{host}:9901" in scraped["static_configs"][0]["targets"]
    mounts = {each["target"]: each["source"] for each in SERVICES["prometheus"]["configs"]}
    token = COMPOSE["configs"][mounts[scraped["authorization"]["credentials_file"]]]["content"]
    assert token == SERVICES[name]["environment"]["SIDECAR_ADMIN_TOKEN"]


def test_what_the_sidecars_call_is_there(folder: Path) -> None:
    outbound = load(config_of("sidecar-caller"), environ=environment_of("sidecar-caller")).root
    inbound = load(config_of("sidecar-v1"), environ=environment_of("sidecar-v1")).root
    [cluster] = outbound.clusters.values()
    ends = {name: version.endpoints for name, version in cluster.versions.items()}
    port = inbound.listeners[0].bind.rpartition(":")[2]
    assert ends == {version: (f"agent-{version}:{port}",) for version in ("v1", "v2")}
    agent = SERVICES["agent-v1"]["command"]
    assert inbound.clusters["local"].endpoints == (agent[agent.index("--bind") + 1],)
    assert inbound.store.url == "redis://redis:6379/0"
    assert (folder / "certs" / "data.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["agent-v1", "agent-v2"])
def test_the_commands_of_agents_are_known(name: str) -> None:
    assert SERVICES[name]["entrypoint"] == ["agent-server"]
    assert takes(agent_server, SERVICES[name]["command"]) == ["run"]


def test_the_caller_calls_the_sidecar_beside_it() -> None:
    [script] = SERVICES["caller"]["command"]
    [line] = [each.strip() for each in script.splitlines() if "clients.python" in each]
    words = line.replace("'SELECT 1 AS one'", "x").split()[3:]
    listener = load(config_of("sidecar-caller"), environ=environment_of("sidecar-caller")).root.listeners[0]
    assert words[words.index("--target") + 1] == listener.bind
    assert takes(client, words) == ["execute"]


def test_grafana_and_the_collector_have_what_they_look_for() -> None:
    collector = yaml.safe_load((ROOT / COMPOSE["configs"]["collector"]["file"]).read_text())
    for pipeline in collector["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(collector[kind])
    port = collector["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")[2]
    for name in SIDECARS:
        tracing = yaml.safe_load(config_of(name).read_text())["policies"]["tracing"]
        assert tracing["otlp"] == f"http://otel-collector:{port}"
    targets = {each["target"] for each in SERVICES["grafana"]["configs"]}
    provider = yaml.safe_load((ROOT / COMPOSE["configs"]["dashboards"]["file"]).read_text())["providers"][0]
    assert f"{provider['options']['path']}/sidecar.json" in targets
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in targets
    source = yaml.safe_load((ROOT / COMPOSE["configs"]["datasource"]["file"]).read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
