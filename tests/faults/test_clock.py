"""The wall clock is set by an hour, both ways: what lasts goes by the monotonic clock, what is dated goes by the new time."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.control.wall_clock import WallClock
from sidecar.listeners.listener import Direction, Inlet, Listener, ListenerOptions
from sidecar.listeners.outbound import identify, told_agent
from sidecar.listeners.peer import Peer
from sidecar.policies.audit.trail import Trail, TrailSettings
from sidecar.policies.audit.verify import verify
from sidecar.policies.deadline import Deadline, DeadlineConfig
from sidecar.transport.socket import Flusher
from tests.support.clock import FakeClock
from tests.support.scene import Scene

HOUR = 3600.0
both_ways = pytest.mark.parametrize("seconds", [HOUR, -HOUR])


@both_ways
def test_deadlines_neither_come_early_nor_late(seconds: float) -> None:
    scene = Scene(
        policies=lambda runtime: [Deadline(DeadlineConfig.model_validate({"default": "5s"}, strict=False), runtime)]
    )
    stream = scene.call()
    scene.clock.jump(seconds)
    scene.advance(4.5)
    assert not stream.seen.trailers
    assert not scene.outcomes
    scene.advance(1.0)
    assert [outcome.code.name for outcome in scene.outcomes] == ["DEADLINE_EXCEEDED"]
    assert not scene.leaks()


@both_ways
def test_the_chain_of_the_audit_log_still_verifies(tmp_path: Path, seconds: float) -> None:
    clock = FakeClock()
    trail = Trail(
        tmp_path / "audit.jsonl", clock.wall, TrailSettings(rotate_size=1 << 18, keep=10, key=tmp_path / "key")
    )
    trail.append(deque([{"kind": "call", "n": 1}]))
    clock.jump(seconds)
    trail.append(deque([{"kind": "call", "n": 2}]))
    trail.close()
    report = verify([tmp_path / "audit.jsonl"])
    assert report.is_intact, report.breaks


@both_ways
async def test_certificates_of_connected_callers_are_judged_by_the_new_time(seconds: float) -> None:
    scene = Scene()
    clock = scene.clock
    with socket.socket() as listening:
        listener = Listener(
            "inbound",
            listening,
            edge=scene.edge,
            direction=Direction(lambda certificate: identify(certificate, "node"), told_agent),
            options=ListenerOptions(),
            context=lambda: None,
            runtime=scene.runtime,
            flusher=Flusher(asyncio.get_running_loop()),
        )
        certificate: Any = SimpleNamespace(not_after=clock.wall() + HOUR / 2)
        peer = Peer(
            scene.edge,
            identity="spiffe://mesh.local/agent/caller",
            address="10.0.0.9:5000",
            certificate=certificate,
            to_agent=b"",
            ends=clock.monotonic() + HOUR / 2,
            refused=None,
        )
        inlet = Inlet(listener)
        inlet.peer = peer
        listener.connections.add(inlet)
        watch = WallClock(clock, lambda _: listener.look_ahead(listener.ahead))
        assert peer.refusal(clock.monotonic()) is None
        clock.jump(seconds)
        watch.look()
        assert (peer.refusal(clock.monotonic()) is not None) == (seconds > 0)
        clock.jump(-seconds)
        watch.look()
        assert peer.refusal(clock.monotonic()) is None, "a clock that was wrong for a moment refuses nobody for ever"
        listener.connections.clear()
        listener.stop_accepting()
