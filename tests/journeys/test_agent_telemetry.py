"""A client, two sidecars and an agent server, instrumented all four: one trace, and the agent's own figures."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from prometheus_client.parser import text_string_to_metric_families

from clients.python import AgentClient, CallFailure, Result, Turn
from clients.python.tracing import tracing
from tests.journeys.pair import Pair
from tests.support.otlp import Collector, ReceivedSpan
from tests.support.processes import ROOT

CHAIN = (
    ("shop", "CLIENT"),
    ("app-host", "SERVER"),
    ("app-host", "CLIENT"),
    ("agent-host", "SERVER"),
    ("agent-host", "CLIENT"),
    ("agent-server", "SERVER"),
)
ADDRESSES = ("--bind", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--otlp")
TOP = 'policies: {{tracing: {{otlp: "{url}", sample: 0}}}}'


class Agent:
    """An agent server with metrics and spans; `metrics` is where its page is."""

    def __init__(self, collector: str) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "agent_server",
                "run",
                "--agents",
                "agent_server.agents.data",
                *ADDRESSES,
                collector,
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.address = self.process.stdout.readline().split()[-1]
        self.log: list[str] = []
        for line in self.process.stderr:
            self.log.append(line)
            if "metrics at " in line:
                self.metrics = line.split()[-1]
                break
        # What it says later must not fill the pipe.
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr or ()))
        self._reader.start()

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(20)
        self._reader.join()
        for each in (self.process.stdout, self.process.stderr):
            assert each is not None
            each.close()
        return code


@contextlib.contextmanager
def agent(collector: str) -> Iterator[Agent]:
    made = Agent(collector)
    try:
        yield made
    finally:
        if made.process.returncode is None:
            made.stop()


def by(spans: list[ReceivedSpan], service: str, kind: str) -> ReceivedSpan:
    (found,) = [each for each in spans if (each.service, each.kind) == (service, kind)]
    return found


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


async def test_one_trace_and_the_figures_of_the_agent(tmp_path: Path) -> None:
    with Collector() as collector, agent(collector.url) as served:
        provider = TracerProvider(resource=Resource({"service.name": "shop"}))
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=collector.url, insecure=True)))
        async with Pair(tmp_path, served.address, top=TOP.format(url=collector.url)) as pair:
            async with AgentClient(pair.address, interceptors=tracing(provider)) as client:
                assert (await client.execute("query", {"sql": "select 1 as one"})).rows() == [{"one": 1}]
                async with aclosing(client.stream("query", {"sql": "select 2 as two"})) as events:
                    assert isinstance([each async for each in events][-1], Result)
                async with aclosing(client.converse([Turn(text="select 3 as three")])) as answers:
                    assert [each.result is not None async for each in answers] == [True]
                summary = await client.ingest([{"a": 1}, {"a": 2}], {"table": "own", "columns": {"a": "INTEGER"}})
                assert summary.written == 2
                with pytest.raises(CallFailure):
                    await client.execute("query", {"sql": "select nothing from nowhere"})
                with pytest.raises(CallFailure):
                    await client.execute("invented")
            page = await asyncio.to_thread(read, served.metrics)
        provider.shutdown()
        assert served.stop() == 0
        spans = collector.wait(6 * 6)
    assert not [line for line in served.log if "Traceback" in line or "detach" in line]

    for method in ("Execute", "ExecuteStream", "Converse", "Ingest"):
        name = f"agent.v1.AgentService/{method}"
        top = [each for each in spans if each.service == "shop" and each.name.strip("/") == name]
        assert len(top) == (3 if method == "Execute" else 1)
        for each in top:
            one = [span for span in spans if span.trace_id == each.trace_id]
            chain = [by(one, service, kind) for service, kind in CHAIN]
            assert len(one) == len(chain)
            assert [span.parent_id for span in chain] == ["", *(span.span_id for span in chain[:-1])]
            assert {span.name.strip("/") for span in chain} == {name}
    # Nobody asked for spans of health checks.
    assert {each.name.strip("/").split("/")[0] for each in spans} == {"agent.v1.AgentService"}

    counted = {
        (sample.labels["operation"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "digital_employee_requests_total"
    }
    assert counted == {
        ("query", "OK"): 3,
        ("query", "INVALID_ARGUMENT"): 1,
        ("_OTHER", "INVALID_ARGUMENT"): 1,
        ("ingest", "OK"): 1,
    }
