"""`make bench`: the sidecar and whichever of Envoy, HAProxy and nginx this machine has, in interleaved rounds, as one table.

What counts is the ratio within one run: CPU per RPC of the whole proxy process, user and system, read from /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.peers import found_peers

HERE = Path(__file__).resolve().parent
UPSTREAM = "127.0.0.1:19000"
OURS = 19100


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process and its children that still run."""
    total, stack = 0, [pid]
    while stack:
        each = stack.pop()
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
            for task in os.listdir(f"/proc/{each}/task"):
                stack += map(int, Path(f"/proc/{each}/task/{task}/children").read_text().split())
    return total / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def make_certificates(folder: Path) -> None:
    sidecar = [sys.executable, "-m", "sidecar", "certs"]
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    subprocess.run([*sidecar, "ca", "--out", ".", "--trust-domain", "mesh.local", "--force"], **quiet)
    for name in ("server", "client"):
        identity = f"spiffe://mesh.local/agent/{name}"
        subprocess.run([*sidecar, "issue", name, "--ca", ".", "--out", ".", "--id", identity, "--force"], **quiet)


def our_config(name: str, folder: Path, *, tls: bool, store: str) -> Path:
    text = (HERE / f"{name}.yaml").read_text().replace("FOLDER", str(folder)).replace("STORE", store)
    if not tls:
        text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("tls:"))
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def measure(command: list[str], port: int, args: argparse.Namespace, folder: Path) -> dict:
    with (folder / "proxy.log").open("ab") as log:
        proxy = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder)

    def load(concurrency: int, seconds: float) -> dict:
        extra = [str(folder)] if args.mtls else []
        connections = min(concurrency, args.connections)
        out = subprocess.run(
            [sys.executable, "-m", "bench.load", "talk" if args.streams else "load", f"127.0.0.1:{port}", str(concurrency), str(connections),
             str(seconds), str(args.bytes), args.key, *extra],
            capture_output=True, text=True, check=False, cwd=HERE.parent,
        )
        return json.loads(out.stdout) if out.stdout else {"n": 0, "failed": 1, "error": out.stderr[-500:]}

    try:
        time.sleep(1.5)
        load(args.concurrency, 1)
        before = cpu_seconds(proxy.pid)
        result = load(args.concurrency, args.seconds)
        result["cpu_us"] = (cpu_seconds(proxy.pid) - before) * 1e6 / max(result["n"], 1)
        result["alone_us"] = load(1, 1).get("p50_us", 0)
        result["rss"] = rss_mib(proxy.pid)
        return result
    finally:
        os.killpg(proxy.pid, signal.SIGTERM)
        try:
            proxy.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(proxy.pid, signal.SIGKILL)
            proxy.wait()


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--mtls", action="store_true", help="with client certificates")
    parser.add_argument("--config", default="relay", help="which of bench/*.yaml")
    parser.add_argument("--streams", action="store_true", help="messages back and forth on open streams, not unary RPCs")
    parser.add_argument("--key", default="", choices=["", "new", "same"], help="idempotency keys: a new one per RPC, or one")
    parser.add_argument("--store", default="sqlite:///bench.db", help="for a configuration with a store")
    parser.add_argument("--alone", action="store_true", help="no other proxies")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--bytes", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--connections", type=int, default=4)
    return parser


def main() -> int:
    args = parser().parse_args()
    figures = compare(args)
    table(figures, "message" if args.streams else "RPC")
    return 1 if any(run.get("failed") for run in figures["sidecar"]) else 0


def compare(args: argparse.Namespace) -> dict[str, list[dict]]:
    """By proxy, what each round measured."""
    folder = Path(tempfile.mkdtemp(prefix="sidecar-bench-"))
    make_certificates(folder)
    config = our_config(args.config, folder, tls=args.mtls, store=args.store)
    # The installed command, not this tree's source: after `make compiled` that is the compiled data path.
    installed = str(Path(sys.executable).with_name("sidecar"))
    runs = {"sidecar": ([installed, "run", "-c", str(config), "--log-level", "error"], OURS)}
    if not args.alone:
        runs |= found_peers(folder, UPSTREAM, mtls=args.mtls)
    figures: dict[str, list[dict]] = {name: [] for name in runs}
    with subprocess.Popen([sys.executable, "-m", "bench.load", "echo", UPSTREAM], cwd=HERE.parent, stdout=subprocess.PIPE) as echo:
        try:
            assert echo.stdout is not None
            echo.stdout.readline()
            for number in range(args.rounds):
                for name, (command, port) in runs.items():
                    print(f"round {number + 1} of {args.rounds}: {name}", file=sys.stderr)
                    figures[name].append(measure(command, port, args, folder))
        finally:
            echo.terminate()
    shutil.rmtree(folder, ignore_errors=True)
    return figures


def table(figures: dict[str, list[dict]], what: str) -> None:
    def median(name: str, key: str) -> float:
        return statistics.median(run.get(key, 0) for run in figures[name])

    print(f"{'proxy':10} {f'cpu µs/{what}':>14} {f'{what}s/s':>10} {'p50 µs':>8} {'p99 µs':>8} {'alone p50':>9} {'RSS MiB':>8} {'failed':>7}")
    for name in figures:
        print(
            f"{name:10} {median(name, 'cpu_us'):14.1f} {median(name, 'rps'):10.0f} {median(name, 'p50_us'):8.0f} "
            f"{median(name, 'p99_us'):8.0f} {median(name, 'alone_us'):9.0f} {median(name, 'rss'):8.0f} "
            f"{sum(run.get('failed', 0) for run in figures[name]):7.0f}"
        )
    for name in list(figures)[1:]:
        ratios = [a["cpu_us"] / b["cpu_us"] for a, b in zip(figures["sidecar"], figures[name], strict=True) if b["cpu_us"]]
        if ratios:
            rounds = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"sidecar/{name}: CPU per {what} {statistics.median(ratios):.2f} (rounds {rounds})")


if __name__ == "__main__":
    sys.exit(main())
