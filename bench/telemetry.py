"""What an RPC costs with tracing and the access log on, against none, in interleaved rounds.

    python -m bench.telemetry [--rounds 5] [--seconds 3]

CPU per RPC is that of the whole sidecar process, its log and export threads included. The collector is a real one, elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent import futures
from pathlib import Path

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from bench.__main__ import HERE, cpu_seconds

UPSTREAM, OURS, COLLECTOR = "127.0.0.1:19040", 19140, "127.0.0.1:19041"
VARIANTS = {
    "none": "",
    # The load comes with a trace that is not sampled, as most RPCs do.
    "tracing, none sampled": f'  tracing: {{otlp: "http://{COLLECTOR}", sample: 1}}\n',
    "tracing 1 %": f'  tracing: {{otlp: "http://{COLLECTOR}", sample: 1, parent_based: false}}\n',
    "access log 1 %": "  access_log: {sample: 1}\n",
    "access log": "  access_log: {sample: 100}\n",
    "tracing 1 %, access log": f'  tracing: {{otlp: "http://{COLLECTOR}", sample: 1, parent_based: false}}\n  access_log: {{sample: 100}}\n',
}


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Counts."""

    def __init__(self) -> None:
        self.spans = 0

    def Export(self, request, context):
        self.spans += sum(len(scope.spans) for each in request.resource_spans for scope in each.scope_spans)
        return trace_service_pb2.ExportTraceServiceResponse()


def config(name: str, policies: str, folder: Path) -> Path:
    text = (HERE / "relay.yaml").read_text().replace("19000", UPSTREAM[-5:]).replace("19100", str(OURS))
    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("tls:")) + "\n"
    path = folder / f"{name.replace(' ', '-').replace('%', 'percent').replace(',', '')}.yaml"
    path.write_text(text.replace("policies:\n", f"policies:\n{policies}"))
    return path


def measure(command: list[str], args: argparse.Namespace, folder: Path) -> dict:
    with (folder / "proxy.log").open("wb") as log:
        proxy = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)

    def load(seconds: float) -> dict:
        numbers = map(str, (args.concurrency, args.connections, seconds, args.bytes))
        command = [sys.executable, "-m", "bench.load", "load", f"127.0.0.1:{OURS}", *numbers, ""]
        out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parent)
        return json.loads(out.stdout)

    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", OURS), 1):
                break
            time.sleep(0.1)
        load(1)
        before = cpu_seconds(proxy.pid)
        result = load(args.seconds)
        # What the call left to the threads belongs to it.
        time.sleep(1.2)
        result["cpu_us"] = (cpu_seconds(proxy.pid) - before) * 1e6 / result["n"]
        return result
    finally:
        proxy.terminate()
        proxy.wait(20)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.telemetry", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--bytes", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--connections", type=int, default=4)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sidecar-bench-"))
    installed = str(Path(sys.executable).with_name("sidecar"))
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    server.add_insecure_port(COLLECTOR)
    server.start()
    figures: dict[str, list[dict]] = {name: [] for name in VARIANTS}
    echo = [sys.executable, "-m", "bench.load", "echo", UPSTREAM]
    with subprocess.Popen(echo, cwd=HERE.parent, stdout=subprocess.PIPE) as upstream:
        try:
            upstream.stdout.readline()
            for number in range(args.rounds):
                for name, policies in VARIANTS.items():
                    print(f"round {number + 1} of {args.rounds}: {name}", file=sys.stderr)
                    command = [installed, "run", "-c", str(config(name, policies, folder)), "--log-level", "info"]
                    figures[name].append(measure(command, args, folder))
        finally:
            upstream.terminate()
    server.stop(1).wait()
    print(f"{'':26} {'cpu µs/RPC':>11} {'RPCs/s':>8} {'p99 µs':>8} {'against none':>13}  (each round)")
    for name, runs in figures.items():
        ratios = [run["cpu_us"] / none["cpu_us"] for run, none in zip(runs, figures["none"], strict=True)]
        cpu, rps, p99 = (statistics.median(run[key] for run in runs) for key in ("cpu_us", "rps", "p99_us"))
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{name:26} {cpu:11.1f} {rps:8.0f} {p99:8.0f} {statistics.median(ratios):13.3f}  ({each})")
    print(f"spans received: {collector.spans}; RPCs that failed: {sum(run['failed'] for each in figures.values() for run in each)}")
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
