from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Iterator

import pytest
from grpc import StatusCode

from agent_server.core.catalogue import load_specs
from agent_server.core.failure import Failure
from agent_server.service.binding import BindError, TcpAddress
from agent_server.service.metrics import AgentMetrics


@pytest.fixture
def metrics() -> Iterator[AgentMetrics]:
    made = AgentMetrics(load_specs(["agent_server.agents.data"]))
    yield made
    made.close()


def value(metrics: AgentMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_an_operation_is_counted_timed_and_active_while_it_runs(metrics: AgentMetrics) -> None:
    assert value(metrics, "digital_employee_active_agents", agent_type="data") == 0
    with metrics.working("data", "query"):
        assert value(metrics, "digital_employee_active_agents", agent_type="data") == 1
    assert value(metrics, "digital_employee_active_agents", agent_type="data") == 0
    assert value(metrics, "digital_employee_requests_total", agent="data", operation="query", status="OK") == 1
    assert value(metrics, "digital_employee_request_duration_seconds_count", agent="data", operation="query") == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Failure(StatusCode.NOT_FOUND, "NO_TABLE", "no such table"), "NOT_FOUND"),
        (asyncio.CancelledError(), "CANCELLED"),
        (ZeroDivisionError(), "INTERNAL"),
    ],
)
def test_how_it_ended_is_its_status(metrics: AgentMetrics, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), metrics.working("data", "query"):
        raise error
    assert value(metrics, "digital_employee_requests_total", agent="data", operation="query", status=status) == 1
    assert value(metrics, "digital_employee_active_agents", agent_type="data") == 0


def test_invented_names_make_no_series(metrics: AgentMetrics) -> None:
    for i in range(50):
        metrics.refused(f"evil{i}", "x", StatusCode.INVALID_ARGUMENT)
        metrics.refused("data", f"evil{i}", StatusCode.INVALID_ARGUMENT)
    found = {
        (sample.labels["agent"], sample.labels["operation"]): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "digital_employee_requests_total"
    }
    assert found == {("_OTHER", "_OTHER"): 50, ("data", "_OTHER"): 50}


def test_they_are_shown(metrics: AgentMetrics) -> None:
    address = metrics.serve(TcpAddress("127.0.0.1", 0))
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    assert 'digital_employee_active_agents{agent_type="data"} 0.0' in page
    assert "process_resident_memory_bytes" in page
    with pytest.raises(BindError, match=f"metrics: {address}"):
        AgentMetrics([]).serve(address)


def test_ratings_are_there_by_agent_and_version(metrics: AgentMetrics) -> None:
    metrics.rated("data", "v1", 2, 4.5)
    metrics.rated("data", "v1", 3, 4.0)
    metrics.rated("data", "v2", 1, 1.0)
    assert value(metrics, "digital_employee_ratings", agent="data", version="v1") == 3
    assert value(metrics, "digital_employee_rating_mean", agent="data", version="v1") == 4.0
    assert value(metrics, "digital_employee_rating_mean", agent="data", version="v2") == 1.0
