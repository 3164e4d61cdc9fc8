"""What an RPC costs on the data path alone: both connections in memory, no sockets, no event loop.

    python -m bench.path [--config relay|full|refused] [--profile]  µs per RPC, best of five rounds
    python -m bench.path --bytecodes [--write]                  bytecodes per RPC of each configuration; --write keeps them

Bytecodes are the same on every machine, so they guard against regressions where durations cannot: tests/house holds them to the
figures in bench/path.json, one set per version of Python. They say nothing about the compiled path, which has none.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import logging
import pstats
import random
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

from sidecar.clock import Deadlines
from sidecar.config.load import load
from sidecar.control.certificates import Certificates
from sidecar.control.generation import Builder
from sidecar.http2 import frames
from sidecar.http2.connection import Connection
from sidecar.listeners import inbound
from sidecar.listeners.peer import Peer
from sidecar.proxy.call import Call
from sidecar.proxy.holding import Holding
from sidecar.runtime import Runtime
from sidecar.telemetry.metrics import Metrics
from sidecar.transport.socket import Flusher

HERE = Path(__file__).resolve().parent
BASELINE = HERE / "path.json"
CONFIGS = ("relay", "full", "refused")
CALLER = "spiffe://mesh.local/agent/client"
PIPELINED = 16
_WIDE = frames.settings({3: 2**31 - 1, 4: 4 * 2**20}) + frames.SETTINGS_ACK + frames.window_update(0, 2**30)


class StillClock:
    """Time that passes only when a round of RPCs has ended; nothing is ever due."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_700_000_000.0 + self.now

    def call_later(self, _: float, __: Callable[[], None]) -> StillClock:
        return self

    def cancel(self) -> None:
        """A timer that was never started."""


class NoTasks:
    """Nothing runs beside the path: endpoints are given their connection instead of making one."""

    def spawn(self, coroutine: Coroutine[Any, Any, Any], _: str) -> None:
        coroutine.close()


def literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


REQUEST = b"".join(
    (
        literal(b":path", b"/bench.Echo/Say"),
        literal(b":authority", b"127.0.0.1:9100"),
        b"\x83\x86",
        literal(b"content-type", b"application/grpc"),
        literal(b"te", b"trailers"),
        literal(b"grpc-accept-encoding", b"identity, deflate, gzip"),
        literal(b"grpc-timeout", b"20100m"),
        literal(b"user-agent", b"grpc-c++/1.51.1 grpc-c/29.0.0 (linux; chttp2)"),
    )
)
MESSAGE = b"\0" + (100).to_bytes(4, "big") + b"x" * 100
HEAD = (
    literal(b":status", b"200")
    + literal(b"content-type", b"application/grpc")
    + literal(b"grpc-accept-encoding", b"identity, deflate, gzip")
)
TRAILERS = literal(b"grpc-status", b"0") + literal(b"grpc-message", b"")


class MemoryPath:
    """One caller and one agent around the routes of a configuration."""

    def __init__(self, name: str, folder: Path) -> None:
        text = (HERE / f"{name}.yaml").read_text().replace("FOLDER", str(folder))
        config = folder / f"{name}.yaml"
        config.write_text("\n".join(line for line in text.splitlines() if not line.lstrip().startswith("tls:")))
        root = load(config, environ={}).root
        self.clock = StillClock()
        self.loop = asyncio.new_event_loop()
        runtime = Runtime(
            clock=self.clock,
            deadlines=Deadlines(self.clock),
            holding=Holding(self.clock),
            random=random.Random(1),
            metrics=Metrics(),
            log=logging.getLogger("bench"),
            tasks=NoTasks(),
        )
        builder = Builder(runtime, Flusher(self.loop), Certificates(self.clock.wall))
        generation = builder.build(root, number=1, source_hash="")
        self.up = Connection(accept=None, wake=_nothing)
        self.up.start()
        self.up.receive(_WIDE, 0.0)
        builder.adopt(generation)
        self._closers = runtime.closers
        for part in generation.parts:
            for endpoint in part.endpoints:
                endpoint._ready(SimpleNamespace(connection=self.up, ready=True))
        edge = generation.edges["inbound"]
        told = inbound.told_agent(CALLER)
        peer = Peer(
            edge,
            identity=CALLER,
            address="127.0.0.1:1",
            certificate=None,
            to_agent=told,
            ends=float("inf"),
            refused=None,
        )
        self.down = Connection(accept=lambda _: Call(peer), wake=_nothing)
        self.down.start()
        self.down.receive(frames.PREFACE + _WIDE, 0.0)
        self.down.dirty = self.up.dirty = True
        self.down.out.clear()
        self.up.out.clear()
        self.done = 0
        # Of the refused ones, the first was not.
        self.serves = name != "refused"
        self.rounds(2)
        self.down.receive(frames.SETTINGS_ACK, 0.0)

    def prepare(self, rounds: int) -> list[tuple[bytes, bytes]]:
        """What the caller and the agent will send."""
        made = []
        for number in range(self.done, self.done + rounds):
            requests, responses = [], []
            for each in range(number * PIPELINED, (number + 1) * PIPELINED):
                stream, text = each * 2 + 1, b"%032x" % (0x9E3779B97F4A7C15 * (each + 1) & (2**128 - 1))
                shrunk = b"\x20" if each == 0 else b""
                block = shrunk + REQUEST + literal(b"traceparent", b"00-" + text + b"-" + text[:16] + b"-00")
                block += literal(b"x-request-id", text)
                requests += [frames.header(len(block), 1, 4, stream), block, frames.header(105, 0, 1, stream), MESSAGE]
                if each and not self.serves:
                    continue
                head = shrunk + HEAD
                responses += [frames.header(len(head), 1, 4, stream), head, frames.header(105, 0, 0, stream), MESSAGE]
                responses += [frames.header(len(TRAILERS), 1, 5, stream), TRAILERS]
            made.append((b"".join(requests), b"".join(responses)))
        self.done += rounds
        return made

    def run(self, prepared: list[tuple[bytes, bytes]]) -> None:
        down, up, clock = self.down, self.up, self.clock
        for requests, responses in prepared:
            down.receive(requests, clock.now)
            b"".join(up.out)
            up.out.clear()
            up.receive(responses, clock.now)
            b"".join(down.out)
            down.out.clear()
            down.dirty = up.dirty = True
            clock.now += 0.001

    def rounds(self, count: int) -> None:
        self.run(self.prepare(count))
        assert not self.down.streams, "RPCs are left over"

    def close(self) -> None:
        for each in self._closers:
            each()
        self.loop.close()


def _nothing() -> None:
    """Nobody is to be woken: the bytes are taken at once."""


def bytecodes(name: str, folder: Path, rounds: int = 4) -> int:
    """Bytecodes per RPC once everything that is remembered is remembered."""
    path = MemoryPath(name, folder)
    path.rounds(4)
    first, prepared = path.prepare(1), path.prepare(rounds)
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            count += 1
        return trace

    former = sys.gettrace()
    try:
        # CPython 3.12 counts nothing the first time that it is asked for opcodes.
        for each in (first, prepared):
            count = 0
            sys.settrace(trace)
            path.run(each)
            sys.settrace(former)
    finally:
        sys.settrace(former)
        path.close()
    assert not path.down.streams, "RPCs are left over"
    return count // (rounds * PIPELINED)


def python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.path", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", default="full", help="which of bench/*.yaml (relay, full, refused)")
    parser.add_argument("--rounds", type=int, default=600, help=f"of {PIPELINED} RPCs each")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--bytecodes", action="store_true")
    parser.add_argument("--write", action="store_true", help="with --bytecodes: keep the figures as the baseline")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as made:
        folder = Path(made)
        if args.bytecodes:
            figures = {name: bytecodes(name, folder) for name in CONFIGS}
            print(json.dumps({python(): figures}))
            if args.write:
                kept = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
                BASELINE.write_text(json.dumps(kept | {python(): figures}, indent=2, sort_keys=True) + "\n")
            return 0
        path = MemoryPath(args.config, folder)
        path.rounds(20)
        best = float("inf")
        profile = cProfile.Profile()
        for _ in range(5):
            prepared = path.prepare(args.rounds)
            if args.profile:
                profile.enable()
            start = time.perf_counter()
            path.run(prepared)
            best = min(best, (time.perf_counter() - start) / (args.rounds * PIPELINED))
            profile.disable()
        path.close()
        if args.profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(30)
        compiled = sys.modules["sidecar.http2.connection"].__file__
        print(
            f"{args.config}: {best * 1e6:.1f} µs per RPC ({'compiled' if str(compiled).endswith('.so') else 'interpreted'})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
