"""The `agent:` section as the file says it."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.load import parse
from sidecar.config.problems import ConfigError

REST = """
listeners: [{name: in, direction: inbound, bind: "127.0.0.1:0", routes: [{name: all, match: {method: "/*"}, to: local}]}]
clusters: {local: {endpoints: ["127.0.0.1:50051"]}}
"""
WHOLE = """
agent:
  command: [agent-server, run, -c, agent.yaml]
  ready: {health_check: {service: ""}}
  recovery:
    crash: {do: restart, backoff: {initial: 1s, max: 1m}}
    wedged: {when: {in_flight_without_progress: 60s}, do: restart}
    memory: {when: {rss_above: 1GiB, for: 1m}, do: [drain, clear_cache, restart]}
    store_lost: {do: reconnect}
    network: {do: reset_connections}
    give_up_after: {restarts: 5, within: 10m}
"""


def agent(text: str) -> Any:
    return parse(text + REST, environ={}, host="here").root.agent


def problems(text: str, rest: str = REST) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text + rest, environ={}, host="here")
    return [str(each) for each in caught.value.problems]


def test_the_section_of_the_contract_is_taken() -> None:
    found = agent(WHOLE)
    assert found.command == ("agent-server", "run", "-c", "agent.yaml")
    recovery = found.recovery
    assert (recovery.crash.backoff.initial, recovery.crash.backoff.longest) == (1.0, 60.0)
    assert (recovery.wedged.when.in_flight_without_progress, recovery.wedged.do) == (60.0, ("restart",))
    assert (recovery.memory.when.rss_above, recovery.memory.when.length) == (1 << 30, 60.0)
    assert recovery.memory.do == ("drain", "clear_cache", "restart")
    assert (recovery.give_up_after.restarts, recovery.give_up_after.within) == (5, 600.0)


def test_only_a_crash_is_always_repaired() -> None:
    recovery = agent("agent: {command: [x]}").recovery
    assert recovery.crash.do == "restart"
    assert (recovery.wedged, recovery.memory, recovery.store_lost, recovery.network) == (None, None, None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agent: {command: []}", "agent.command"),
        ("agent: {command: [x], recovery: {crash: {do: pray}}}", "agent.recovery.crash.do"),
        ("agent: {command: [x], recovery: {memory: {do: restart}}}", "agent.recovery.memory.when"),
        ("agent: {command: [x], recovery: {crash: {backoff: {initial: 5s, max: 1s}}}}", "is shorter than initial"),
        ("agent: {command: [x], cluster: elsewhere}", "is no cluster; known: local"),
        ("workers: 2\nagent: {command: [x]}", "cannot be supervised by several workers"),
        ("workers: 2\nadmin: {grpc: '127.0.0.1:0'}", "is not served by several workers"),
        ("admin: {grpc: '0.0.0.0:9902'}", "can be reached from other machines"),
    ],
)
def test_what_is_wrong_is_told(text: str, said: str) -> None:
    found = problems(text)
    assert len(found) == 1
    assert said in found[0]


def test_which_endpoint_the_agent_is_must_be_clear() -> None:
    rest = REST.replace('["127.0.0.1:50051"]', '["127.0.0.1:50051", "127.0.0.1:50052"]')
    assert "has not just one endpoint" in problems("agent: {command: [x]}", rest)[0]
