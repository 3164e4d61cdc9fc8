from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sidecar.cli.audit import audit, read_lines, readable
from sidecar.cli.main import sidecar
from sidecar.policies.audit.trail import Trail, TrailSettings


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(audit, [str(one) for one in arguments])


def call(number: int) -> dict[str, object]:
    return {
        "kind": "call",
        "time": "2027-01-15T08:00:00.250Z",
        "identity": "spiffe://mesh.local/agent/web",
        "method": f"/shop.Orders/Place{number}",
        "decision": "deny",
        "rule": "r1",
        "status": "PERMISSION_DENIED",
        "reason": "DENIED_BY_RULE",
        "duration_ms": 1.5,
        "endpoint": "10.0.0.1:1",
        "attempts": 2,
        "request_id": "id-1",
    }


def trail_in(folder: Path, size: int = 1 << 20) -> Trail:
    return Trail(
        folder / "audit.jsonl", lambda: 1.8e9, TrailSettings(rotate_size=size, keep=9, key=folder / "audit.key")
    )


def write(trail: Trail, *numbers: int) -> None:
    trail.append(deque(map(call, numbers)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    trail = trail_in(tmp_path)
    write(trail, *range(4))
    trail.close()
    return trail.path


def test_intact(path: Path) -> None:
    done = run("verify", path, "--key", f"{path.parent}/audit.key.pub")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "intact: 6 records (1 to 6), signed up to 6\n"


def test_broken_names_line_and_kind(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"Place2", b"Place9"))
    done = run("verify", path)
    assert done.exit_code == 1
    assert (
        done.stdout == f"{path}:4: edited: the hash does not fit the line\nBROKEN: 5 records (1 to 6), signed up to 6\n"
    )


def test_json(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    done = run("verify", path, "-o", "json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["intact"] is False
    assert found["breaks"] == [{"file": str(path), "line": 3, "kind": "removed", "text": "record 3 before this line"}]


def test_a_torn_last_line_is_a_warning(tmp_path: Path) -> None:
    trail = Trail(tmp_path / "a.jsonl", lambda: 1.8e9, TrailSettings(rotate_size=1 << 20, keep=9))
    write(trail, 1, 2)
    trail.close()
    os.truncate(trail.path, trail.path.stat().st_size - 10)
    done = run("verify", trail.path)
    assert done.exit_code == 0
    assert "the last line is torn" in done.stderr


def test_a_pattern_may_take_what_lies_beside(path: Path) -> None:
    done = run("verify", path, f"{path}.checkpoint", f"{path}.lock")
    assert done.exit_code == 0
    assert run("verify", f"{path}.lock").exit_code == 2


def test_wrong_usage(path: Path, tmp_path: Path) -> None:
    assert run("verify", tmp_path / "absent").exit_code == 2
    assert run("verify").exit_code == 2
    for key, problem in (
        ("sha256:12", "is no fingerprint"),
        (str(tmp_path / "absent"), "No such file"),
        (str(path), "is no public key"),
    ):
        done = run("verify", path, "--key", key)
        assert done.exit_code == 2
        assert problem in done.stderr


def test_another_key_and_a_number_that_is_not_reached(path: Path) -> None:
    done = run("verify", path, "--key", f"sha256:{'0' * 64}")
    assert done.exit_code == 1
    assert "which is not the key you named" in done.stdout
    assert run("verify", path, "--expect-sequence", 6).exit_code == 0
    assert run("verify", path, "--expect-sequence", 7).exit_code == 1


def test_the_group_knows_it() -> None:
    assert "verify" in CliRunner().invoke(sidecar, ["audit", "--help"]).stdout


# ── tail ──


def test_tail_prints_readable_lines(path: Path) -> None:
    done = run("tail", path, "-n", 2)
    first, second = done.stdout.splitlines()
    assert first == (
        "     5 2027-01-15 08:00:00.250 PERMISSION_DENIED  spiffe://mesh.local/agent/web /shop.Orders/Place3 "
        "deny by r1 DENIED_BY_RULE 1.5 ms at 10.0.0.1:1 2 attempts id=id-1"
    )
    assert second == "     6 2027-01-15 08:00:00.000 checkpoint"


def test_what_is_no_record_is_shown_as_such() -> None:
    assert "no record: 5 bytes" in readable(b"hello")
    assert "no record" in readable(b"[1]")


class Steps:
    """What happens while `tail -f` waits: one step after the other, then nobody reads any more."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = deque(steps)

    def __call__(self) -> None:
        if not self.steps:
            raise KeyboardInterrupt
        self.steps.popleft()()


def methods(path: Path, steps: Steps, last: int = 2) -> list[str]:
    found: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        for line in read_lines(path, last, steps):
            record = json.loads(line)
            if "method" in record:
                found.append(record["method"][-1])
    return found


def test_follow_goes_on_over_rotations(tmp_path: Path) -> None:
    trail = trail_in(tmp_path, size=1800)
    write(trail, 0, 1)
    found = methods(
        trail.path,
        Steps(lambda: write(trail, 2), lambda: write(trail, 3, 4), lambda: write(trail, 5), lambda: write(trail, 6)),
        last=9,
    )
    trail.close()
    assert found == list("0123456")
    assert (tmp_path / "audit.jsonl.1").exists()


def test_follow_waits_for_the_end_of_a_line(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-300])

    def rest() -> None:
        with path.open("ab") as file:
            file.write(content[-300:])

    given: list[bytes] = []
    with pytest.raises(KeyboardInterrupt):
        given.extend(each for each in _collected(read_lines(path, 9, Steps(rest)), given))
    assert b"".join(given) == content


def _collected(lines: object, into: list[bytes]) -> list[bytes]:
    for line in lines:  # type: ignore[attr-defined]
        into.append(line)
    return []
