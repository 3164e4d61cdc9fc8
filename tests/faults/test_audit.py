"""The audit log against a killed process and a full disk, both real."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from sidecar.policies.audit.trail import Trail, TrailSettings
from sidecar.policies.audit.verify import verify
from sidecar.policies.audit.writer import Writer
from tests.support.clock import FakeClock
from tests.support.processes import Sidecar

_ROOT = Path(__file__).resolve().parents[2]
_WRITES_UNTIL_KILLED = """
import logging, sys
from pathlib import Path
from sidecar.policies.audit.trail import TrailSettings
from sidecar.policies.audit.writer import Writer
from tests.support.clock import FakeClock

folder = Path(sys.argv[1])
settings = TrailSettings(rotate_size=1 << 18, keep=1000, every=200, key=folder / "key")
writer = Writer(folder / "audit.jsonl", FakeClock(), logging.getLogger("killed"), settings)

class Entry:
    def __init__(self, number):
        self.number, self.settings = number, settings
    def describe(self, offset):
        return {"kind": "call", "n": self.number, "text": "x" * 500}

number = 0
while True:
    if len(writer.queue) < 5000:
        writer.queue.append(Entry(number))
        number += 1
        if writer.asleep:
            writer.wake()
    if writer.written and number % 1000 == 0:
        print(writer.written, flush=True)
"""


def _logs(folder: Path) -> list[Path]:
    return [path for path in folder.glob("audit.jsonl*") if path.suffix not in {".lock", ".checkpoint"}]


def _numbers(paths: list[Path]) -> list[int]:
    found = {}
    for path in paths:
        for line in path.read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if "n" in record:
                found[record["sequence"]] = record["n"]
    return [found[sequence] for sequence in sorted(found)]


@pytest.mark.parametrize("enough", [1, 3000, 9000])
def test_kill_9_in_the_middle_of_writing(tmp_path: Path, enough: int) -> None:
    """Whatever was reported as written is there, in order; the next start goes on, and the whole is one intact chain."""
    command = [sys.executable, "-c", _WRITES_UNTIL_KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as process:
        assert process.stdout is not None
        told = 0
        for line in process.stdout:
            told = int(line)
            if told >= enough:
                break
        os.kill(process.pid, signal.SIGKILL)
        process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    assert told >= enough
    before = verify(_logs(tmp_path))
    assert before.is_intact, before.breaks
    written = _numbers(_logs(tmp_path))
    assert len(written) >= told
    assert written == list(range(len(written)))
    again = Trail(
        tmp_path / "audit.jsonl", lambda: 1.8e9, TrailSettings(rotate_size=1 << 18, keep=1000, key=tmp_path / "key")
    )
    again.append(deque([{"kind": "call", "n": len(written)}]))
    again.close()
    after = verify(_logs(tmp_path))
    assert after.is_intact, after.breaks
    assert _numbers(_logs(tmp_path)) == list(range(len(written) + 1))


class _Entry:
    def __init__(self, settings: TrailSettings, number: int) -> None:
        self.settings = settings
        self.number = number

    def describe(self, wall_offset: float) -> dict[str, object]:
        return {"kind": "call", "n": self.number, "text": "x" * 1000}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
        )
        if os.geteuid() == 0
        else None
    )
    if mounted is None or mounted.returncode:
        pytest.skip("mounting needs root; /dev/full is tested all the same")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_whole_records_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    settings = TrailSettings(rotate_size=1 << 24, keep=3, every=50, key=small_disk / "key")
    writer = Writer(small_disk / "audit.jsonl", FakeClock(), logging.getLogger("full"), settings)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 128 * 1024)
    writer.queue.extend(_Entry(settings, number) for number in range(200))
    assert not writer.write()
    assert writer.failures == 1
    assert writer.written + writer.waiting == 200
    held = verify([small_disk / "audit.jsonl"])
    assert held.is_intact, held.breaks
    assert not any("torn" in each for each in held.warnings)
    ballast.unlink()
    writer.queue.clear()
    writer._pending = deque(list(writer._pending)[:20])
    last = writer.written + 20
    assert writer.write()
    writer.finish()
    assert _numbers([small_disk / "audit.jsonl"]) == list(range(last))
    report = verify([small_disk / "audit.jsonl"])
    assert report.is_intact, report.breaks


def test_dev_full_is_counted_and_nothing_is_lost_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    (tmp_path / "audit.jsonl").symlink_to("/dev/full")
    settings = TrailSettings(rotate_size=1 << 24, keep=3)
    writer = Writer(tmp_path / "audit.jsonl", FakeClock(), logging.getLogger("full"), settings)
    writer.queue.append(_Entry(settings, 1))
    assert not writer.write()
    assert not writer.write()
    assert (writer.failures, writer.waiting, writer.written) == (2, 1, 0)
    assert [record.getMessage() for record in caplog.records] == ["audit log cannot be written"]
    writer.finish()
    assert writer.dropped == 1


def test_calls_that_no_route_takes_are_recorded_too(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    config = f"""
admin: {{bind: 127.0.0.1:0}}
listeners:
  - {{name: inbound, direction: inbound, bind: 127.0.0.1:0, routes: [{{name: one, match: {{method: "/a.B/C"}}, to: local}}]}}
policies: {{audit: {{sink: "file://{log}", record: [decisions, calls]}}}}
clusters: {{local: {{endpoints: ["127.0.0.1:1"]}}}}
"""
    with Sidecar(config, tmp_path) as sidecar, grpc.insecure_channel(sidecar.addresses["inbound"]) as channel:
        for method in ("/no.Such/Method", "/a.B/C"):
            with pytest.raises(grpc.RpcError):
                channel.unary_unary(method)(b"", timeout=10)
        assert sidecar.stop() == 0
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [each["reason"] for each in records if each.get("method")] == ["NO_ROUTE", "UPSTREAM_LOST"]
